"""Grammar and parser: everything that can be said is read back, and what was corrupted does not pass."""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random

import pytest

from instruct.world.check import RoundTrips, main
from instruct.world.grammar import Grammar
from instruct.world.inputs import sample_input
from instruct.world.operation import Operation, Phrases
from instruct.world.parse import Ambiguous, Parser, Reading, Unreadable
from instruct.world.parse import normalise as plain
from instruct.world.program import Program, World, world
from instruct.world.splits import LANGUAGES, random_chain
from instruct.world.wording import BACK, all_names, names

read = Program.read


@pytest.fixture(scope="module")
def parser():
    return Parser(world())


@pytest.fixture(scope="module")
def grammar():
    return Grammar(world())


# Round trips ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_what_is_said_is_read_back(depth, language):
    """Training words, held-out words and literals; behaviour is compared by fingerprint and on a fresh input."""
    trips = RoundTrips(world(), seed=depth)
    for number in range(600):
        trips.one(depth, language, literal=number % 4 == 0)
    assert not trips.faults


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_phrase_of_every_operation_is_read_as_that_operation(parser, language):
    """Built here from the templates, not by the grammar."""
    frame = {"en": "Find {}.", "zh": "求{}。"}[language]
    for step in world().steps():
        operation = world().by_name[step.name]
        phrases = operation.phrases(language)
        called = names(operation.takes, language)[0]
        for template in (*phrases.verbs, *(frame.format(noun) for noun in phrases.nouns)):
            text = template.replace("{k}", phrases.say(step.argument)).replace("{x}", called)
            reading = parser.parse(text)
            assert reading.literal is None
            assert reading.language == language
            assert parser.behaviour.same(reading.program, Program((step,))), text


def test_no_phrase_of_one_operation_is_a_phrase_of_another(parser):
    for language in LANGUAGES:
        found = {}
        for step in world().steps():
            phrases = world().by_name[step.name].phrases(language)
            for template in (*phrases.verbs, *phrases.nouns):
                found.setdefault(plain(template.replace("{k}", phrases.say(step.argument)), language), set()).add(step)
        assert [each for each in found.values() if len(each) > 1] == []


def test_case_spaces_and_full_width_signs_are_forgiven(parser):
    sorting, capital = read("sort_up | sum"), read("capital")
    for text in (
        "FIRST sort the numbers in ascending order, then find the sum of the result",
        "  first   sort the numbers in ascending  order, then find the sum of the result. ",
        "先将这些数从小到大排序,再求结果的总和",
        "先 将这些数从小到大排序， 再求结果的总和 。",
    ):
        assert parser.parse(text).program == sorting
    english = ("What is the capital of France?", "what is the capital of “France”")
    for text in (*english, "法国的首都是什么？", "「法国」的首都是什么"):
        assert parser.parse(text)[:2] == (capital, "France" if "France" in text else "法国")


# What does not pass --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?",
        "Hello.",
        "Sort the numbers.",
        "Sort it in ascending order.",
        "Sort the numbers in ascending order, then sort the words in ascending order.",
        "Find the sum of the capital of the country.",
        "Find the capital of the number.",
        "What is the capital of Atlantis?",
        "What is the capital of 12?",
        'Sort the numbers "3 x 1" in ascending order.',
        "First sort the numbers in ascending order, then find the sum of the numbers.",
        "Sort the numbers in ascending order, then",
        "将数从小到大排序",
        "将这些数从小到大排序，然后",
        "将结果从小到大排序",
        "亚特兰蒂斯的首都是什么？",
        "求这些数的总和的首都。",
        "sort_up | sum",
        "Sort the numbers in ascending order. " * 20,
    ],
)
def test_what_means_nothing_is_refused(parser, text):
    with pytest.raises(Unreadable):
        parser.parse(text)


def test_a_refusal_says_where(parser):
    with pytest.raises(Unreadable) as error:
        parser.parse("First sort the numbers in ascending order, then paint the result, and finally add up it.")
    assert error.value.where == "paint the result"
    with pytest.raises(Unreadable) as error:
        parser.parse("先将这些数从小到大排序，再涂抹结果。")
    assert error.value.where == "涂抹结果"
    with pytest.raises(Unreadable, match="a country is asked for"):
        parser.parse("Find the capital of the number.")


