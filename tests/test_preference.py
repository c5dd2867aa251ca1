"""Preference objectives: each loss is its closed form in float64, so is its gradient, and the identities hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from configs import ConfigError
from data.answers import AnswerRows, example_of
from tests.small import small_model
from train.preference import (
    Logs,
    PreferenceConfig,
    PreferenceObjective,
    answer_logs,
    divergence,
    kto_losses,
    log_odds,
    pair_losses,
    total_loss,
)

PAIRED = ("dpo", "cdpo", "rdpo", "ipo", "hinge", "simpo", "orpo")
B, G = 5, 4


def logs_of(*shape: int, seed: int = 0) -> Logs:
    generator = torch.Generator().manual_seed(seed)
    policy, reference = -10 * torch.rand(2, *shape, generator=generator, dtype=torch.float64) - 0.1
    return Logs(policy.requires_grad_(), reference, torch.randint(1, 9, shape, generator=generator).double())


def at_reference(*shape: int) -> Logs:
    logs = logs_of(*shape)
    return logs._replace(policy=logs.reference.clone().requires_grad_())


def slope(losses: torch.Tensor, logs: Logs) -> torch.Tensor:
    return torch.autograd.grad(losses.sum(), logs.policy)[0]


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def by_hand(config: PreferenceConfig, p: list[float], q: list[float], n: list[float]) -> float:
    """The loss of one pair in plain floats, written down from the papers."""
    beta, e = config.beta, config.noise
    difference = (p[0] - q[0]) - (p[1] - q[1])
    one, other = -math.log(logistic(beta * difference)), -math.log(1 - logistic(beta * difference))
    a, b = math.exp(p[0] / n[0]), math.exp(p[1] / n[1])  # geometric means of the probabilities of tokens
    ratio = (a / (1 - a)) / (b / (1 - b))
    loss = {
        "dpo": one,
        "cdpo": (1 - e) * one + e * other,
        "rdpo": ((1 - e) * one - e * other) / (1 - 2 * e),
        "ipo": (difference - 0.5 / beta) ** 2,
        "hinge": max(0.0, 1 - beta * difference),
        "simpo": -math.log(logistic(beta / n[0] * p[0] - beta / n[1] * p[1] - config.gamma)),
        "orpo": -p[0] / n[0] - beta * math.log(logistic(math.log(ratio))),
    }[config.kind]
    return loss - config.anchor * p[0] / n[0]


@pytest.mark.parametrize("anchor", [0.0, 0.7])
@pytest.mark.parametrize("kind", PAIRED)
def test_losses_of_pairs_are_their_closed_forms(kind, anchor):
    config, logs = PreferenceConfig(kind, beta=0.3, noise=0.2, gamma=0.4, anchor=anchor), logs_of(B, 2)
    expected = [by_hand(config, *each) for each in zip(*(part.tolist() for part in logs))]
    assert pair_losses(config, logs).tolist() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda policy: pair_losses(config, logs._replace(policy=policy)), logs.policy)


@pytest.mark.parametrize("anchor", [0.0, 0.7])
def test_kto_is_its_closed_form(anchor):
    config = PreferenceConfig("kto", beta=0.3, good=1.5, bad=0.5, anchor=anchor)
    answers, others = logs_of(B, G), logs_of(B, G, seed=1)
    good = torch.rand(B, G) < 0.5
    expected = []
    for row in range(B):
        z = max(0.0, sum(others.gain[row].tolist()) / G)
        for r, m, is_good in zip(answers.gain[row].tolist(), answers.mean[row].tolist(), good[row].tolist()):
            loss = 1.5 * (1 - logistic(0.3 * (r - z))) if is_good else 0.5 * (1 - logistic(0.3 * (z - r)))
            expected.append(loss - (anchor * m if is_good else 0))
    assert len({round(z, 6) for z in divergence(others).flatten().tolist()} - {0.0}) > 1, (
        "some groups have a divergence"
    )
    assert kto_losses(config, answers, others, good).flatten().tolist() == pytest.approx(expected, rel=1e-12)
    loss = lambda policy: kto_losses(config, answers._replace(policy=policy), others, good)
    assert torch.autograd.gradcheck(loss, answers.policy)


def test_dpo_at_the_reference_is_log_2_and_pulls_the_answers_apart():
    logs = at_reference(B, 2)
    for kind in ("dpo", "cdpo"):
        losses = pair_losses(PreferenceConfig(kind, beta=0.3, noise=0.2), logs)
        assert losses.tolist() == pytest.approx([math.log(2)] * B, abs=1e-15)
    gradient = slope(pair_losses(PreferenceConfig("dpo", beta=0.3), logs), logs)
    torch.testing.assert_close(gradient, torch.tensor([[-0.15, 0.15]], dtype=torch.float64).expand(B, 2))


def test_ipo_is_least_at_a_margin_of_one_over_two_beta():
    logs, config = at_reference(B, 2), PreferenceConfig("ipo", beta=0.25)
    best = logs._replace(policy=(logs.reference + torch.tensor([1.25, -0.75])).detach().requires_grad_())
    losses = pair_losses(config, best)
    assert losses.abs().max() < 1e-24 and slope(losses, best).abs().max() < 1e-12
    less = logs._replace(policy=(logs.reference + torch.tensor([1.0, -0.75])).detach().requires_grad_())
    assert (slope(pair_losses(config, less), less)[:, 0] < 0).all()


def test_kto_with_equal_policies_is_half_the_weights():
    logs, good = at_reference(B, G), torch.rand(B, G) < 0.5
    losses = kto_losses(PreferenceConfig("kto", beta=0.4, good=1.5, bad=0.5), logs, at_reference(B, G), good)
    torch.testing.assert_close(losses, torch.where(good, 0.75, 0.25).double())
    expected = torch.where(good, -1.5, 0.5).double() * 0.4 / 4
    torch.testing.assert_close(slope(losses, logs), expected)


def test_the_divergence_is_a_constant_and_not_below_0():
    others = logs_of(B, G)
    assert not divergence(others).requires_grad
    below = others._replace(reference=others.policy.detach() + 1)
    assert divergence(below).tolist() == [[0.0]] * B
    assert divergence(at_reference(B, G)._replace(reference=torch.full((B, G), -50.0))).min() > 0


def test_rdpo_is_unbiased_under_its_noise():
    """The mean over pairs, of which a share is the wrong way round, is the DPO loss of the right ones."""
    config, logs = PreferenceConfig("rdpo", beta=0.3, noise=0.2), logs_of(B, 2)
    turned = Logs(*(part.flip(-1) for part in logs))
    noisy = 0.8 * pair_losses(config, logs) + 0.2 * pair_losses(config, turned)
    torch.testing.assert_close(noisy, pair_losses(PreferenceConfig("dpo", beta=0.3), logs), rtol=1e-12, atol=0)


def test_without_noise_the_conservative_and_the_robust_loss_are_dpo():
    plain = pair_losses(PreferenceConfig("dpo"), logs_of(B, 2))
    for kind in ("cdpo", "rdpo"):
        torch.testing.assert_close(pair_losses(PreferenceConfig(kind, noise=0.0), logs_of(B, 2)), plain)


@pytest.mark.parametrize("kind", ["simpo", "orpo"])
def test_these_ask_no_reference(kind):
    logs = logs_of(B, 2)
    other = logs._replace(reference=logs.reference * 3 - 1)
    assert torch.equal(pair_losses(PreferenceConfig(kind), logs), pair_losses(PreferenceConfig(kind), other))


def test_extreme_answers_give_finite_losses_and_gradients():
    for value in (-1e4, -1e-30, 0.0):
        logs = Logs(torch.tensor([[value, -1.0]], requires_grad=True), torch.tensor([[-1.0, value]]), torch.ones(1, 2))
        for kind in PAIRED:
            losses = pair_losses(PreferenceConfig(kind, beta=0.5, anchor=1.0), logs)
            assert losses.isfinite().all() and slope(losses, logs).isfinite().all(), (kind, value)
        assert log_odds(logs.policy).isfinite().all()
        losses = kto_losses(PreferenceConfig("kto"), logs, logs, torch.tensor([[True, False]]))
        assert losses.isfinite().all() and slope(losses, logs).isfinite().all()


def test_an_empty_place_has_no_loss_and_no_gradient():
    logs, others = logs_of(B, G), logs_of(B, G, seed=1)
    here = torch.tensor([1.0] * (G - 1) + [0.0], dtype=torch.float64)
    empty = Logs((logs.policy * here).detach().requires_grad_(), logs.reference * here, logs.tokens * here)
    assert empty.mean[:, -1].tolist() == [0.0] * B
    losses = kto_losses(PreferenceConfig("kto", anchor=0.5), empty, others, torch.ones(B, G, dtype=torch.bool))
    assert (losses[:, :-1] != 0).all() and losses[:, -1].tolist() == [0.0] * B
    gradient = slope(losses, empty)
    assert (gradient[:, :-1] != 0).all() and gradient[:, -1].tolist() == [0.0] * B


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"beta": 0.0}, "beta"), ({"noise": 0.5}, "noise"), ({"group": 1}, "group"), ({"anchor": -1.0}, "anchor")],
)
def test_wrong_settings_are_named(changes, text):
    with pytest.raises(ConfigError, match=text):
        PreferenceConfig(**changes)


# On models -----------------------------------------------------------------------------------------------------------


def groups_of(count: int, size: int, empty: int = 0) -> AnswerRows:
    """Answers of unequal length to prompts of unequal length; `empty` places at the end of the last group."""
    draw = np.random.default_rng(0)
    groups = []
    for _ in range(count):
        given = draw.integers(5, 61, draw.integers(2, 9)).tolist()
        groups.append([example_of(given, draw.integers(5, 61, draw.integers(1, 12)).tolist()) for _ in range(size)])
    for place in range(size - empty, size):
        groups[-1][place] = None
    return AnswerRows(groups, 48, 0)


@torch.no_grad()
def test_log_probabilities_are_sums_over_the_tokens_of_each_answer():
    """Against one sequence at a time, without padding, in float64; an empty place has 0."""
    model, rows = small_model(dtype=torch.float64), groups_of(3, 3, empty=1)
    found = answer_logs(model, rows.batch(np.arange(3), np.arange(3)))
    assert found[2, 2] == 0
    for row, group in enumerate(rows.groups):
        for place, each in enumerate(group):
            if each is not None:
                ids = torch.from_numpy(each.ids)
                logits = model(ids[None, :-1])[0].log_softmax(-1)
                taken = logits.gather(1, ids[1:, None])[:, 0][torch.from_numpy(each.weights[1:]) > 0]
                assert float(found[row, place]) == pytest.approx(float(taken.sum()), rel=1e-12)


@pytest.mark.parametrize("kind", ["dpo", "orpo", "kto"])
def test_the_loss_and_its_gradient_do_not_depend_on_the_split(kind):
    """Micro-batches of one row against all at once, in float64, with an unequal last group for KTO."""
    model = small_model(dtype=torch.float64)
    rows = groups_of(5, 6, empty=1) if kind == "kto" else groups_of(5, 2)
    if kind == "kto":
        rows.groups[-1][2] = None  # its judged answer and its mismatched one are empty together
    reference = -20 * torch.rand(5, rows.size, dtype=torch.float64)
    good = torch.rand(5, rows.size) < 0.5
    objective = PreferenceObjective(PreferenceConfig(kind, anchor=0.3), reference, good)
    batch = rows.batch(np.arange(5), np.arange(5))
    found = []
    for parts in ([batch], batch.split(1), batch.split(2)):
        model.zero_grad()
        terms = [objective(model, part) for part in parts]
        sum(term.total for term in terms).backward()
        found.append((sum(float(t.total) for t in terms), sum(float(t.weight) for t in terms)))
        found[-1] += (torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]),)
    for total, weight, gradient in found[1:]:
        assert weight == found[0][1] == (14 if kind == "kto" else 5)
        assert total == pytest.approx(found[0][0], rel=1e-12)
        torch.testing.assert_close(gradient, found[0][2], rtol=1e-9, atol=1e-12)


def test_mismatched_answers_get_no_gradient():
    """A group with all its weight in the estimate: the gradient is that of the judged answers alone."""
    logs = logs_of(1, 4)
    total_loss(PreferenceConfig("kto"), logs, torch.tensor([[True, False, False, False]])).total.backward()
    assert (logs.policy.grad[0, :2] != 0).all() and (logs.policy.grad[0, 2:] == 0).all()
