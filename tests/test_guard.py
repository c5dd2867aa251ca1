"""The guard: which steps are refused, by hand and against a plain computation; what it remembers survives a
checkpoint.
"""

from __future__ import annotations

import json
import random
import statistics

import pytest
import torch

from configs import ConfigError
from train.guard import DEVIATION, FLOOR, Guard, GuardConfig

CPU = torch.device("cpu")


def judge(guard: Guard, loss: float, norm: float = 1.0) -> bool:
    return bool(guard.judge(torch.tensor(loss, dtype=torch.float64), torch.tensor(norm)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused_and_not_remembered(bad):
    guard = Guard(GuardConfig(), CPU)
    assert not judge(guard, bad) and not judge(guard, 1.0, bad)
    assert guard.to_list() == []
    assert judge(guard, 1.0) and guard.to_list() == [[1.0, 1.0]]


def test_without_a_spike_rule_any_finite_step_passes():
    guard = Guard(GuardConfig(), CPU)
    assert all(judge(guard, loss) for loss in [1.0] * 100 + [1e9])


def test_spikes_are_those_of_a_plain_computation():
    """Median and median absolute deviation with the standard library, over 300 noisy steps with outliers."""
    config, generator = GuardConfig(spike=6, window=15), random.Random(1)
    guard, recent, refused = Guard(config, CPU), [], 0
    for step in range(300):
        loss = 3 / (1 + step / 50) + generator.gauss(0, 0.05) + (generator.random() < 0.05) * generator.uniform(0, 3)
        expected = True
        if len(recent) >= 7:
            centre = low_median(recent)
            deviation = max(DEVIATION * low_median([abs(x - centre) for x in recent]), FLOOR * abs(centre))
            expected = loss <= centre + 6 * deviation
        assert judge(guard, loss) == expected, step
        if expected:
            recent = [*recent, loss][-15:]
        refused += not expected
    assert 3 < refused < 30


def low_median(values):
    return statistics.median_low(values)


def test_a_spike_of_the_gradient_norm_is_refused_too():
    guard = Guard(GuardConfig(spike=5, window=8), CPU)
    assert all(judge(guard, 1.0, 1.0 + i / 100) for i in range(8))
    assert not judge(guard, 1.0, 50.0) and judge(guard, 1.0, 1.0)


def test_memory_survives_a_json_file_bit_for_bit():
    config = GuardConfig(spike=4, window=6)
    one, generator = Guard(config, CPU), random.Random(0)
    for _ in range(10):
        judge(one, 1 + generator.random() / 10, 1 + generator.random() / 10)
    other = Guard(config, CPU)
    other.load_list(json.loads(json.dumps(one.to_list())))
    assert torch.equal(one.recent, other.recent)
    figures = [1 + generator.random() for _ in range(20)]
    assert [judge(one, loss) for loss in figures] == [judge(other, loss) for loss in figures]


def test_all_problems_are_reported():
    with pytest.raises(ConfigError) as error:
        GuardConfig(spike=-1, window=1, patience=0)
    assert len(error.value.problems) == 3
