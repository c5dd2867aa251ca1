"""Facts, words and sentences: every operation on examples by hand, in both languages; Undefined where it must be."""

import re
from collections import defaultdict
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct.world import facts, lexicon, sentences, tables, words
from instruct.world.operation import Undefined, language_of
from instruct.world.program import Program, World, operations

WORLD = World(facts.OPERATIONS + words.OPERATIONS + sentences.OPERATIONS)

EXAMPLES = {  # input = output, computed by hand; "input =zh= output" where the instruction has to be Chinese
    "capital": "France = Paris, 法国 = 巴黎, Japan = Tokyo",
    "country_of_capital": "Paris = France, 北京 = 中国, Canberra = Australia",
    "currency": "Poland = zloty, 日本 = 日元, Egypt = pound",
    "continent": "Peru = Americas, 埃及 = 非洲, Mongolia = Asia",
    "language": "Austria = German, 巴西 = 葡萄牙语, Egypt = Arabic",
    "symbol": "iron = Fe, 金 = Au, sodium = Na",
    "element_of_symbol": "Fe = iron, Fe =zh= 铁, K = potassium",
    "atomic_number": "carbon = 6, 氧 = 8, uranium = 92",
    "element_of_number": "1 = hydrogen, 79 =zh= 金, 20 = calcium",
    "young": "dog = puppy, 青蛙 = 蝌蚪, sheep = lamb",
    "sound": "cat = meow, 牛 = 哞哞, tiger = roar",
    "legs": "spider = 8, 蛇 = 0, ant = 6, 鹅 = 2",
    "animal_class": "whale = mammal, 青蛙 = 两栖动物, penguin = bird",
    "next_planet": "Earth = Mars, 水星 = 金星",
    "planet_position": "Earth = 3, 海王星 = 8",
    "month_number": "May = 5, 十二月 = 12",
    "month_of_number": "5 = May, 12 =zh= 十二月",
    "next_month": "December = January, 五月 = 六月",
    "previous_month": "January = December, 五月 = 四月",
    "days_in_month": "February = 28, 九月 = 30, August = 31",
    "season": "March = spring, 十二月 = 冬天, November = autumn",
    "next_weekday": "Sunday = Monday, 星期二 = 星期三",
    "previous_weekday": "Monday = Sunday, 星期二 = 星期一",
    "is_weekend": "Saturday = yes, 星期日 = 是, Friday = no, 星期一 = 否",
    "letter_count": "apple = 5, 苹果 = 2, forty-two = 8",
    "vowel_count": "banana = 3, sky = 0, Austria = 4",
    "reverse_word": "stone = enots, 苹果 = 果苹",
    "upper": "cat = CAT, France = FRANCE",
    "capitalise": "cat = Cat, Paris = Paris",
    "first_letter": "cat = c, 苹果 = 苹",
    "last_letter": "cat = t, 苹果 = 果",
    "without_vowels": "banana = bnn, Egypt = gypt",
    "repeat_word": "cat = catcat, 猫 = 猫猫",
    "letters": "cat = c a t, 苹果 = 苹 果",
    "is_palindrome": "level = yes, Anna = yes, cat = no, 汪汪 = 是, 苹果 = 否",
    "contains_letter a": "cat = yes, dog = no, Austria = yes",
    "contains_letter o": "dog = yes, Oslo = yes, cat = no",
    "alphabet_position": "a = 1, c = 3, Z = 26",
    "next_letter": "a = b, Y = Z",
    "plural": "mouse = mice, sheep = sheep",
    "past": "buy = bought, cut = cut",
    "opposite": "hot = cold, 慢 = 快",
    "category": "apple = fruit, 猫 = 动物, France = country, 红色 = 颜色",
    "sentiment": "happy = positive, 悲伤 = 消极, 大 = 中性",
    "is_category animal": "dog = yes, 苹果 = 否, puppy = yes",
    "is_category vehicle": "train = yes, 卡车 = 是, horse = no",
    "to_english": "猫 = cat, 法国 = France, 星期一 = Monday",
    "to_chinese": "cat = 猫, Paris = 巴黎, iron = 铁",
    "alphabetical": "pear apple Oman fig = apple fig Oman pear, b a = a b",
    "longest": "pear banana cherry = banana, 猫 苹果 狗 = 苹果",
    "shortest": "pear fig egg = fig, 苹果 猫 狗 = 猫",
    "lengths": "pear fig = 4 3, 苹果 猫 = 2 1",
    "initials": "cat apple rat = car, 苹果 猫 = 苹猫",
    "join": "sun flower = sunflower, 火 山 = 火山",
    "upper_each": "cat dog = CAT DOG",
    "plural_each": "goose tooth = geese teeth",
    "each_to_english": "猫 苹果 猫 = cat apple cat",
    "each_to_chinese": "cat France = 猫 法国",
    "keep_category animal": "dog apple cat = dog cat, 苹果 红色 = 无, 狗 苹果 = 狗",
    "keep_category fruit": "dog apple blorp = apple",
    "count_category colour": "red dog blue red = 3, 猫 狗 = 0",
    "word_count": "the cat eats an apple = 5, 快乐的猫吃苹果 = 5, does the cat not eat bread? = 6, 猫吃苹果吗？ = 4",
    "sentence_words": "the cat eats bread = the cat eats bread, 大的猫没吃苹果 = 大 的 猫 没 吃 苹果",
    "subject": "the happy cat eats an apple = cat, 狗追赶了猫 = 狗, did the farmer buy bread? = farmer",
    "verb": "the cat ate an apple = eat, 狗追赶了猫 = 追赶, did the farmer buy bread? = buy",
    "object": "the cat ate a red apple = apple, 狗没追赶白色的猫 = 猫",
    "adjectives": "the happy cat eats a red apple = happy red, 猫吃新鲜的苹果 = 新鲜, the cat eats bread = none",
    "negate_sentence": "the cat eats bread = the cat does not eat bread, 猫吃苹果 = 猫不吃苹果, "
    "the cat ate bread = the cat did not eat bread, 猫吃了苹果 = 猫没吃苹果, "
    "does the cat eat bread? = does the cat not eat bread?",
    "to_past": "the cat eats bread = the cat ate bread, 猫吃苹果 = 猫吃了苹果, "
    "the cat does not eat bread = the cat did not eat bread, 猫不吃苹果吗？ = 猫没吃苹果吗？, "
    "the nurse cuts an onion = the nurse cut an onion, the nurse does not cut bread = the nurse did not cut bread",
    "to_question": "the cat eats an egg = does the cat eat an egg?, 猫吃了苹果 = 猫吃了苹果吗？, "
    "the cat ate bread = did the cat eat bread?, does the cat eat bread? = does the cat eat bread?",
    "swap_roles": "the brave cat chases an old dog = the old dog chases a brave cat, 大的猫追赶狗 = 狗追赶大的猫",
    "drop_adjectives": "the kind chef buys an old car = the chef buys a car, 快乐的猫吃新鲜的苹果 = 猫吃苹果",
    "mood": "the happy cat eats fresh bread = positive, 悲伤的猫吃苹果 = 消极, the sad cat eats fresh bread = neutral",
    "sentence_to_english": "快乐的猫不吃面包 = the happy cat does not eat bread, "
    "医生切了洋葱吗？ = did the doctor cut an onion?",
    "sentence_to_chinese": "the honest chef buys a uniform = 诚实的厨师买制服, the cat cut an egg = 猫切了鸡蛋",
}  # fmt: skip
UNDEFINED = {
    "capital": "Paris Atlantis france 巴黎",
    "country_of_capital": "France Lyon",
    "element_of_symbol": "Xx fe",
    "element_of_number": "0 93 -1",
    "young": "lion 狮子 apple",
    "sound": "camel",
    "legs": "kangaroo dragon",
    "next_planet": "Neptune 海王星 Pluto",
    "month_of_number": "0 13",
    "is_weekend": "May",
    "vowel_count": "苹果", "upper": "苹果", "capitalise": "苹果", "contains_letter a": "苹果",
    "without_vowels": "苹果 a eau",
    "repeat_word": "abcdefghijklmnopqrstuvwxyz",
    "alphabet_position": "ab 猫 é", "next_letter": "z Z ab",
    "plural": "bread eat 猫 France blorp red", "past": "cat 吃 ate",
    "opposite": "cat red blorp", "category": "fruit 积极 blorp", "sentiment": "cat 红色",
    "is_category fruit": "blorp neutral",
    "to_english": "cat 龘", "to_chinese": "猫 blorp mice",
    "longest": "none 无", "initials": "none", "join": "none", "lengths": "none",
}  # fmt: skip
LISTS = {  # the same for inputs of several words
    "alphabetical": ["猫 狗", "cat 狗", "none"],
    "upper_each": ["cat 狗"],
    "plural_each": ["cat bread", "猫 狗", "cat blorp"],
    "each_to_english": ["猫 dog", "猫 龘", "none"],
    "each_to_chinese": ["cat 狗", "none"],
    "negate_sentence": ["the cat does not eat bread", "猫没吃苹果"],
    "sentence_to_english": ["the cat eats bread"],
    "sentence_to_chinese": ["猫吃苹果", "the cat sleeps"],
    "word_count": [
        "cat", "the cat", "the cat eats", "the cat eat bread", "the cat eats a bread", "the cat eats a apple",
        "a cat eats an apple", "the cat eats the apple", "does the cat eats an apple?", "does the cat eat an apple",
        "the cat eats an apple?", "the red red cat eats bread", "the cats eat bread", "the cat not eats bread",
        "猫", "猫吃", "猫吃苹果了", "猫不吃了苹果", "猫没吃了苹果", "快乐猫吃苹果", "猫吃苹果？", "猫吃 apple",
        "猫睡觉苹果",
    ],
}  # fmt: skip


