"""Programs of the world: their text, their types, and that the whole is the sum of its steps."""

from __future__ import annotations

import contextlib
import itertools
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import UserError
from instruct.world.inputs import MAKERS, sample_defined, sample_input
from instruct.world.operation import TYPES, Undefined, is_a
from instruct.world.program import (
    LARGEST,
    IllTyped,
    Program,
    Signature,
    World,
    normalise,
    operations,
    read_value,
    world,
    write_value,
)
from instruct.world.splits import random_chain

SEEDS = st.integers(0, 10**6)
read = Program.read


def chain(seed: int, depth: int) -> Program:
    return random_chain(world(), depth, Random(seed))


# Programs and their types --------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_a_program_is_read_back_from_its_text(seed, depth):
    program = chain(seed, depth)
    assert read(str(program)) == program
    assert hash(read(str(program))) == hash(program)


def test_text_without_steps_is_no_program():
    for text in ("", "sort_up |", "| sum"):
        with pytest.raises(UserError):
            read(text)


@pytest.mark.parametrize(
    ("text", "takes", "gives"),
    [
        ("reverse_list", "list", "list"),
        ("first", "list", "item"),
        ("first | square", "numbers", "number"),
        ("reverse_list | first", "list", "item"),
        ("reverse_list | sum | is_even", "numbers", "truth"),
        ("divisors | last", "number", "number"),
        ("unstack | reverse_list | first", "blocks", "word"),
    ],
)
def test_a_program_takes_the_most_general_type_that_works(text, takes, gives):
    assert world().signature(read(text)) == Signature(takes, gives)


@pytest.mark.parametrize(
    "text", ["sum | sort_up", "is_even | double", "nothing", "item 9", "item", "sum 3", "calculation_of | evaluate"]
)
def test_what_does_not_fit_together_is_ill_typed(text):
    with pytest.raises(IllTyped):
        world().signature(read(text))
    assert not world().well_typed(read(text))


@given(SEEDS, st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_a_program_works_on_every_type_under_the_one_it_takes(seed, depth):
    """The output is what its type says, for a list of numbers as for a list of words."""
    program = chain(seed, depth)
    takes, gives = world().signature(program)
    for kind, language in itertools.product(MAKERS, ("en", "zh")):
        if not is_a(kind, takes):
            continue
        with contextlib.suppress(Undefined):
            output = world().run(program, sample_input(kind, Random(seed), language), language)
            of = gives if gives in TYPES else {"numbers": "number", "words": "word"}.get(kind, "list")
            value = read_value(of, output)
            assert output in {write_value(value, each) for each in ("en", "zh")}  # "none" and "yes" have a language


def test_operations_have_names_of_their_own_and_a_subset_is_a_world():
    names = [operation.name for operation in operations()]
    assert len(set(names)) == len(names) >= 100
    small = world().subset(["sum", "sort_up"])
    assert small.run(read("sort_up"), "3 1") == "1 3"
    assert not small.well_typed(read("product"))
    with pytest.raises(UserError, match="no operation sun"):
        world().subset(["sun"])
    with pytest.raises(UserError, match="one name"):
        World([*operations()[:2], operations()[0]])


# Running -------------------------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 3), st.sampled_from(["en", "zh"]))
@settings(max_examples=150, deadline=None)
def test_the_whole_is_its_steps_one_at_a_time(seed, depth, language):
    program = chain(seed, depth)
    drawn = sample_defined(world(), program, Random(seed), language)
    if drawn is None:
        return
    text, output = drawn
    trace = world().trace(program, text, language)
    assert [part for part, _, _ in trace] == list(program.decompose())
    for part, given_, got in trace:
        assert given_ == text
        text = world().run(part, text, language)
        assert got == text
    assert text == output
    assert world().holds(program, drawn[0], output, language)


def test_an_answer_is_in_the_language_of_the_input_and_else_of_the_instruction():
    everything = world()
    assert everything.run(read("sum | in_words"), "3 1 2", "zh") == "六"
    assert everything.run(read("sum | in_words"), "3 1 2", "en") == "six"
    assert everything.run(read("is_even"), "4", "zh") == "是"
    assert everything.run(read("reachable"), "A-B ; A B", "zh") == "是"
    assert everything.run(read("drop 3"), "猫 狗 鸟", "en") == "无"
    assert everything.run(read("drop 3"), "cat dog bird", "zh") == "none"
    assert everything.run(read("drop 3 | count_items"), "cat dog bird", "zh") == "0"


def test_numbers_and_lists_beyond_the_world_are_undefined():
    everything = world()
    assert everything.run(read("square"), "99") == "9801"
    for text, given_ in [("square", "100"), ("sum", f"{LARGEST} 1"), ("repeat_list | repeat_list", "1 " * 10)]:
        with pytest.raises(Undefined):
            everything.run(read(text), given_)
    refused = [("sum", "cat dog"), ("square", "3 4"), ("sum", ""), ("square", "three"), ("count_items", "3 cat")]
    for text, given_ in refused:
        with pytest.raises(Undefined):
            everything.run(read(text), given_)


def test_where_many_answers_are_right_a_predicate_decides():
    everything = world()
    assert everything.holds(read("sum | odd_above 2"), "3 4", "9 11")
    assert everything.holds(read("sum | odd_above 2"), "3 4", "101 15")
    for wrong in ("9", "8 10", "5 9", "9 9", "nine eleven", "", "cat dog"):
        assert not everything.holds(read("sum | odd_above 2"), "3 4", wrong)
    assert everything.holds(read("calculation_of"), "7", "3 + 4")
    assert not everything.holds(read("calculation_of"), "7", "3 + 5")


def test_answers_are_compared_in_normal_form():
    everything = world()
    for right in ("6", " 6 ", "６", "6.", "6。"):
        assert everything.holds(read("sum"), "1 2 3", right)
    for wrong in ("", "7", "66", "6 6", "six"):
        assert not everything.holds(read("sum"), "1 2 3", wrong)
    assert normalise("ｃａｔ　 dog。") == "cat dog"


@given(st.lists(st.integers(-LARGEST, LARGEST), max_size=6), st.sampled_from(["en", "zh"]))
def test_lists_of_numbers_are_read_back(numbers, language):
    text = write_value(numbers, language)
    assert read_value("numbers", text) == read_value("list", text) == numbers
