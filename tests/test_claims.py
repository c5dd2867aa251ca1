"""Claims: wrong sums are found with the right result and its place; what may mean something else is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct.claims import claims

# (text, its claims: None for one that holds, the right number for one that does not)
STATED = [
    ("3 + 4 = 8", ["7"]),
    ("3 + 4 = 7", [None]),
    ("3+4=8.", ["7"]),
    ("The total is $1,200 + $300 = $1,600 in all.", ["1500"]),
    ("12.50 + 2 x 1.75 = 16.00美元。", [None]),
    ("12.50 + 2 x 1.75 = 28.50美元。", ["16"]),
    ("15% of 500 is 75.", [None]),
    ("15% of 500 is 57.", ["75"]),
    ("40% + 20% = 70%", ["60"]),
    ("3/4 = 75%", [None]),
    ("3 / 4 * 100 = 75%", [None]),
    ("３＋４＝８", ["7"]),
    ("-3 + 5 = 8", ["2"]),
    ("5 - 8 = 3", ["-3"]),
    ("4 + -6 = 2", ["-2"]),
    ("3/4 + 2/3 = 9/12 + 8/12 = (9 + 8) / 12 = 17/12", [None, None, None]),
    ("3/4 + 2/3 = 9/12 + 8/12 = 16/12", [None, "1.42"]),
    ("17 / 3 = 5.67", [None]),
    ("17 / 3 = 5.66", [None]),  # cut off
    ("17 / 3 = 5.76", ["5.67"]),
    ("17 / 3 ≈ 6", [None]),
    ("17 / 3 = 5 boxes", [None]),
    ("2.5 * 3 = 7", ["7.5"]),
    ("2.4 * 3 = 7", [None]),
    ("12 divided by 4 is 2.", ["3"]),
    ("$5 + $6 = $12 in all", ["11"]),
    ("5 plus 3 equals 9.", ["8"]),
    ("5加3等于9。", ["8"]),
    ("12除以4等于3", [None]),
    ("6 times 7 is 42", [None]),
    ("3^8 = 6,561", [None]),
    ("24 小时 * 60 = 1440 分钟", [None]),
    ("13 marbles + 4 marbles + 16 marbles = 45 marbles", ["33"]),
    ("2x3=6 | 3x3=10 | 4x3=12", [None, "9", None]),
    ("2 1/2 + 1 = 4", ["3.5"]),
    ("1. 6 x 6 = 37", ["36"]),
    ("- 3 + 3 = 7", ["6"]),
    ("So it is **2 * 6 = 13**.", ["12"]),
    ("(8 - 2 = 5)", ["6"]),
    ("He needs \\(3 \\times 4 = 13\\) pens", ["12"]),
]


@pytest.mark.parametrize(("text", "right"), STATED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_stated(text, right):
    expected = [number and number.rstrip("0").rstrip(".") if number and "." in number else number for number in right]
    found = [claim.right and (claim.right.rstrip("0").rstrip(".") if "." in claim.right else claim.right)
             for claim in claims(text)]  # fmt: skip
    assert found == expected


# Nothing here is a wrong sum, though a careless reader would say so.
TRAPS = [
    "2x + 4 = 10",
    "x + 4 - 4 = 10 - 4",
    "10 + 3b = 20",
    "f(3) + 4 = 10",
    "21/7 = 90/x",
    "3x-5 = 16",
    "1 hour + 30 minutes = 90 minutes",
    "2 hours * 60 minutes = 120 minutes",
    "5 km = 5000 m",
    "30 * 2 = 1 hour",
    "half of 3 + 4 = 5",
    "√16 + 3 = 7",
    "3 + 4 = 8?",
    "Is 3 + 4 = 8 or not",
    "It is not true that 2 + 2 = 5.",
    "2 + 2 = 5 is wrong",
    "3000 * 2 = 6万",
    "3 * 2 = 6 million",
    "3000 * 20 = 60 thousand",
    "In binary, 1 + 1 = 10.",
    "the price -3 + 5 = 7",
    "5 % 3 = 2",
    "7 / 8 = 0 余数 7",
    "17 / 5 = 3 remainder 2",
    "x = 5 * 3 == 16",
    "total += 3 + 4 = 8",
    "```\n3 + 4 = 8\n```",
    "100 + 10% = 110",
    "12 / 2 * 3 = 2",
    "8 * 45 = 360 / 5 = 72",
    "Room 2 - 3 * 4 = 12",
    "Weeks 1-2 = 96 - 70 = 26",
    "14, 400 / 80 = 180",
    "0900-0130 = 0730 hours",
    "4/7 is equal to $24",
    "the ratio 3:2 + 1 = 4",
    "20 / 240 = 8.333...%",
    "5! = 120",
    "3 + 4 is 2 more than 5",
    "y is 1/3 x + 2 = 5",
    "version 1.2.3 + 1 = 5",
    "2020-2021 = 12 months",
    "there are 5+ 3 = ",
    "= 5",
    "5 =",
    "10 = 2 = $12.00",
    "50 - (8 = 42",
    "X is 9 because - 18/-2 = 9",
]


@pytest.mark.parametrize("text", TRAPS)
def test_traps_are_left_alone(text):
    assert [claim for claim in claims(text) if not claim.holds] == []


def test_the_place_of_the_wrong_number_is_told():
    text = "第一行。\nSo \u00a03 ＋ 4 = $8.00 in all"
    [claim] = claims(text)
    assert text[slice(*claim.span)] == "8.00" and claim.right == "7"
    assert text[: claim.span[0]] + claim.right + text[claim.span[1] :] == "第一行。\nSo \u00a03 ＋ 4 = $7 in all"
    [claim] = claims("5 - 8 = -4")
    assert claim.span == (8, 10)


@given(st.text(st.sampled_from("0123456789.,+-*/^()%$ =≈x是\naé²"), max_size=40) | st.text(max_size=60))
def test_no_text_crashes_and_places_are_inside_it(text):
    for claim in claims(text):
        assert claim.holds or 0 <= claim.span[0] < claim.span[1] <= len(text)


@given(st.integers(0, 9999), st.sampled_from("+-*"), st.integers(1, 9999), st.integers(-3, 3), st.booleans())
def test_sums_between_words_are_judged_exactly(left, sign, right, error, grouped):
    value = {"+": left + right, "-": left - right, "*": left * right}[sign]
    stated = f"{value + error:,}" if grouped else str(value + error)
    [claim] = claims(f"So we get {left} {sign} {right} = {stated} apples.")
    assert claim.holds == (error == 0)
    assert error == 0 or claim.right == str(value)


@given(st.integers(1, 999), st.integers(1, 999), st.integers(0, 4))
def test_rounded_and_cut_off_results_are_right(left, right, digits):
    cut = left * 10**digits // right
    for scaled in (cut, cut + 1):
        whole, rest = divmod(scaled, 10**digits)
        stated = f"{whole}.{rest:0{digits}d}" if digits else str(whole)
        exact = (scaled * right == left * 10**digits) or scaled == cut or left * 10**digits % right
        assert all(claim.holds for claim in claims(f"{left} / {right} = {stated}")) or not exact