def answer(program: str, text: str, language: str = "en") -> str:
    return WORLD.run(Program.read(program), text, language)


def examples():
    for program, text in EXAMPLES.items():
        for example in text.split(", "):
            question, language, expected = re.fullmatch("(.*) =(zh=)? (.*)", example).groups()
            yield program, question, "zh" if language else "en", expected


@pytest.mark.parametrize("program, question, language, expected", list(examples()))
def test_examples_by_hand(program, question, language, expected):
    assert answer(program, question, language) == expected


def test_every_operation_has_examples_in_every_language_it_knows():
    """Those for which Chinese is Undefined are named here, so that none is forgotten."""
    latin = {"vowel_count", "upper", "capitalise", "without_vowels", "contains_letter", "alphabet_position",
             "next_letter", "plural", "past", "alphabetical", "upper_each", "plural_each", "to_chinese",
             "each_to_chinese", "sentence_to_chinese"}  # fmt: skip
    chinese = {"to_english", "each_to_english", "sentence_to_english"}
    seen = defaultdict(set)
    for program, question, language, _ in examples():
        named = language if re.fullmatch(r"-?\d+|[A-Z][a-z]?", question) else language_of(question)
        seen[program.split()[0]].add(named)
    assert seen.keys() == WORLD.by_name.keys()
    for name, languages in seen.items():
        assert languages == ({"en"} if name in latin else {"zh"} if name in chinese else {"en", "zh"}), name