def tokens(text: str, language: str) -> list[str]:
    """Words with the space behind them, or Chinese characters; what is in quotes stays whole."""
    return re.findall(r'"[^"]*"\s*|“[^”]*”|\S+\s*' if language == "en" else r"“[^”]*”|[A-Za-z]+|.", text)


def corrupted(text: str, language: str, rng: Random, vocabulary: list[str]) -> str:
    """The text with a word dropped, doubled, swapped with its neighbour, or replaced by a word of another text."""
    words = tokens(text, language)
    at = rng.randrange(len(words))
    kind = rng.choice(("drop", "double", "swap", "replace"))
    if kind == "drop":
        del words[at]
    elif kind == "double":
        words.insert(at, words[at])
    elif kind == "swap" and at:
        words[at - 1], words[at] = words[at], words[at - 1]
    else:
        words[at] = rng.choice(vocabulary)
    return "".join(words)


def is_said(grammar: Grammar, text: str, reading: Reading) -> bool:
    """Whether the grammar says this text for this reading, but for case, spaces, stops and what the object is called.

    (Months are words, so "the last letter of the month" may be said, although the grammar says "of the word".)
    """
    called = "|".join(sorted(all_names(reading.language), key=len, reverse=True))

    def bare(one: str) -> str:
        return re.sub(called, "X", plain(one, reading.language).lower())

    said = grammar.phrasings(reading.program, reading.language, None, reading.literal)
    wanted = bare(text)
    return any(bare(each) == wanted for each in said)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("depth", [1, 2])
