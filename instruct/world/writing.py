"""Constrained writing: tasks with many right answers, each of which a program can tell from a wrong one.

What it is. The family "writing": words, numbers, a calculation or a sentence under a condition. `holds` decides about
any answer; `run` gives one that is right, so that a task without an answer (Undefined) is known before it is set.

Why so. Elsewhere in this world a question has one answer and copying it is all there is to learn. Here the answer is
free, and only the condition is checked: what a model writes is new, and still right or wrong. To make that worth
something, words must be words of the lexicon, in the language of the input, and all of them different, and a sentence
must be one that `instruct.world.sentences` can read.

What it leaves out. Style, rhyme, length of texts; and so these operations can only come last in a chain.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, islice

from instruct.world import lexicon, sentences
from instruct.world.numbers import LARGEST, bounded, evaluate
from instruct.world.operation import Operation, Phrases, Undefined, language_of

AMOUNTS = (2, 3)  # how many words or numbers are asked for
ENGLISH_AMOUNTS = {2: "two", 3: "three"}
CHINESE_AMOUNTS = {2: "两", 3: "三"}

# What is right -------------------------------------------------------------------------------------------------------


def some_of(candidates: list, amount: int) -> list:
    """The first `amount` of them. Raises Undefined where there are fewer."""
    if len(candidates) < amount:
        raise Undefined(f"there are no {amount} of these")
    return candidates[:amount]


def are_different(answer: list, amount: int) -> bool:
    return len(answer) == amount == len(set(answer))


def vocabulary(language: str) -> list[str]:
    """All words of the lexicon, by category."""
    return [word for category in lexicon.CATEGORIES for word in lexicon.words_of(category, language)]


def starting_with(letter: str) -> list[str]:
    """Words of the lexicon that begin with a letter or with a Chinese character."""
    if len(letter) != 1:
        raise Undefined(f"{letter!r} is not one letter")
    return [word for word in vocabulary(language_of(letter) or "en") if word[0].lower() == letter.lower()]


def of_the_same_length(word: str) -> list[str]:
    """The other words of the lexicon that have as many letters or characters."""
    return [other for other in vocabulary(language_of(word) or "en") if len(other) == len(word) and other != word]


def of_the_same_kind(word: str) -> list[str]:
    """The other words of its category. Raises Undefined for a word that the lexicon does not know."""
    words = lexicon.words_of(lexicon.category(word), language_of(word) or "en")
    return [other for other in words if other != word]


def odd_above(number: int, amount: int) -> list[int]:
    return [bounded(odd) for odd in islice(count(number + 1 + number % 2, 2), amount)]


def adding_up_to(number: int, amount: int) -> list[int]:
    """Different numbers: one or two small ones and what is left."""
    for small in ([1, 2], [-1, -2]):
        left = number - sum(small[: amount - 1])
        if left not in small and abs(left) <= LARGEST:
            return [*small[: amount - 1], left]
    raise AssertionError("one of the two ways leaves a number that is neither small nor too large")


def calculation_of(number: int) -> str:
    return f"{number - 1} + 1" if number > 0 else f"0 - {-number}"


def is_calculation_of(number: int, text: str) -> bool:
    try:
        return evaluate(text) == number
    except Undefined:
        return False


def sentence_with(word: str) -> str:
    """A painter draws it, draws a dog that is so, or does not do it. Raises Undefined where that is no sentence."""
    entry, language = lexicon.known(word), language_of(word) or "en"
    painter, draw, dog = map(lexicon.known, ("painter", "draw", "dog"))
    if entry.category == "verb":
        things = lexicon.words_of(sentences.ACTIONS.get(entry.name.en, "animal").split()[0], "en")
        sentence = sentences.Sentence(painter, entry, lexicon.known(things[0]), negative=True)
    elif entry.category in ("adjective", "colour"):
        sentence = sentences.Sentence(painter, draw, dog, other_quality=entry)
    else:
        sentence = sentences.Sentence(painter, draw, entry)
    text = sentences.write(sentence, language)
    if not is_sentence_with(word, text):
        raise Undefined(f"{word!r} has no place in a sentence")
    return text


def is_sentence_with(word: str, text: str) -> bool:
    """Whether it is a sentence in the language of the word, and has it as one of its words."""
    language = language_of(word) or "en"
    try:
        return language_of(text) == language and word in sentences.tokens(sentences.read(text), language)
    except Undefined:
        return False


def words_task(
    name: str, takes: str, right: Callable[[str], list[str]], english: tuple[str, ...], chinese: tuple[str, ...]
) -> Operation:
    """An operation that asks for {k} different words among those that are `right` for the input."""
    return Operation(
        name, "writing", takes, "words",
        lambda x, k, language: some_of(right(x), k),
        Phrases(english, (), ENGLISH_AMOUNTS), Phrases(chinese, (), CHINESE_AMOUNTS), AMOUNTS,
        lambda x, k, language, answer: are_different(answer, k) and set(answer) <= set(right(x)),
    )  # fmt: skip


# How people ask for it -----------------------------------------------------------------------------------------------

WORDS = (
    words_task(
        "words_starting", "letter", starting_with,
        ("write {k} different words that begin with {x}", "think of {k} different words starting with {x}",
         "come up with {k} different words whose initial is {x}"),
        ("写{k}个以{x}开头的不同的词", "想出{k}个开头是{x}的不同的词", "用{x}作开头造{k}个不同的词"),
    ),
    words_task(
        "same_length", "word", of_the_same_length,
        ("write {k} other words of the same length as {x}", "think of {k} other words with as many letters as {x}",
         "come up with {k} other words exactly as long as {x}"),
        ("写{k}个与{x}字数相同的其他词", "想出{k}个和{x}一样长的其他词", "举{k}个字数跟{x}相等的其他词"),
    ),
    words_task(
        "same_kind", "word", of_the_same_kind,
        ("write {k} other words of the same kind as {x}", "think of {k} other words that belong with {x}",
         "come up with {k} other words from the category of {x}"),
        ("写{k}个与{x}同类的其他词", "想出{k}个和{x}属于同一类的其他词", "举{k}个跟{x}同类的其他例子"),
    ),
)  # fmt: skip

NUMBERS = (
    Operation(
        "odd_above", "writing", "number", "numbers", lambda x, k, language: odd_above(x, k),
        Phrases(("write {k} different odd numbers greater than {x}", "think of {k} different odd numbers above {x}",
                 "come up with {k} different odd numbers that exceed {x}"), (), ENGLISH_AMOUNTS),
        Phrases(("写{k}个大于{x}的不同的奇数", "想出{k}个比{x}大的不同的奇数", "举{k}个超过{x}的不同的奇数"),
                (), CHINESE_AMOUNTS),
        AMOUNTS,
        lambda x, k, language, answer: are_different(answer, k) and all(odd % 2 and odd > x for odd in answer),
    ),
    Operation(
        "adding_up_to", "writing", "number", "numbers", lambda x, k, language: adding_up_to(x, k),
        Phrases(("write {k} different numbers that add up to {x}", "think of {k} different numbers whose sum is {x}",
                 "come up with {k} different numbers that total {x}"), (), ENGLISH_AMOUNTS),
        Phrases(("写{k}个加起来等于{x}的不同的数", "想出{k}个总和为{x}的不同的数", "把{x}写成{k}个不同的数相加"),
                (), CHINESE_AMOUNTS),
        AMOUNTS,
        lambda x, k, language, answer: are_different(answer, k) and sum(answer) == x,
    ),
    Operation(
        "calculation_of", "writing", "number", "expression", lambda x, k, language: calculation_of(x),
        Phrases(("write a calculation whose value is {x}", "think of an expression that comes to {x}",
                 "come up with a sum or product that makes {x}")),
        Phrases(("写一个值等于{x}的算式", "想出一个得数是{x}的算式", "编一道答案为{x}的算式")),
        holds=lambda x, k, language, answer: is_calculation_of(x, answer),
    ),
)  # fmt: skip

SENTENCES = (
    Operation(
        "sentence_with", "writing", "word", "sentence", lambda x, k, language: sentence_with(x),
        Phrases(("write a sentence that contains {x}", "make up a sentence in which {x} occurs",
                 "come up with a sentence that uses {x}")),
        Phrases(("用{x}写一个句子", "造一个含有{x}的句子", "编一句用到{x}的话")),
        holds=lambda x, k, language, answer: is_sentence_with(x, answer),
    ),
)  # fmt: skip

OPERATIONS: tuple[Operation, ...] = WORDS + NUMBERS + SENTENCES