@pytest.mark.parametrize("program", sorted({*UNDEFINED, *LISTS}))
def test_there_is_no_answer(program):
    for text in [*UNDEFINED.get(program, "").split(), *LISTS.get(program, ())]:
        with pytest.raises(Undefined):
            answer(program, text)


@pytest.mark.parametrize(
    "there, back",
    [("capital", "country_of_capital"), ("symbol", "element_of_symbol"), ("atomic_number", "element_of_number"),
     ("month_number", "month_of_number"), ("next_month", "previous_month"), ("next_weekday", "previous_weekday"),
     ("opposite", "opposite")],
)  # fmt: skip
def test_there_and_back_is_where_we_were(there, back):
    names = {"capital": "country", "symbol": "element", "atomic_number": "element", "month_number": "month",
             "next_month": "month", "next_weekday": "weekday", "opposite": "adjective"}  # fmt: skip
    for language in ("en", "zh"):
        for name in lexicon.words_of(names[there], language):
            assert answer(f"{there} | {back}", name, language) == name


@pytest.mark.parametrize(
    "name",
    ["capital", "currency", "continent", "language", "young", "sound", "animal_class", "next_planet", "next_month",
     "season", "next_weekday", "opposite", "category"],
)  # fmt: skip
def test_asking_in_the_other_language_gives_the_translation(name):
    """What makes a question that can be answered in one language answerable in the other."""
    operation, asked = WORLD.by_name[name], 0
    words_of_it = lexicon.CATEGORIES if operation.takes == "word" else (operation.takes,)
    for word in (word for category in words_of_it for word in lexicon.words_of(category, "en")):
        try:
            expected = answer(f"{name} | to_chinese", word)
        except Undefined:
            continue
        asked += 1
        assert answer(f"to_chinese | {name}", word) == expected
    assert asked >= 7


