"""Numbers and lists: every operation against hand-computed examples, what has no answer, and what must always hold."""

from collections import Counter
from contextlib import suppress
from itertools import pairwise
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct.world import lists, numbers
from instruct.world.operation import Undefined
from instruct.world.program import Program, World

WORLD = World(numbers.OPERATIONS + lists.OPERATIONS)
integers = st.integers(-99, 99)
number_lists = st.lists(st.integers(-20, 20), max_size=8)
any_list = number_lists | st.lists(st.sampled_from(["cat", "dog", "apple", "猫", "苹果"]), max_size=8)

EXAMPLES = {  # input = output, computed by hand
    "plus 7": "35 = 42, -7 = 0",
    "minus 10": "4 = -6, 9999 = 9989",
    "times 4": "-12 = -48, 0 = 0",
    "square": "-9 = 81, 99 = 9801",
    "double": "36 = 72, -5 = -10",
    "half": "37 = 18, -3 = -2, 0 = 0",
    "negate_number": "14 = -14, 0 = 0",
    "absolute": "-8 = 8, 8 = 8",
    "remainder 5": "42 = 2, -3 = 2, 35 = 0",
    "next_prime": "14 = 17, 17 = 19, -6 = 2, 2 = 3",
    "digit_sum": "88 = 16, -12 = 3, 0 = 0",
    "digits_reversed": "42 = 24, 120 = 21, -35 = -53",
    "digits": "907 = 9 0 7, -12 = 1 2, 0 = 0",
    "divisors": "12 = 1 2 3 4 6 12, 13 = 1 13, 1 = 1",
    "count_up": "5 = 1 2 3 4 5, 1 = 1",
    "in_words": "13 = thirteen, 20 = twenty, 99 = ninety-nine, 7 = seven",
    "is_even": "0 = yes, -7 = no, 12 = yes",
    "is_prime": "91 = no, 97 = yes, 1 = no, -3 = no, 2 = yes",
    "is_above 10": "10 = no, 11 = yes",
    "evaluate": "7 + 5 = 12, 7 - 5 * 3 = -8, 2 * 3 + 4 * 5 = 26, 9 - 4 - 3 = 2",
    "operands": "7 - 5 * 3 = 7 5 3",
    "sort_up": "3 1 -2 3 = -2 1 3 3, none = none",
    "sort_down": "3 1 -2 3 = 3 3 1 -2",
    "sum": "4 0 -9 = -5, none = 0",
    "product": "4 -2 5 = -40, none = 1",
    "largest": "-3 -8 = -3, 5 = 5",
    "smallest": "7 2 9 = 2",
    "range": "7 2 9 = 7, -4 = 0",
    "median": "9 1 4 = 4, 9 1 4 2 = 3, -1 -2 = -2",
    "average": "7 8 = 7, -1 -2 = -2, 3 4 5 = 4",
    "add_each 5": "1 -5 0 = 6 0 5",
    "times_each 3": "1 -5 0 = 3 -15 0",
    "double_each": "6 -4 = 12 -8",
    "square_each": "3 -4 = 9 16",
    "negate_each": "3 -4 0 = -3 4 0",
    "running_sum": "3 1 4 -9 = 3 4 8 -1, none = none",
    "differences": "3 1 4 = -2 3",
    "keep_even": "3 4 0 -2 7 = 4 0 -2, 3 5 = none",
    "keep_odd": "3 4 -1 8 = 3 -1",
    "keep_above 5": "5 6 -1 20 = 6 20",
    "keep_below 5": "5 4 -1 = 4 -1",
    "remove_largest": "4 9 1 9 = 4 1, 6 = none",
    "remove_smallest": "4 1 9 1 = 4 9",
    "count_even": "4 7 0 -3 = 2, none = 0",
    "count_above 8": "9 8 20 = 2",
    "first": "5 8 = 5, 猫 狗 = 猫",
    "last": "5 8 = 8, cat dog = dog",
    "item 2": "7 8 9 = 8",
    "item 4": "1 2 3 4 = 4",
    "middle": "a b c = b, 1 2 3 4 = 2, 6 = 6",
    "most_frequent": "4 2 2 4 2 = 2, 猫 狗 狗 猫 = 猫",
    "count_items": "5 5 5 = 3, none = 0, 无 = 0",
    "count_distinct": "5 1 5 = 2, none = 0",
    "take 2": "cat dog pig = cat dog, 4 4 = 4 4",
    "drop 3": "1 2 3 4 = 4, 1 2 3 = none",
    "drop_first": "7 8 9 = 8 9",
    "drop_last": "猫 狗 = 猫, 7 = none",
    "every_other": "1 2 3 4 5 = 1 3 5, a b c d = a c",
    "deduplicate": "3 1 3 2 1 = 3 1 2, none = none",
    "reverse_list": "cat dog pig = pig dog cat, none = none",
    "rotate": "1 2 3 = 2 3 1, 1 = 1",
    "swap_ends": "1 2 3 4 = 4 2 3 1, 猫 狗 = 狗 猫",
    "repeat_list": "1 2 = 1 2 1 2",
}
UNDEFINED = {
    "plus 7": ["9993", "twelve"],
    "minus 10": ["-9990"],
    "times 4": ["2500"],
    "square": ["100", "-100"],
    "double": ["5000"],
    "next_prime": ["9973"],
    "divisors": ["0", "-6"],
    "count_up": ["0", "-2", "21"],
    "in_words": ["0", "-5", "100"],
    "evaluate": ["7 +", "7+5", "999 * 999", "2 ** 3", "12", "-3 + 4", "(2 + 3) * 4"],
    "operands": ["no sum"],
    "sum": ["9999 1", "cat dog"],
    "product": ["99 99 99"],
    "range": ["-9999 9999"],
    "differences": ["4", "none", "-9999 9999"],
    "square_each": ["3 100"],
    "add_each 5": ["9999"],
    "running_sum": ["9000 9000 -9000"],
    **{name: ["none"] for name in ("largest", "smallest", "range", "median", "average", "remove_largest",
                                   "remove_smallest", "first", "last", "middle", "most_frequent", "drop_first",
                                   "drop_last", "every_other", "rotate", "repeat_list")},
    "item 4": ["1 2 3"],
    "take 2": ["cat"],
    "drop 3": ["1 2"],
    "swap_ends": ["1", "none"],
}  # fmt: skip


