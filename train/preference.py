"""Preference objectives: what judged answers teach a model, as functions of the log-probabilities of whole answers.

    losses = pair_losses(PreferenceConfig(kind="dpo", beta=0.1), Logs(policy, reference, tokens))       # (B,)
    losses = kto_losses(PreferenceConfig(kind="kto"), answers, mismatched, good)                        # (B, G)

With log p the log-probability of an answer (the sum over its tokens and its end) under the model that is trained, log q
that under the reference, and the *gain* r = log p - log q; c the chosen and j the rejected answer, D = r_c - r_j, m the
mean of log p over an answer's tokens, s the logistic function:

| kind | loss of a pair | source |
|---|---|---|
| dpo | -log s(beta D) | Rafailov et al. 2023 |
| cdpo | (1 - e) dpo(D) + e dpo(-D), e = `noise`: the share of pairs that are the wrong way round | Mitchell 2023 |
| rdpo | ((1 - e) dpo(D) - e dpo(-D)) / (1 - 2e): unbiased under such noise | Chowdhury et al. 2024 |
| ipo | (D - 1 / (2 beta))^2 | Azar et al. 2023 |
| hinge | max(0, 1 - beta D) | SLiC, Zhao et al. 2023, with the reference of Liu et al. 2024 |
| simpo | -log s(beta (m_c - m_j) - gamma), no reference | Meng et al. 2024 |
| orpo | -m_c - beta log s(o_c - o_j), o = m - log(1 - exp m) the log odds, no reference | Hong et al. 2024 |
| kto | of a good answer good (1 - s(beta (r - z))), of a bad one bad (1 - s(beta (z - r))) | Ethayarajh et al. 2024 |

KTO needs no pairs. Its z estimates the KL divergence from the reference: max(0, mean gain of answers to *other* prompts
in the same group); it is a constant for the gradient, and the group is a row of the batch, so that the loss is the same
however the batch is split.

`anchor` adds, for every chosen or good answer, `anchor` times -m, its loss per token (Pang et al. 2024): pairs as such
only ask for a difference, which is also had by making both answers unlikely.

All functions are pure and compute in the dtype of their inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from configs import check
from data.batches import Batch
from model.heads import LanguageModel
from train.objectives import LossTerms

Kind = Literal["dpo", "cdpo", "rdpo", "ipo", "hinge", "simpo", "orpo", "kto"]


@dataclass(frozen=True)
class PreferenceConfig:
    """An objective; see the head of the module.

    beta     how strongly differences count: the smaller, the further the model may go from its reference
    noise    of cdpo and rdpo: the share of pairs that are the wrong way round, below one half
    gamma    of simpo: the difference that is aimed at
    anchor   weight of the likelihood of chosen answers
    good, bad   of kto: weights of good and of bad answers
    group    of kto: answers that share an estimate of the divergence, which are one row of a batch
    """

    kind: Kind = "dpo"
    beta: float = 0.1
    noise: float = 0.1
    gamma: float = 0.5
    anchor: float = 0.0
    good: float = 1.0
    bad: float = 1.0
    group: int = 8

    def __post_init__(self):
        problems = [
            f"{n} must be positive, got {getattr(self, n)}" for n in ("beta", "good", "bad") if getattr(self, n) <= 0
        ]
        problems += [
            f"{n} must not be negative, got {getattr(self, n)}" for n in ("gamma", "anchor") if getattr(self, n) < 0
        ]
        if not 0 <= self.noise < 0.5:
            problems.append(f"noise must be at least 0 and below 0.5, got {self.noise}")
        if self.group < 2:
            problems.append(f"group must be at least 2, got {self.group}")
        check(problems)


class Logs(NamedTuple):
    """Of answers, all of one shape: log-probabilities under the policy and the reference, and numbers of tokens."""

    policy: Tensor
    reference: Tensor
    tokens: Tensor

    @property
    def gain(self) -> Tensor:
        """r = log p - log q."""
        return self.policy - self.reference

    @property
    def mean(self) -> Tensor:
        """m, the mean log-probability of a token."""
        return self.policy / self.tokens.clamp(min=1)

    def part(self, first: int, last: int) -> Logs:
        """Those at places first..last-1 of the last axis."""
        return Logs(*(each[..., first:last] for each in self))


# Losses --------------------------------------------------------------------------------------------------------------


def pair_losses(config: PreferenceConfig, logs: Logs) -> Tensor:
    """The losses (B,) of pairs (B, 2), the chosen answer in front; any kind but "kto"."""
    beta, noise = config.beta, config.noise
    difference = logs.gain[..., 0] - logs.gain[..., 1]
    match config.kind:
        case "dpo":
            losses = -logsigmoid(beta * difference)
        case "cdpo":
            losses = -(1 - noise) * logsigmoid(beta * difference) - noise * logsigmoid(-beta * difference)
        case "rdpo":
            both = (1 - noise) * logsigmoid(beta * difference) - noise * logsigmoid(-beta * difference)
            losses = -both / (1 - 2 * noise)
        case "ipo":
            losses = (difference - 1 / (2 * beta)).square()
        case "hinge":
            losses = (1 - beta * difference).relu()
        case "simpo":
            losses = -logsigmoid(beta * (logs.mean[..., 0] - logs.mean[..., 1]) - config.gamma)
        case "orpo":
            odds = log_odds(logs.mean)
            losses = -logs.mean[..., 0] - beta * logsigmoid(odds[..., 0] - odds[..., 1])
        case _:
            raise ValueError(f"{config.kind} is no objective of pairs")
    return losses - config.anchor * logs.mean[..., 0] if config.anchor else losses


def log_odds(mean: Tensor) -> Tensor:
    """log(p / (1 - p)) of p = exp(mean), mean < 0; of a certain answer it is large and finite."""
    small = torch.finfo(mean.dtype).eps
    return mean - torch.log(-torch.expm1(mean.clamp(max=-small)))


def divergence(mismatched: Logs) -> Tensor:
    """z of KTO: (..., G) answers to other prompts -> (..., 1), without gradient. Of an empty place both are 0."""
    total = mismatched.gain.detach().sum(-1, keepdim=True)
    return (total / (mismatched.tokens > 0).sum(-1, keepdim=True).clamp(min=1)).clamp(min=0)


def kto_losses(config: PreferenceConfig, answers: Logs, mismatched: Logs, good: Tensor) -> Tensor:
    """The losses (B, G) of judged answers; 0 at empty places. good (B, G) bool; mismatched (B, G): answers that
    belong to other prompts, for the estimate of the divergence.
    """
    z, gain = divergence(mismatched), answers.gain
    weight = torch.where(good, config.good, config.bad).to(gain.dtype)
    losses = weight * torch.sigmoid(-config.beta * torch.where(good, gain - z, z - gain))  # 1 - s(x) = s(-x)
    if config.anchor:
        losses = losses - config.anchor * torch.where(good, answers.mean, 0.0)
    return torch.where(answers.tokens > 0, losses, 0.0)


def total_loss(config: PreferenceConfig, logs: Logs, good: Tensor) -> LossTerms:
    """Sum and number over rows of K answers: pairs (K = 2), or for KTO G answers and then G mismatched ones (K = 2G).

    good (B, K) bool: which answers are good; of pairs it is the first.
    """
    if config.kind != "kto":
        losses = pair_losses(config, logs)
        return LossTerms(losses.sum(), losses.new_tensor(losses.numel()))
    G = logs.policy.shape[-1] // 2
    answers = logs.part(0, G)
    losses = kto_losses(config, answers, logs.part(G, 2 * G), good[..., :G])
    return LossTerms(losses.sum(), (answers.tokens > 0).sum().to(losses.dtype))


# Log-probabilities ---------------------------------------------------------------------------------------------------


def answer_logs(model: LanguageModel, batch: Batch) -> Tensor:
    """The log-probabilities (B, K) of the answers of a batch of `data.answers.AnswerRows`; of an empty place 0."""
    shape = batch.tokens.shape
    tokens, documents, positions, targets = (
        part.flatten(0, 1) for part in (batch.tokens, batch.documents, batch.positions, batch.targets)
    )
    losses = model.head.losses(model.trunk(tokens, documents, positions), targets).view(shape)
    return -torch.where(batch.weights > 0, losses * batch.weights, 0.0).sum(-1)


def part_of(batch: Batch, first: int, last: int) -> Batch:
    """The answers at places first..last-1 of every row."""
    names = ("tokens", "targets", "weights", "documents", "positions")
    return Batch(*(getattr(batch, name)[:, first:last] for name in names), batch.samples)


class PreferenceObjective:
    """An objective for the trainer. reference, good: (rows, K), of all rows of the data, on the model's device."""

    def __init__(self, config: PreferenceConfig, reference: Tensor, good: Tensor):
        self.config, self.reference, self.good = config, reference, good

    def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
        if self.config.kind == "kto":
            G = batch.tokens.shape[1] // 2
            with torch.no_grad():
                mismatched = answer_logs(model, part_of(batch, G, 2 * G))
            policy = torch.cat([answer_logs(model, part_of(batch, 0, G)), mismatched], 1)
        else:
            policy = answer_logs(model, batch)
        logs = Logs(policy, self.reference[batch.samples], batch.weights.sum(-1))
        return total_loss(self.config, logs, self.good[batch.samples])
