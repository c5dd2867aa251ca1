"""Arithmetic: every spelling is read as the number that it is, exactly, and nothing else is read at all."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct.arithmetic import Unreadable, evaluate, plain, written


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3 + 4", 7),
        ("2 + 3 * 4", 14),
        ("10 - 4 - 3", 3),
        ("24 / 4 / 2", 3),
        ("-2^2", -4),
        ("(-2)^2", 4),
        ("2(3)(4)", 24),
        ("(1 + 2)(3)", 9),
        ("1,234 + 0.5", Fraction(2469, 2)),
        (".5 * 4", 2),
        ("50% * 8", 4),
        ("$1,000 - ￥1", None),
        ("３＋４×（２）", 11),
        ("3 × 4 ÷ 6", 2),
        ("5 − 7", -2),
        ("0.1 + 0.2", Fraction(3, 10)),
        ("2 1/2 + 1", Fraction(7, 2)),
        ("3² + 2³", 17),
        ("1/3 + 1/6", Fraction(1, 2)),
        ("((((1))))", 1),
    ],
)
def test_values(text, value):
    if value is None:
        with pytest.raises(Unreadable):
            evaluate(text)
    else:
        assert evaluate(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "x", "3 +", "(3", "3)", "3 4", "1 / 0", "5 / (2 - 2)", "2 ^ 0.5", "0 ^ -1", "2 ^ 3 ^ 2", "10^9999", "3 + x",
     "__import__('os')", "1" * 60, "(" * 400 + "1" + ")" * 400, "1,00 + 1", "5 apples", "007 + 1", "- 3", "--3"],
)  # fmt: skip
def test_anything_else_is_unreadable(text):
    with pytest.raises(Unreadable):
        evaluate(text)


@given(st.text(st.sampled_from("0123456789.,+-*/^()% $x²=\n"), max_size=24) | st.text(max_size=30))
def test_no_text_crashes(text):
    try:
        value = evaluate(text)
    except Unreadable:
        return
    assert isinstance(value, Fraction)


expressions = st.recursive(
    st.integers(0, 999).map(str) | st.decimals(0, 99, places=2).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda parts: f"({' '.join(parts)})"),
    max_leaves=6,
)


def exact(text: str) -> Fraction:
    """The same value by Python's own rules, on our own generated text only."""
    import re

    return eval(re.sub(r"\d+(\.\d+)?", lambda number: f"Fraction('{number[0]}')", text), {"Fraction": Fraction})


@given(expressions)
def test_it_is_the_arithmetic_of_python(text):
    try:
        value = exact(text)
    except ZeroDivisionError:
        with pytest.raises(Unreadable, match="zero"):
            evaluate(text)
        return
    assert evaluate(text) == value


@given(st.text(max_size=60))
def test_signs_are_spelt_alike_and_every_character_keeps_its_place(text):
    assert len(plain(text)) == len(text)
    assert plain("5 divided by 2 = 2.5").split() == ["5", "/", "2", "=", "2.5"]


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (Fraction(7), 0, "7"),
        (Fraction(-7, 2), 0, "-3.5"),
        (Fraction(1, 3), 0, "0.33"),
        (Fraction(-2, 3), 4, "-0.6667"),
        (Fraction(-1, 100000000), 2, "0.00"),
        (Fraction(1, 8), 1, "0.125"),
    ],
)
def test_written(value, decimals, text):
    assert written(value, decimals) == text
