"""Searching for the best candidate: the winner that looking at everything finds, for a fifth of the work."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import UserError
from instruct.search import Found, exhaustive, halving_plan, successive_halving, ucb

CHEAP = [successive_halving, ucb]
cheap = pytest.mark.parametrize("search", CHEAP, ids=lambda search: search.__name__)


class Table:
    """Scores (candidates, items), looked up; remembers what was asked."""

    def __init__(self, scores: np.ndarray):
        self.scores, self.calls = scores, []

    def __call__(self, asked):
        self.calls.append(list(asked))
        return [float(self.scores[pair]) for pair in asked]

    @property
    def asked(self) -> list[tuple[int, int]]:
        return [pair for call in self.calls for pair in call]


def instance(seed: int, others: float = 0.6, candidates: int = 64, items: int = 50) -> np.ndarray:
    """Answers right (1) or wrong (0). One candidate, at a random place, is right with probability about 0.9, the others
    with 0 to `others`, evenly spread. Items are unequally hard: normal, deviation 0.8 in log-odds.
    """
    rng = np.random.default_rng(seed)
    ability = rng.uniform(0.001, others, candidates)
    ability[rng.integers(candidates)] = 0.9
    log_odds = 1.15 * np.log(ability / (1 - ability))[:, None] + rng.normal(0, 0.8, items)
    return (rng.random((candidates, items)) < 1 / (1 + np.exp(-log_odds))).astype(float)


def share_found(search, others: float, trials: int) -> float:
    """How often the winner is one that no candidate beats on all items."""
    hits = 0
    for seed in range(trials):
        scores = instance(seed, others)
        table = Table(scores)
        found = search(table, *scores.shape, budget=640, seed=seed)
        assert found.evaluations == len(table.asked) <= 0.2 * scores.size
        hits += scores[found.winner].mean() == scores.mean(1).max()
    return hits / trials


@cheap
def test_a_fifth_of_the_evaluations_finds_the_winner(search):
    """Seeds are fixed: no chance of failing. The slow test has more of them."""
    assert share_found(search, 0.6, 150) >= 0.95


@pytest.mark.slow
@cheap
def test_the_claimed_shares(search):
    """The figures of the module's docstring."""
    wanted = {successive_halving: (0.984, 0.966), ucb: (1.0, 0.986)}[search]
    assert share_found(search, 0.6, 1000) == wanted[0] and share_found(search, 0.75, 1000) == wanted[1]


@cheap
def test_nothing_is_asked_twice_and_all_get_the_same_items_first(search):
    scores = instance(3)
    table = Table(scores)
    found = search(table, *scores.shape, budget=640, seed=3)
    assert len(set(table.asked)) == len(table.asked)
    seen = [[item for candidate, item in table.asked if candidate == c] for c in range(64)]
    longest = max(seen, key=len)
    assert all(items == longest[: len(items)] for items in seen)
    assert found.counts == tuple(map(len, seen)) and min(found.counts) >= 1
    assert found.means == pytest.approx([scores[c, items].mean() for c, items in enumerate(seen)])
    assert sorted(found.ranking) == list(range(64))


@cheap
def test_deterministic_by_seed(search):
    scores = instance(4)
    runs = [search(Table(scores), *scores.shape, budget=400, seed=seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


@given(candidates=st.integers(1, 40), items=st.integers(1, 30), extra=st.integers(0, 900), seed=st.integers(0, 99))
def test_any_size_keeps_to_its_budget_and_finds_a_perfect_candidate(candidates, items, extra, seed):
    """Noise-free scores, one candidate of 1: whatever the budget, the one that is always right wins."""
    best = seed % candidates
    scores = np.full((candidates, items), 0.5)
    scores[best] = 1
    for search in CHEAP:
        found = search(Table(scores), candidates, items, candidates + extra, seed)
        assert found.winner == best and found.evaluations <= candidates + extra
        assert max(found.counts) <= items
    assert exhaustive(Table(scores), candidates, items).ranking[0] == best


@given(candidates=st.integers(1, 200), items=st.integers(1, 60), extra=st.integers(0, 3000))
def test_halving_plans_spend_what_they_can(candidates, items, extra):
    """Down to two candidates by halves; with budget for everything, everything is seen."""
    plan = halving_plan(candidates, items, candidates + extra)
    assert sum(survivors * more for survivors, more in plan) <= candidates + extra
    assert plan[0][0] == candidates and plan[0][1] >= 1 and sum(more for _, more in plan) <= items
    for (before, _), (after, _) in pairwise(plan):
        assert after == math.ceil(before / 2) >= 2 or before == 1
    assert halving_plan(candidates, items, candidates * items)[0] == (candidates, items)


def test_what_halving_cannot_spend_late_it_spends_early():
    """64 candidates, 50 items, 640 evaluations: a sixth of the budget in the first round would give one item each."""
    assert halving_plan(64, 50, 640)[0] == (64, 2)
    assert sum(survivors * more for survivors, more in halving_plan(64, 50, 640)) > 600


def test_ucb_ends_when_the_best_is_beyond_doubt():
    """Scores without noise, far apart: a small part of the budget is enough."""
    scores = np.full((20, 30), 0.1)
    scores[7] = 0.99
    found = ucb(Table(scores), 20, 30, 600)
    assert found.winner == 7 and found.counts[7] == 30 and found.evaluations < 300


def test_ucb_ends_only_when_no_bound_is_above_the_mean_of_the_best():
    for seed in range(5):
        found = ucb(Table(instance(seed)), 64, 50, 3200, seed)
        counts, means = np.array(found.counts), np.array(found.means)
        bounds = means + 0.5 * np.sqrt(np.log(found.evaluations) / counts * (1 - counts / 50))
        assert found.evaluations < 3200 and found.counts[found.winner] == 50
        assert bounds.max() == means[found.winner]


def test_exhaustive_is_the_definition():
    scores = np.array([[0.5, 0.5, 0.5], [1, 0, 1], [0.2, 0.2, 0.2], [1, 1, 0]])
    found = exhaustive(Table(scores), 4, 3)
    assert found == Found((1, 3, 0, 2), found.means, (3, 3, 3, 3)) and found.evaluations == 12
    assert found.means == pytest.approx(scores.mean(1))


def test_halving_ranks_by_how_long_a_candidate_stayed():
    scores = np.repeat([[0.3], [0.9], [0.1], [0.8]], 12, 1)
    found = successive_halving(Table(scores), 4, 12, 24)
    assert found.ranking == (1, 3, 0, 2) and found.counts[1] == found.counts[3] > found.counts[0] == found.counts[2]


@cheap
def test_wrong_input(search):
    scores = instance(0)
    with pytest.raises(UserError, match="63 evaluations are too few"):
        search(Table(scores), 64, 50, 63)
    for candidates, items in [(0, 5), (5, 0)]:
        with pytest.raises(UserError, match="needs candidates and items"):
            search(Table(scores), candidates, items, 100)
    for wrong in (-0.7, 1.5, math.nan):  # a log-likelihood, a sum, nothing
        with pytest.raises(UserError, match="between 0 and 1"):
            search(Table(np.full((4, 4), wrong)), 4, 4, 8)
