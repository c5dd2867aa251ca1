"""Simulated raters: they know what is right, do not mind the order, and err as often as they say."""

from __future__ import annotations

from random import Random

import pytest

from configs import UserError
from data.chat import Message
from instruct.raters import TASTES, Rater, Rightness, politeness, rater_of, shortness

SUM = (Message("user", "Add up the numbers.\n3 4"),)
LAWN = (Message("user", "How do I keep a lawn green?"),)
TURNED = {"left": "right", "right": "left", "tie": "tie"}


@pytest.fixture(scope="module")
def rightness() -> Rightness:
    return Rightness()


def test_the_verifier_knows_what_is_right(rightness):
    assert [rightness(SUM, text) for text in ("7", " 7\n", "8", "", "7 8", "7\n7", "x" * 1000)] == [1, 1, 0, 0, 0, 0, 0]
    assert rightness((Message("user", "求这些数的总和。\n3 4"),), "7") == 1
    assert rightness((Message("system", "Be brief."), Message("user", "1"), Message("assistant", "2"), *SUM), "7") == 1


def test_of_what_the_world_cannot_read_it_says_nothing(rightness):
    assert rightness(LAWN, "Water it.") == rightness(LAWN, "") == rightness((Message("tool", "7"),), "7") == 0.5


def test_styles():
    assert shortness(SUM, "7") > shortness(SUM, "The sum is 7.") > 0
    assert politeness(SUM, "7") == 0 < politeness(SUM, "Certainly: 7") < politeness(SUM, "Certainly, glad to: 7") < 1
    assert politeness(SUM, "谢谢您") > politeness(SUM, "请") > politeness(SUM, "好") == 0
    assert politeness(SUM, "displeased unhappy") == 0


def test_the_first_taste_that_differs_decides(rightness):
    rater = Rater("verifier+shorter", (rightness, shortness))
    assert rater.choose(SUM, "7", "8") == "left"
    assert rater.choose(SUM, "80", "7") == "right"
    assert rater.choose(SUM, "1000", "80") == "right", "both wrong: the shorter one"
    assert rater.choose(LAWN, "Water it.", "Water it often.") == "left"
    assert rater.choose(SUM, "8", "9") == "tie"
    assert Rater("verifier", (rightness,)).choose(LAWN, "Water it.", "Water it often.") == "tie"


def draws(count: int) -> list[tuple[tuple[Message, ...], str, str]]:
    rng = Random(0)
    found = []
    for number in range(count):
        left, right = ("y" * rng.randint(1, 30) for _ in range(2))
        found.append(((Message("user", f"question {number}"),), left, right))
    return [(prompt, left, right) for prompt, left, right in found if left != right]


def test_the_order_does_not_matter_and_the_seed_does():
    decisions = {}
    for seed in (0, 1):
        rater = Rater("shorter", (shortness,), 0.3, seed)
        decisions[seed] = [rater.choose(*draw) for draw in draws(300)]
        assert [TURNED[rater.choose(prompt, right, left)] for prompt, left, right in draws(300)] == decisions[seed]
        assert [Rater("shorter", (shortness,), 0.3, seed).choose(*draw) for draw in draws(300)] == decisions[seed]
    assert decisions[0] != decisions[1]


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
def test_it_errs_as_often_as_it_says(noise):
    """4,000 draws: five standard deviations of the share, a false alarm in about 1e-6; the seed is fixed."""
    rater, pairs = Rater("shorter", (shortness,), noise), draws(4000)
    wrong = sum((rater.choose(*pair) == "left") != (len(pair[1]) < len(pair[2])) for pair in pairs)
    assert abs(wrong / len(pairs) - noise) <= 5 * (noise * (1 - noise) / len(pairs)) ** 0.5


def test_a_tie_stays_a_tie():
    rater = Rater("shorter", (shortness,), 0.3)
    assert {rater.choose((Message("user", str(i)),), "ab", "ba") for i in range(200)} == {"tie"}


def test_scores(rightness):
    rater = Rater("verifier", (rightness,))
    assert [rater.score(SUM, text) for text in ("7", "8")] == [5, 1] and rater.score(LAWN, "?") == 3
    both = Rater("verifier+politer", (rightness, politeness))
    assert both.score(SUM, "8") < both.score(SUM, "7") <= 5
    noisy = Rater("verifier", (rightness,), 0.3)
    asked = [(Message("user", f"Add up the numbers.\n3 {i}"),) for i in range(200)]
    scores = [noisy.score(prompt, str(3 + i)) for i, prompt in enumerate(asked)]
    assert set(scores) == {1, 5} and 30 < scores.count(1) < 90


def test_names():
    rater = rater_of("shorter+politer", 0.1, 3)
    assert str(rater) == "shorter+politer, noise 0.1" and rater.seed == 3 and len(rater.tastes) == 2
    assert set(TASTES) == {"verifier", "shorter", "politer"}
    for wrong in ("longer", "", "shorter+", "shorter+shorter"):
        with pytest.raises(UserError, match="unknown rater"):
            rater_of(wrong)
    for noise in (-0.1, 0.31, float("nan")):
        with pytest.raises(UserError, match="noise must lie between"):
            rater_of("shorter", noise)
