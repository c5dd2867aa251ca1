"""Sentences of one pattern in two languages, and what can be asked about them.

    "the happy farmer buys a red car"           快乐的农民买红色的汽车
    "the dog did not chase a cat"               狗没追赶猫
    "does the nurse drink cold water?"          护士喝冷的水吗？

    sample_sentence(Random(0), "zh")            # a sensible sentence
    write(read("狗追赶了猫"), "en")               # "the dog chased a cat"

What it is. The family "sentence". Somebody does something to something: a subject, a verb and an object, each noun with
an adjective or without, now or in the past, affirmed or denied, stated or asked. `Sentence` is that meaning; `write`
puts it into either language and `read` finds it again.

Why so. A sentence is read by its meaning, and everything that is asked about it (who acts, the past, the question, the
translation) is a change of the meaning that is written again. So grammar has one rule in one place: a reading counts
only if writing it gives the same text. Articles are fixed, "the" for the subject and "a" for the object, so that a
Chinese sentence, which has none, has one translation.

Conventions. 的, 了, 不, 没 and 吗 are words of their own when words are counted. The mood is that of the adjectives. A
sentence has no capital and no full stop; a question has its mark.

What it leaves out. Plurals, pronouns, other tenses, more than one adjective, sentences without an object.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from random import Random

from instruct.world import lexicon
from instruct.world.lexicon import Word
from instruct.world.operation import Operation, Phrases, Undefined, language_of

# What sentences are made of ------------------------------------------------------------------------------------------

PEOPLE = ("family", "job")
#: What is done, and to which kinds of things.
ACTIONS = {
    "eat": "fruit vegetable food",
    "drink": "beverage",
    "chase": "animal family job",
    "watch": "animal nature job vehicle",
    "touch": "animal tool furniture nature",
    "catch": "animal",
    "hide": "fruit food tool clothing",
    "buy": "fruit vegetable food clothing furniture tool vehicle instrument",
    "sell": "fruit vegetable food clothing furniture tool vehicle instrument",
    "wash": "fruit vegetable clothing vehicle body",
    "draw": "animal nature building vehicle",
    "take": "fruit tool clothing instrument",
    "push": "vehicle furniture",
    "pull": "vehicle furniture animal",
    "throw": "fruit tool",
    "cut": "fruit vegetable",
    "steal": "fruit food clothing vehicle",
    "boil": "vegetable beverage",
    "help": "animal family job",
    "carry": "furniture tool instrument",
    "repair": "vehicle furniture tool instrument building",
    "use": "tool instrument vehicle",
}
#: What animals do, too.
BY_ANIMALS = ("eat", "drink", "chase", "watch", "touch", "catch", "hide")
#: Which adjectives sound natural with which kinds of nouns.
QUALITIES = {
    "family job": "happy sad strong weak rich poor brave clever stupid kind cruel honest polite rude lazy sick",
    "animal": "big small fast slow happy sad strong weak brave clever fierce gentle dirty sick beautiful ugly",
    "fruit vegetable": "big small fresh rotten cheap expensive clean dirty soft hard",
    "food beverage": "hot cold cheap expensive",
    "clothing furniture tool vehicle": "new old big small cheap expensive clean dirty red blue green black white",
    "instrument": "new old cheap expensive beautiful",
    "building nature": "big small beautiful",
    "body": "big small clean dirty",
}
MARKS = {"en": "?", "zh": "？"}

_NOUNS = tuple(word for word in lexicon.WORDS if word.category not in ("colour", "verb", "adjective"))
_ADJECTIVES = tuple(word for word in lexicon.WORDS if word.category in ("colour", "adjective"))
_VERBS = tuple(lexicon.known(verb) for verb in ACTIONS)


@dataclass(frozen=True)
class Sentence:
    """What a sentence means, in no language; `quality` and `other_quality` describe subject and object."""

    subject: Word
    verb: Word
    object: Word
    quality: Word | None = None
    other_quality: Word | None = None
    past: bool = False
    negative: bool = False
    question: bool = False

    @property
    def qualities(self) -> list[Word]:
        return [word for word in (self.quality, self.other_quality) if word]


# Writing and reading -------------------------------------------------------------------------------------------------


def tokens(sentence: Sentence, language: str) -> list[str]:
    """Its words, without the question mark."""
    return _english_tokens(sentence) if language == "en" else _chinese_tokens(sentence)


def write(sentence: Sentence, language: str) -> str:
    joined = (" " if language == "en" else "").join(tokens(sentence, language))
    return joined + MARKS[language] * sentence.question


def _english_tokens(sentence: Sentence) -> list[str]:
    verb = sentence.verb
    subject = ["the", *_described(sentence.quality, sentence.subject)]
    thing = _described(sentence.other_quality, sentence.object)
    if sentence.object.plural:
        thing.insert(0, article(thing[0]))
    if not sentence.negative and not sentence.question:
        return [*subject, verb.past if sentence.past else verb.third, *thing]
    helper = ["did" if sentence.past else "does"]
    head = helper + subject if sentence.question else subject + helper
    return [*head, *["not"] * sentence.negative, verb.name.en, *thing]


def _described(quality: Word | None, noun: Word) -> list[str]:
    return [quality.name.en, noun.name.en] if quality else [noun.name.en]


def article(word: str) -> str:
    """By the sound that the word begins with."""
    return "an" if word == "honest" or (word[0] in "aeiou" and word != "uniform") else "a"


def _chinese_tokens(sentence: Sentence) -> list[str]:
    subject, thing = (
        [*([quality.name.zh, "的"] if quality else []), noun.name.zh]
        for quality, noun in ((sentence.quality, sentence.subject), (sentence.other_quality, sentence.object))
    )
    before = ["没" if sentence.past else "不"] * sentence.negative
    behind = ["了"] * (sentence.past and not sentence.negative)
    return [*subject, *before, sentence.verb.name.zh, *behind, *thing, *["吗"] * sentence.question]


@cache
def _patterns() -> dict[str, tuple[re.Pattern, ...]]:
    """For each language what a sentence looks like; what agrees with what is left to `read`."""
    noun, quality, verb = (_any(word.name.en for word in words) for words in (_NOUNS, _ADJECTIVES, _VERBS))
    form = _any(form for word in _VERBS for form in (word.third, word.past))
    subject = f"the (?:(?P<quality>{quality}) )?(?P<subject>{noun})"
    thing = f"(?:an? )?(?:(?P<other>{quality}) )?(?P<object>{noun})"
    english = (
        re.compile(f"{subject} (?:(?P<helper>does|did) (?P<no>not) )?(?P<verb>{verb}|{form}) {thing}"),
        re.compile(rf"(?P<helper>does|did) {subject} (?P<no>not )?(?P<verb>{verb}) {thing}(?P<ask>\?)"),
    )
    noun, quality, verb = (_any(word.name.zh for word in words) for words in (_NOUNS, _ADJECTIVES, _VERBS))
    subject = f"(?:(?P<quality>{quality})的)?(?P<subject>{noun})"
    thing = f"(?:(?P<other>{quality})的)?(?P<object>{noun})"
    chinese = re.compile(rf"{subject}(?P<no>[不没])?(?P<verb>{verb})(?P<helper>了)?{thing}(?P<ask>吗[?？])?")
    return {"en": english, "zh": (chinese,)}


def _any(words: Iterable[str]) -> str:
    return "|".join(sorted(set(words), key=lambda word: (-len(word), word)))


@cache
def _verb_forms() -> dict[str, Word]:
    return {form: word for word in _VERBS for form in (*word.name, word.third, word.past)}


def read(text: str) -> Sentence:
    """What `text` means. Raises Undefined where it is no sentence of this grammar."""
    language = language_of(text) or "en"
    text = re.sub("[?？]$", MARKS[language], text.strip().rstrip(".。"))
    for pattern in _patterns()[language]:
        found = pattern.fullmatch(text)
        if found:
            sentence = _meaning(found)
            if write(sentence, language) == text:
                return sentence
    raise Undefined(f"{text!r} is no sentence of this world")


def _meaning(found: re.Match) -> Sentence:
    part = {"ask": None, **found.groupdict()}
    verb = _verb_forms()[part["verb"]]
    finite = part["helper"] is None and part["verb"] == verb.past
    return Sentence(
        lexicon.known(part["subject"]),
        verb,
        lexicon.known(part["object"]),
        lexicon.find(part["quality"] or ""),
        lexicon.find(part["other"] or ""),
        past=finite or part["helper"] in ("did", "了") or part["no"] == "没",
        negative=bool(part["no"]),
        question=bool(part["ask"]),
    )


# What is asked about them --------------------------------------------------------------------------------------------


def negated(sentence: Sentence) -> Sentence:
    if sentence.negative:
        raise Undefined("the sentence is negative already")
    return replace(sentence, negative=True)


def swapped(sentence: Sentence) -> Sentence:
    """Adjectives go with their nouns."""
    return replace(
        sentence,
        subject=sentence.object,
        object=sentence.subject,
        quality=sentence.other_quality,
        other_quality=sentence.quality,
    )


def mood(sentence: Sentence) -> int:
    """1, 0 or -1: whether good or bad adjectives are more."""
    total = sum(word.sentiment or 0 for word in sentence.qualities)
    return (total > 0) - (total < 0)


def translated(text: str, language: str) -> str:
    if language_of(text) == language:
        raise Undefined("the sentence is in that language already")
    return write(read(text), language)


def change(how: Callable[[Sentence], Sentence]) -> Callable[[str, object, str], str]:
    """The function of an operation that changes the meaning."""
    return lambda x, k, language: write(how(read(x)), language)


# Inputs --------------------------------------------------------------------------------------------------------------


def sample_sentence(rng: Random, language: str) -> str:
    """A sensible sentence; most are statements about now."""
    verb = rng.choice(tuple(ACTIONS))
    actors = rng.choice((*PEOPLE, "animal")) if verb in BY_ANIMALS else rng.choice(PEOPLE)
    subject = _noun(rng, actors)
    thing = subject
    while thing == subject:
        thing = _noun(rng, rng.choice(ACTIONS[verb].split()))
    return write(
        Sentence(
            subject,
            lexicon.known(verb),
            thing,
            _quality(rng, subject),
            _quality(rng, thing),
            past=rng.random() < 0.3,
            negative=rng.random() < 0.15,
            question=rng.random() < 0.15,
        ),
        language,
    )


def _noun(rng: Random, category: str) -> Word:
    return rng.choice([word for word in lexicon.WORDS if word.category == category])


def _quality(rng: Random, noun: Word) -> Word | None:
    if rng.random() < 0.5:
        return None
    qualities = next(words for kinds, words in QUALITIES.items() if noun.category in kinds.split())
    return lexicon.known(rng.choice(qualities.split()))


# How people ask for them ---------------------------------------------------------------------------------------------

WORDS = (
    Operation(
        "word_count", "sentence", "sentence", "number", lambda x, k, language: len(tokens(read(x), language)),
        Phrases(("count the words in {x}", "count how many words {x} has", "see how many words make up {x}"),
                ("the number of words in {x}", "the word count of {x}")),
        Phrases(("数一数{x}有几个词", "统计{x}的词数", "看看{x}由多少个词组成"), ("{x}的词数", "{x}所含词的个数")),
    ),
    Operation(
        "sentence_words", "sentence", "sentence", "words", lambda x, k, language: tokens(read(x), language),
        Phrases(("split {x} into words", "break {x} up into words", "take {x} apart word by word"),
                ("the list of words in {x}", "the word sequence of {x}")),
        Phrases(("把{x}切分成词", "给{x}分词", "逐词拆开{x}"), ("{x}的词列表", "{x}的词序列")),
    ),
    Operation(
        "subject", "sentence", "sentence", "word", lambda x, k, language: read(x).subject.name.text(language),
        Phrases(("name the subject of {x}", "say who or what acts in {x}", "pick the acting noun out of {x}"),
                ("the subject of {x}", "the grammatical subject of {x}")),
        Phrases(("指出{x}的主语", "说说{x}里是谁在做事", "挑出{x}中动作的发出者"), ("{x}的主语", "{x}中动作的发出者")),
    ),
    Operation(
        "verb", "sentence", "sentence", "word", lambda x, k, language: read(x).verb.name.text(language),
        Phrases(("name the verb of {x} in its base form", "say which action takes place in {x}",
                 "pick the verb out of {x} in its base form"),
                ("the base form of the verb in {x}", "the dictionary form of the verb in {x}")),
        Phrases(("指出{x}的谓语动词", "说说{x}里发生了什么动作", "挑出{x}中表示动作的词"),
                ("{x}的谓语动词", "{x}中表示动作的词")),
    ),
    Operation(
        "object", "sentence", "sentence", "word", lambda x, k, language: read(x).object.name.text(language),
        Phrases(("name the object of {x}", "say whom or what the action in {x} is done to",
                 "pick the affected noun out of {x}"),
                ("the object of {x}", "the grammatical object of {x}")),
        Phrases(("指出{x}的宾语", "说说{x}里的动作是对谁做的", "挑出{x}中动作的承受者"),
                ("{x}的宾语", "{x}中动作的承受者")),
    ),
    Operation(
        "adjectives", "sentence", "sentence", "words",
        lambda x, k, language: [word.name.text(language) for word in read(x).qualities],
        Phrases(("collect the adjectives in {x}", "list every adjective in {x}",
                 "pick all the describing words out of {x}"),
                ("the list of adjectives in {x}", "the adjectives in {x}")),
        Phrases(("列出{x}里的形容词", "收集{x}中用来描写的词", "把{x}的形容词都挑出来"),
                ("{x}里的形容词", "{x}中用来描写的词")),
    ),
)

FORMS = (
    Operation(
        "negate_sentence", "sentence", "sentence", "sentence", change(negated),
        Phrases(("negate {x}", "turn {x} into a negative sentence", "put a not into {x}"),
                ("the negation of {x}", "the negative form of {x}")),
        Phrases(("否定{x}", "把{x}改成否定句", "给{x}加上否定"), ("{x}的否定句", "{x}的否定形式")),
    ),
    Operation(
        "to_past", "sentence", "sentence", "sentence", change(lambda sentence: replace(sentence, past=True)),
        Phrases(("rewrite {x} in the past tense", "move {x} into the past", "tell {x} as a past event"),
                ("the past-tense version of {x}", "the version of {x} that tells of the past")),
        Phrases(("把{x}改写成过去时", "让{x}说的是过去的事", "将{x}当作往事来说"),
                ("{x}的过去时版本", "{x}的过去时说法")),
    ),
    Operation(
        "to_question", "sentence", "sentence", "sentence", change(lambda sentence: replace(sentence, question=True)),
        Phrases(("turn {x} into a question", "rewrite {x} as a yes-no question", "make a question out of {x}"),
                ("the question form of {x}", "the yes-no question made from {x}")),
        Phrases(("把{x}改成疑问句", "将{x}变为一般疑问句", "用{x}来提问"), ("{x}的疑问句", "{x}的疑问形式")),
    ),
    Operation(
        "swap_roles", "sentence", "sentence", "sentence", change(swapped),
        Phrases(("swap the subject and the object of {x}", "let the subject and the object of {x} trade places",
                 "exchange who acts and who is acted on in {x}"),
                ("the version of {x} with subject and object swapped", "the role-swapped version of {x}")),
        Phrases(("交换{x}的主语和宾语", "让{x}的主语与宾语互换", "把{x}中的主宾对调"),
                ("{x}主宾互换的句子", "{x}主语宾语对调的形式")),
    ),
    Operation(
        "drop_adjectives", "sentence", "sentence", "sentence",
        change(lambda sentence: replace(sentence, quality=None, other_quality=None)),
        Phrases(("remove the adjectives from {x}", "strip {x} of its adjectives",
                 "shorten {x} by leaving out every adjective"),
                ("the adjective-free version of {x}", "the version of {x} without adjectives")),
        Phrases(("去掉{x}里的形容词", "把{x}的定语删掉", "略去{x}中的形容词"),
                ("{x}去掉形容词所剩的句子", "{x}不带形容词的说法")),
    ),
)

MEANING = (
    Operation(
        "mood", "sentence", "sentence", "word",
        lambda x, k, language: lexicon.SENTIMENTS[mood(read(x))].text(language),
        Phrases(("judge the mood of {x}", "say what attitude {x} expresses", "analyse the sentiment expressed in {x}"),
                ("the overall mood of {x}", "the attitude expressed in {x}")),
        Phrases(("判断{x}的情绪", "说说{x}流露出什么态度", "给{x}作情感分析"), ("{x}的情绪", "{x}的整体情感")),
    ),
    Operation(
        "sentence_to_english", "sentence", "sentence", "sentence", lambda x, k, language: translated(x, "en"),
        Phrases(("translate the whole of {x} into English", "render {x} as an English sentence",
                 "rewrite {x} in English"),
                ("the English version of {x}", "the English rendering of {x}")),
        Phrases(("把{x}整句译成英文", "将{x}改写成英文句子", "用一个英语句子表达{x}"),
                ("{x}的英文译文", "{x}的英文版本")),
    ),
    Operation(
        "sentence_to_chinese", "sentence", "sentence", "sentence", lambda x, k, language: translated(x, "zh"),
        Phrases(("translate the whole of {x} into Chinese", "render {x} as a Chinese sentence",
                 "rewrite {x} in Chinese"),
                ("the Chinese version of {x}", "the Chinese rendering of {x}")),
        Phrases(("把{x}整句译成中文", "将{x}改写成中文句子", "用一个汉语句子表达{x}"),
                ("{x}的中文译文", "{x}的中文版本")),
    ),
)

OPERATIONS: tuple[Operation, ...] = WORDS + FORMS + MEANING