def test_a_corrupted_instruction_is_refused_or_means_what_it_now_says(parser, grammar, language, depth):
    """What is read from it must be among all that the grammar says for the program that was read."""
    rng = Random(depth)
    texts = [grammar.phrase(random_chain(world(), depth, rng), rng, language, None) for _ in range(240 // depth)]
    vocabulary = [word for text in texts for word in tokens(text, language)]
    passed = 0
    for text in texts:
        for _ in range(4):
            wrong = corrupted(text, language, rng, vocabulary)
            if plain(wrong, language).lower() == plain(text, language).lower():
                continue
            try:
                reading = parser.parse(wrong)
            except (Unreadable, Ambiguous):
                continue
            passed += 1
            assert is_said(grammar, wrong, reading), (wrong, reading)
    assert passed < 0.1 * 4 * len(texts)  # most corruptions are no instruction at all


# Ambiguity -----------------------------------------------------------------------------------------------------------


def operation(name: str, run, *english: str) -> Operation:
    chinese = Phrases(tuple(f"做{name}于{{x}}{i}" for i in "甲乙丙"))
    return Operation(name, "test", "number", "number", lambda x, k, language: run(x), Phrases(english), chinese)


def test_two_meanings_are_refused_and_two_ways_to_one_meaning_are_not():
    one = operation("one", lambda x: x + 1, "change {x}", "raise {x}", "add one to {x}")
    other = operation("other", lambda x: x - 1, "change {x}", "lower {x}", "take one off {x}")
    twin = replace(one, name="twin")
    with pytest.raises(Ambiguous) as error:
        Parser(World([one, other])).parse("Change the number.")
    assert [str(reading.program) for reading in error.value.readings] == ["one", "other"]
    assert Parser(World([one, other])).parse("Raise the number.").program == read("one")
    reading = Parser(World([one, twin])).parse("Change the number.")
    assert reading.program == read("one")


def test_nested_objects_that_can_be_cut_in_two_ways_are_refused():
    """"half of the number plus 3": of the number, or of the sum?"""
    half = operation("half", lambda x: x // 2, "halve {x}", "cut {x} in half", "divide {x} by two")
    more = operation("more", lambda x: x + 3, "raise {x}", "lift {x}", "add three to {x}")
    half = replace(half, english=Phrases(half.english.verbs, ("half of {x}",)))
    more = replace(more, english=Phrases(more.english.verbs, ("{x} plus 3",)))
    with pytest.raises(Ambiguous):
        Parser(World([half, more])).parse("Find half of the number plus 3.")


# The grammar ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_counted_listed_and_drawn_are_the_same_phrasings(grammar, language):
    rng = Random(3)
    for text in ("square", "sort_up", "capital", "sum | square"):
        for held_out in (False, True, None):
            program = read(text)
            listed = list(grammar.phrasings(program, language, held_out))
            assert grammar.count(program, language, held_out) == len(listed)
            assert all(grammar.phrase(program, rng, language, held_out) in set(listed) for _ in range(40))


@pytest.mark.parametrize("language", LANGUAGES)
def test_unseen_phrasings_are_unseen(grammar, language):
    """Nothing that training can say is in the split, and every text of the split has the held-out words of its end."""
    for text in ("square", "add_each 3", "capital", "sum | square"):
        program = read(text)
        seen = set(grammar.phrasings(program, language, False))
        unseen = set(grammar.phrasings(program, language, True))
        assert seen and unseen and not seen & unseen
        last = program.steps[-1]
        phrases = world().by_name[last.name].phrases(language)
        before, after = phrases.held_out.replace("{k}", phrases.say(last.argument)).split("{x}")
        assert all(before in each.lower() or before in each for each in unseen)
        assert all(after in each for each in unseen)


def test_every_program_can_be_said_in_both_languages_in_training_and_held_out(grammar):
    for program in world().singles():
        for language in LANGUAGES:
            assert grammar.count(program, language, False) >= 8
            assert grammar.count(program, language, True) >= 2


def test_literals_stand_in_the_instruction(grammar):
    rng = Random(0)
    for program in world().singles():
        for language in LANGUAGES:
            literal = sample_input(world().signature(program).takes, rng, language)
            text = grammar.phrase(program, rng, language, None, literal)
            assert literal in text and "\0" not in text
    assert "What is the capital of France?" in set(grammar.phrasings(read("capital"), "en", literal="France"))
    assert "法国的首都是什么？" in set(grammar.phrasings(read("capital"), "zh", literal="法国"))


def test_english_is_written_with_capitals_and_without_clumsy_pronouns(grammar):
    rng = Random(5)
    for _ in range(500):
        text = grammar.phrase(random_chain(world(), rng.randint(1, 3), rng), rng, "en", None)
        assert re.match(r"[A-Z0-9]", text) and text[-1] in ".?"
        assert not re.search(r"[.?] [a-z]", text)
        assert "numbers in the numbers" not in text and "the sum of it" not in text
        assert "{" not in text and "  " not in text


def test_later_clauses_speak_of_the_result(grammar):
    rng = Random(6)
    for text in grammar.phrasings(read("sum | square"), "en", False):
        if ", then" in text:
            assert any(back in text for back in BACK["en"])
    assert grammar.phrase(read("sum | square"), rng, "zh")


# The command ---------------------------------------------------------------------------------------------------------


def test_the_check_prints_what_does_not_come_back(tmp_path, capsys):
    assert main(["--programs", "120", "--json", str(tmp_path / "out.json")]) == 0
    assert "120 programs: 0 mismatches, 0 unreadable, 0 ambiguous" in capsys.readouterr().out
    assert '"mismatch": 0' in (tmp_path / "out.json").read_text("utf-8")


def test_the_check_would_notice(monkeypatch):
    """A parser that always reads the same program, and one that never reads, are found out."""
    trips = RoundTrips(world().subset(["sum", "product"]))
    other = Parser(trips.world).parse("Find the product of the numbers.")
    monkeypatch.setattr(trips.parser, "parse", lambda text: other)
    for _ in range(20):
        trips.one(1, "en", False)
    assert {fault[0] for fault in trips.faults} == {"mismatch"}
    assert 1 <= len(trips.faults) < 20
    assert not trips.parser.behaviour.same(read("sum"), other.program)