def answer(program: str, text: str, language: str = "en") -> str:
    return WORLD.run(Program.read(program), text, language)


def value(name: str, given_value, argument=None, language: str = "en"):
    return WORLD.by_name[name].run(given_value, argument, language)


@pytest.mark.parametrize("program", EXAMPLES)
def test_examples_by_hand(program):
    for example in EXAMPLES[program].split(", "):
        text, expected = example.split(" = ")
        assert answer(program, text) == expected


def test_every_operation_has_an_example():
    assert {program.split()[0] for program in EXAMPLES} == WORLD.by_name.keys()


@pytest.mark.parametrize("program", UNDEFINED)
def test_no_answer_where_there_is_none(program):
    for text in UNDEFINED[program]:
        with pytest.raises(Undefined):
            answer(program, text)


# One number ----------------------------------------------------------------------------------------------------------


def test_number_words_are_those_that_people_write():
    chinese = {"3": "三", "10": "十", "15": "十五", "20": "二十", "42": "四十二", "99": "九十九"}
    english = {"1": "one", "11": "eleven", "18": "eighteen", "40": "forty", "85": "eighty-five"}
    assert {text: answer("in_words", text, "zh") for text in chinese} == chinese
    assert {text: answer("in_words", text) for text in english} == english
    for language in ("en", "zh"):
        assert len({answer("in_words", str(number), language) for number in range(1, 100)}) == 99


@given(st.integers(0, 9_999))
def test_digits_joined_give_the_number(number):
    assert int("".join(map(str, value("digits", number)))) == number
    assert value("digit_sum", number) % 9 == number % 9


@given(integers)
def test_halves_and_remainders_round_down(number):
    assert 2 * value("half", number) + number % 2 == number
    for divisor in WORLD.by_name["remainder"].arguments:
        rest = value("remainder", number, divisor)
        assert 0 <= rest < divisor and (number - rest) % divisor == 0


