"""Health: each rule by itself, patience, and a memory that follows from the records."""

from __future__ import annotations

import math
import random

import pytest

from configs import ConfigError
from train.health import Health, HealthConfig

WELL = {
    **{"reward": 0.5, "kl": 1.0, "entropy": 0.4, "length": 10.0, "repetition": 0.1, "unfinished": 0.0, "silent": 0.3},
    **{"chosen": -8.0, "rejected": -9.0, "chosen_drift": 0.01, "right": 0.4},
}
IMPATIENT = {"patience": 1, "window": 1}


def after(config: HealthConfig, *figures: dict) -> str | None:
    """What is said of the last of these figures, the others being well."""
    health = Health(config)
    said = [health.check(WELL | each) for each in figures]
    assert said[:-1] == [None] * (len(said) - 1)
    return said[-1]


def test_a_run_that_is_well_goes_on():
    health = Health(HealthConfig(patience=1, entropy=0.1))
    assert all(health.check(WELL) is None for _ in range(50))
    assert Health(HealthConfig()).check({}) is None, "what is not measured is not judged"
    assert Health(HealthConfig()).check({"reward": None, "loss": math.nan}) is None


@pytest.mark.parametrize(
    ("figures", "limit", "sentence"),
    [
        ({"kl": 3.0}, {"kl": 2.0}, "kl is 3, above its limit (health.kl = 2), now: the model has left"),
        ({"entropy": 0.05}, {"entropy": 0.1}, "entropy is 0.05, below its limit (health.entropy = 0.1), now"),
        ({"repetition": 0.6}, {}, "repetition is 0.6, above its limit (health.repetition = 0.5)"),
        ({"unfinished": 0.6}, {}, "unfinished is 0.6, above its limit (health.unfinished = 0.5)"),
        ({"silent": 0.99}, {}, "silent is 0.99, above its limit (health.silent = 0.98)"),
        ({"chosen_drift": -0.4}, {}, "chosen_drift is -0.4, chosen answers became less likely"),
        ({"length": 45.0}, {}, "length is 45 tokens, 4.5 times that of the first check (health.growth = 4)"),
        ({"length": 2.0}, {}, "length is 2 tokens, 0.2 times that of the first check (health.growth = 4)"),
        ({"reward": 0.1}, {}, "reward is 0.1, and was 0.5 at best (health.fall = 0.3)"),
        ({"right": 0.29}, {}, "right is 0.29, and was 0.4 at best (health.right = 0.25), now: the reward"),
    ],
)
def test_each_rule_names_its_figure_its_limit_and_a_remedy(figures, limit, sentence):
    said = after(HealthConfig(**IMPATIENT, **limit), {}, figures)
    assert said is not None and said.startswith(sentence) and ": " in said
    rules = ("kl", "entropy", "growth", "repetition", "unfinished", "silent", "drift", "fall", "right")
    off = {name: 0.0 for name in rules}
    assert after(HealthConfig(**IMPATIENT, **off), {}, figures) is None, "0 switches a rule off"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_stops_at_once(value):
    assert "kl is" in Health(HealthConfig(patience=100)).check(WELL | {"kl": value})


def test_a_rule_must_be_broken_in_a_row():
    bad = {"silent": 1.0}
    assert after(HealthConfig(patience=3), bad, bad, {}, bad, bad) is None
    assert "for 3 checks in a row" in after(HealthConfig(patience=3), bad, bad, {}, bad, bad, bad)


def test_a_fall_is_one_of_means():
    """One bad batch is no fall."""
    config = HealthConfig(patience=1, window=4, fall=0.2)
    good, bad = {"reward": 0.9}, {"reward": 0.3}
    assert after(config, good, good, good, good, bad) is None
    assert "reward is 0.6, and was 0.9 at best" in after(config, good, good, good, good, bad, bad)
    assert "reward is 3.6" in after(HealthConfig(patience=1, window=1), {"reward": 4.0}, {"reward": 3.6})
    assert after(config, *[{"reward": -1.0}] * 9) is None, "of too few checks there is no mean"


def test_what_is_right_may_fall_by_a_share_of_its_best():
    """A quarter of 0.4 is a tenth; and while the reward rises."""
    config = HealthConfig(patience=1, window=2)
    best, less = {"right": 0.4}, {"right": 0.21, "reward": 5.0}
    assert after(config, best, best, {"right": 0.2}, best, less) is None, "one by one they are no fall"
    assert "right is 0.21, and was 0.4 at best" in after(config, best, best, less | {"reward": 4.0}, less)
    assert after(HealthConfig(patience=1, window=1), {"right": 0.0}, {"right": 0.0}) is None


@pytest.mark.parametrize("stopped", [1, 7, 23])
def test_a_replayed_memory_judges_alike(stopped):
    draw = random.Random(0)
    figures = [
        {name: value * draw.uniform(0.2, 2.0) for name, value in WELL.items()} | {"kind": "rollouts", "step": step}
        for step in range(60)
    ]
    config = HealthConfig(patience=2, window=3, fall=0.1, growth=1.5)
    whole = Health(config)
    said = [whole.check(each) for each in figures]
    assert any(said[stopped:]), "the test must see a rule stop"
    resumed = Health(config)
    resumed.replay([{"kind": "train", "reward": 9.0}, *figures[:stopped]], "rollouts")
    assert [resumed.check(each) for each in figures[stopped:]] == said[stopped:]


@pytest.mark.parametrize("wrong", [{"kl": -1.0}, {"silent": 1.5}, {"growth": 0.5}, {"patience": 0}, {"fall": math.nan}])
def test_limits_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        HealthConfig(**wrong)
