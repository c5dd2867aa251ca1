"""Advantages and losses: by hand, against closed forms in float64, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from configs import ConfigError
from train.advantages import METHODS, Switches, averaged, clipped_losses, gae, group_advantages, is_silent, k3


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(found: torch.Tensor, wanted: torch.Tensor | list, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(
        found, torch.as_tensor(wanted, dtype=found.dtype), rtol=tolerance, atol=tolerance, check_dtype=True
    )


# Advantages ----------------------------------------------------------------------------------------------------------


def test_advantages_by_hand():
    rewards = numbers(1, 0, 0, 1, 1, 0, 0, 0)  # mean 3/8, variance 15/64
    std = math.sqrt(15) / 8
    wanted = [(r - 3 / 8) / std for r in rewards.tolist()]
    close(group_advantages(rewards, "normalised"), wanted, 1e-5)
    close(group_advantages(rewards, "centred"), [r - 3 / 8 for r in rewards.tolist()])
    close(group_advantages(rewards, "leave-one-out"), [5 / 7, -3 / 7, -3 / 7, 5 / 7, 5 / 7, -3 / 7, -3 / 7, -3 / 7])
    close(group_advantages(numbers(3, 1), "normalised"), [1, -1], 1e-5)


groups = some.lists(some.floats(-5, 5), min_size=2, max_size=9)


@settings(max_examples=30)
@given(groups)
def test_leave_one_out_compares_with_the_others(rewards):
    found = group_advantages(numbers(*rewards), "leave-one-out")
    others = [(sum(rewards) - r) / (len(rewards) - 1) for r in rewards]
    close(found, [r - mean for r, mean in zip(rewards, others)], 1e-9)


@settings(max_examples=30)
@given(groups, some.floats(-3, 3), some.sampled_from(["normalised", "centred", "leave-one-out"]))
def test_advantages_ignore_what_all_answers_get(rewards, more, kind):
    one, other = (group_advantages(numbers(*(r + add for r in rewards)), kind) for add in (0.0, more))
    close(one, other, 1e-6 if kind != "normalised" else 1e-2)
    assert abs(float(one.sum())) < 1e-6


def test_groups_stand_by_themselves():
    """Groups of a batch are not normalised together (a mistake that others have made)."""
    two = torch.stack([numbers(1, 0, 0), numbers(9, 5, 7)])
    for kind in ("normalised", "centred", "leave-one-out"):
        close(group_advantages(two, kind), torch.stack([group_advantages(each, kind) for each in two]))


def test_silence():
    rewards = torch.stack([numbers(1, 1, 1), numbers(0, 0, 0), numbers(0, 0, 1)])
    assert is_silent(rewards).tolist() == [True, True, False]
    close(group_advantages(rewards, "normalised")[:2], torch.zeros(2, 3))


def test_gae_by_hand():
    """Two tokens after a prompt of one, and one place of padding."""
    rewards, values = numbers(9, 0.5, 2, 9), numbers(9, 1.0, 3.0, 9)
    mask = torch.tensor([False, True, True, False])
    g, t = 0.9, 0.8
    last = 2 - 3.0
    first = 0.5 + g * 3.0 - 1.0 + g * t * last
    close(gae(rewards, values, mask, g, t), [0, first, last, 0])


def test_gae_at_its_ends():
    """Trace 1 and discount 1: what is still to come minus the value. Trace 0: the error of one step."""
    torch.manual_seed(0)
    rewards, values = torch.randn(2, 5, 7).double(), torch.randn(2, 5, 7).double()
    mask = torch.zeros(2, 5, 7, dtype=torch.bool)
    for row in range(5):
        mask[:, row, 1 : 2 + row] = True
    rewards = rewards * mask
    to_come = rewards.flip(-1).cumsum(-1).flip(-1)
    close(gae(rewards, values, mask, 1.0, 1.0), (to_come - values) * mask, 1e-9)
    following = torch.cat([values[..., 1:] * mask[..., 1:], torch.zeros(2, 5, 1)], -1)
    close(gae(rewards, values, mask, 0.7, 0.0), (rewards + 0.7 * following - values) * mask, 1e-9)


# Losses --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 2.0, -2.0 * 1.28, 0.0),  # good and already likelier: no more
        (0.5, 2.0, -1.0, -1.0),  # good and less likely: back
        (1.5, -2.0, 3.0, 3.0),  # bad and likelier: back
        (0.5, -2.0, 2.0 * 0.8, 0.0),  # bad and already less likely: no more
    ],
)
def test_the_clipped_loss_and_its_gradient(ratio, advantage, loss, slope):
    """The gradient by log p is -w A where the clip does not act."""
    old = numbers(-1.3)
    policy = (old + math.log(ratio)).requires_grad_()
    found = clipped_losses(policy, old, numbers(advantage), 0.2, 0.28)
    found.sum().backward()
    close(found.detach(), [loss], 1e-9)
    close(policy.grad, [slope], 1e-9)


def test_gradients_of_losses_against_differences():
    torch.manual_seed(0)
    policy = (torch.randn(3, 4).double() - 2).requires_grad_()
    old, reference, advantages = (torch.randn(3, 4).double() - 2 for _ in range(3))
    assert torch.autograd.gradcheck(lambda p: clipped_losses(p, old, advantages, 0.2, 0.28), (policy,))
    assert torch.autograd.gradcheck(lambda p: k3(p, reference), (policy,))


def test_k3_is_the_divergence_in_the_mean():
    """Exactly: the expectation over all tokens of a distribution, and its gradient is zero where both are equal."""
    torch.manual_seed(0)
    p, q = (torch.randn(50).double().log_softmax(0) for _ in range(2))
    close((p.exp() * k3(p, q)).sum(), (p.exp() * (p - q)).sum(), 1e-9)
    assert (k3(p, q) >= 0).all() and (k3(p, p) == 0).all()
    policy = p.clone().requires_grad_()
    k3(policy, p).sum().backward()
    close(policy.grad, torch.zeros(50))


def test_the_three_means_by_hand():
    """A group of two answers with 1 and 3 tokens, and a group that does not count."""
    losses = torch.arange(1.0, 17.0, dtype=torch.float64).view(2, 2, 4)
    mask = torch.tensor([[[0, 1, 0, 0], [0, 1, 1, 1]], [[0, 1, 1, 0], [1, 1, 1, 1]]]).bool()
    counted = torch.tensor([[1, 1], [0, 0]])
    for kind, total, weight in [
        ("answer", 2.0 + (6 + 7 + 8) / 3, 2),
        ("constant", (2.0 + 6 + 7 + 8) / 5, 2),
        ("token", 2.0 + 6 + 7 + 8, 4),
    ]:
        found = averaged(losses, mask, counted, kind, longest=5)
        close(found[0], total)
        assert float(found[1]) == weight


@pytest.mark.parametrize("kind", ["answer", "constant", "token"])
def test_the_mean_does_not_depend_on_the_split(kind):
    torch.manual_seed(0)
    losses, mask = torch.randn(6, 3, 5).double(), torch.rand(6, 3, 5) > 0.4
    counted = (torch.rand(6, 3) > 0.3).double()
    whole = averaged(losses, mask, counted, kind, 5)
    parts = [averaged(losses[i : i + 2], mask[i : i + 2], counted[i : i + 2], kind, 5) for i in (0, 2, 4)]
    close(whole[0], sum(part[0] for part in parts))
    close(whole[1], sum(part[1] for part in parts))


def test_methods_are_switches():
    assert METHODS["grpo"] == Switches("normalised", "answer", 0.2, 0.2, False, 0, False)
    assert METHODS["dapo"].high > METHODS["dapo"].low
    with pytest.raises(ConfigError, match="low"):
        Switches(low=0.0)
    with pytest.raises(ConfigError, match="high"):
        Switches(high=-0.1)