@given(st.integers(1, 2_000))
def test_a_prime_has_two_divisors(number):
    found = value("divisors", number)
    assert value("is_prime", number) == (len(found) == 2)
    assert sorted(number // divisor for divisor in found) == found


@given(integers)
def test_no_prime_lies_between_a_number_and_the_next_prime(number):
    following = value("next_prime", number)
    assert following > number and value("is_prime", following)
    assert not any(value("is_prime", between) for between in range(number + 1, following))


@given(st.lists(st.integers(0, 20), min_size=2, max_size=4), st.data())
def test_expressions_agree_with_the_arithmetic_of_python(operands, data):
    signs = [data.draw(st.sampled_from("+-*")) for _ in operands[1:]]
    text = str(operands[0]) + "".join(f" {sign} {operand}" for sign, operand in zip(signs, operands[1:]))
    expected = eval(text)  # of digits and signs made here
    assert value("operands", text) == operands
    if abs(expected) <= numbers.LARGEST:
        assert value("evaluate", text) == expected
    else:
        with pytest.raises(Undefined):
            value("evaluate", text)


# Lists ---------------------------------------------------------------------------------------------------------------


@given(number_lists)
def test_sorting_is_a_permutation_in_order(items):
    upwards = value("sort_up", items)
    assert Counter(upwards) == Counter(items)
    assert all(one <= following for one, following in pairwise(upwards))
    assert value("sort_down", items) == upwards[::-1]


@given(number_lists)
def test_choices_split_the_list(items):
    assert Counter(value("keep_even", items) + value("keep_odd", items)) == Counter(items)
    assert value("count_even", items) == len(value("keep_even", items))
    for bound in (5, 8):
        middle = [item for item in items if item == bound]
        assert Counter(value("keep_above", items, bound) + value("keep_below", items, bound) + middle) == Counter(items)
        assert value("count_above", items, bound) == len(value("keep_above", items, bound))


@given(number_lists.filter(bool))
def test_summaries_agree_with_one_another(items):
    assert value("running_sum", items)[-1] == value("sum", items)
    assert value("range", items) == value("largest", items) - value("smallest", items)
    for name in ("median", "average"):
        assert value("smallest", items) <= value(name, items) <= value("largest", items)
    assert sum(item <= value("median", items) for item in items) * 2 >= len(items)
    assert value("largest", items) not in value("remove_largest", items)
    assert value("smallest", items) not in value("remove_smallest", items)
    if abs(prod(items)) <= numbers.LARGEST:
        assert value("product", items) == prod(items)


@given(number_lists.filter(lambda items: len(items) > 1))
def test_differences_undo_a_running_sum(items):
    assert value("differences", value("running_sum", items)) == items[1:]


@given(any_list)
def test_reversing_twice_changes_nothing(items):
    assert value("reverse_list", value("reverse_list", items)) == items
    assert value("deduplicate", value("deduplicate", items)) == value("deduplicate", items)
    assert value("count_distinct", items) == len(value("deduplicate", items))


@given(any_list.filter(lambda items: len(items) >= 4))
def test_parts_and_places_fit_together(items):
    for k in (2, 3):
        assert value("take", items, k) + value("drop", items, k) == items
        assert value("item", items, k) == value("take", items, k)[-1]
    assert [value("first", items), *value("drop_first", items)] == items
    assert [*value("drop_last", items), value("last", items)] == items
    assert value("swap_ends", value("swap_ends", items)) == items
    assert value("first", value("rotate", items)) == items[1]
    assert value("every_other", value("repeat_list", items[:1])) == items[:1]
    assert items.count(value("most_frequent", items)) == max(Counter(items).values())


@given(any_list.filter(lambda items: len(items) >= 4))
def test_rotating_as_often_as_there_are_items_changes_nothing(items):
    turned = items
    for _ in items:
        turned = value("rotate", turned)
    assert turned == items


@given(number_lists.filter(lambda items: len(items) >= 4))
def test_no_operation_changes_its_input(items):
    before = list(items)
    for operation in lists.OPERATIONS:
        with suppress(Undefined):
            operation.run(items, (operation.arguments or (None,))[0], "en")
        assert items == before, operation.name