def test_a_translated_name_keeps_its_type():
    signature = WORLD.signature(Program.read("to_english | capital | to_chinese"))
    assert signature == ("country", "city")
    assert answer("to_english | capital | to_chinese", "法国") == "巴黎"


@given(st.integers(0, 2**32).map(Random), st.sampled_from(["en", "zh"]))
def test_sentences_are_read_back_and_translate_there_and_back(rng, language):
    text = sentences.sample_sentence(rng, language)
    sentence, other = sentences.read(text), "zh" if language == "en" else "en"
    translation = sentences.write(sentence, other)
    assert sentences.write(sentence, language) == text
    assert language_of(text) == language != language_of(translation)
    assert sentences.read(translation) == sentence
    assert sentences.write(sentences.swapped(sentences.swapped(sentence)), language) == text


def test_a_chinese_sentence_can_be_cut_into_words_in_one_way_only():
    """Nothing stands between Chinese words, so one more word in the lexicon could make two readings of a sentence.

    Exhaustive: if two readings begin with different subjects and verbs, one beginning is the start of the other, and
    what it lacks must be the start of its object.
    """
    nouns, qualities, verbs = (
        {word.name.zh for word in words} for words in (sentences._NOUNS, sentences._ADJECTIVES, sentences._VERBS)
    )
    assert not any(set(word) & set("的吗") for word in nouns | qualities | verbs)
    forms = [no + verb + done for no in ("", "不", "没") for verb in verbs for done in ("", "了")]
    beginnings = [noun + form for noun in nouns for form in forms]
    known = set(beginnings)
    assert len(known) == len(beginnings) > 10_000
    assert not known & {quality[:end] for quality in qualities for end in range(1, 5)}
    things = nouns | {f"{quality}的{noun}" for quality in qualities for noun in nouns}
    lacking = {text[end:] for text in known for end in range(1, len(text)) if text[:end] in known}
    begun = [(thing, start) for start in lacking for thing in things if thing.startswith(start)]
    assert [thing for thing, start in begun if thing[len(start) :] in things] == []


def test_sampling_is_seeded_and_shows_every_form():
    texts = [sentences.sample_sentence(Random(seed), "zh") for seed in range(400)]
    assert texts == [sentences.sample_sentence(Random(seed), "zh") for seed in range(400)]
    assert len(set(texts)) > 380
    meanings = [sentences.read(text) for text in texts]
    assert {(each.past, each.negative, each.question) for each in meanings} >= {
        (past, negative, question) for past in (0, 1) for negative in (0, 1) for question in (0, 1)
    }
    assert {each.verb.name.en for each in meanings} == set(sentences.ACTIONS)


@pytest.mark.parametrize("word", ["apple", "egg", "orange", "uncle", "honest", "onion"])
def test_article_before_a_vowel(word):
    assert sentences.article(word) == "an" and sentences.article("uniform") == sentences.article("pear") == "a"


def test_every_noun_that_is_sampled_has_natural_adjectives():
    described = {kind for kinds in sentences.QUALITIES for kind in kinds.split()}
    sampled = {kind for kinds in sentences.ACTIONS.values() for kind in kinds.split()}
    assert described == sampled | {"animal", *sentences.PEOPLE}
    for qualities in sentences.QUALITIES.values():
        assert {lexicon.category(quality) for quality in qualities.split()} <= {"adjective", "colour"}


def test_phrases_are_unique_over_the_whole_world():
    """No two operations share a phrase, however spaced or capitalised; a frame around a noun is no verb of another."""
    owners = defaultdict(set)
    for operation in operations():
        for language in ("en", "zh"):
            phrases = operation.phrases(language)
            for phrase in (*phrases.verbs, *phrases.nouns):
                for argument in operation.arguments or (None,):
                    said = phrase.replace("{k}", phrases.say(argument)).lower()
                    owners["".join(said.split())].add(operation.name)
    assert {phrase: names for phrase, names in owners.items() if len(names) > 1} == {}
    assert len(owners) > 1000


def test_facts_speak_of_all_rows():
    asked = {"capital": tables.COUNTRIES, "symbol": tables.ELEMENTS, "season": tables.MONTHS}
    asked |= {"is_weekend": tables.WEEKDAYS, "planet_position": tables.PLANETS, "animal_class": tables.ANIMALS}
    for name, table in asked.items():
        answers = [answer(name, text) for row in table for text in row.name]
        assert len(answers) == 2 * len(table) and "" not in answers
