"""Packing: no piece cut, none lost, no row overfull, and as few rows as the theorem promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.packing import best_fit


@st.composite
def pieces(draw):
    capacity = draw(st.integers(1, 70))
    return draw(st.lists(st.integers(0, capacity), max_size=60)), capacity


@given(pieces())
def test_every_piece_is_in_one_row_that_holds_it(case):
    lengths, capacity = case
    rows = best_fit(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(0 < len(row) and sum(lengths[i] for i in row) <= capacity for row in rows)


@given(pieces())
def test_rows_are_those_of_best_fit_decreasing(case):
    """The definition: long to short, each into the fullest row that has room; rows of equal fill are alike."""
    lengths, capacity = case
    fills: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row, fill in enumerate(fills) if fill + length <= capacity]
        if fitting:
            fills[max(fitting, key=lambda row: fills[row])] += length
        else:
            fills.append(length)
    assert sorted(sum(lengths[i] for i in row) for row in best_fit(lengths, capacity)) == sorted(fills)


@given(st.integers(1, 40), st.integers(2, 100), st.randoms(use_true_random=False))
def test_at_most_eleven_ninths_of_the_optimum_and_four(rows, capacity, draw):
    """Full rows cut at random: their number is the optimum."""
    lengths = []
    for _ in range(rows):
        cuts = sorted(draw.sample(range(1, capacity), min(draw.randint(0, 6), capacity - 1)))
        lengths += np.diff([0, *cuts, capacity]).tolist()
    draw.shuffle(lengths)
    assert rows <= len(best_fit(lengths, capacity)) <= rows * 11 / 9 + 4


def test_realistic_lengths_fill_rows_almost_completely():
    lengths = np.random.default_rng(0).geometric(1 / 40, 3000).clip(max=256)
    rows = best_fit(lengths, 256)
    assert lengths.sum() / (len(rows) * 256) > 0.995


def test_too_long_a_piece_is_refused():
    with pytest.raises(ValueError, match="a piece of 9 tokens does not fit a row of 8"):
        best_fit([3, 9], 8)


def test_nothing_gives_no_rows():
    assert best_fit(np.array([], np.int64), 8) == []
