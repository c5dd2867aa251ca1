"""From rewards to gradients: advantages, and the one objective of which policy-gradient methods are switches.

Answers stand in groups: K answers of the model to the same question. All functions are pure, on tensors whose last axis
is the group (..., K), or the tokens of an answer (..., T); `mask` says which places are tokens of answers.

| method | advantage of answer i | clip | mean over | groups without signal | source |
|---|---|---|---|---|---|
| grpo | (r_i - mean) / std | 0.2, 0.2 | tokens of an answer, then answers | count | Shao et al. 2024 |
| dr-grpo | r_i - mean | 0.2, 0.2 | tokens over a constant, then answers | count | Liu et al. 2025 |
| dapo | (r_i - mean) / std | 0.2, 0.28 | all tokens alike | sampled again | Yu et al. 2025 |
| rloo | r_i - mean of the others | 0.2, 0.2 | tokens over a constant, then answers | count | Ahmadian et al. 2024 |
| ppo | of each token: GAE with learnt values | 0.2, 0.2 | all tokens alike | count | Schulman et al. 2017 |
| rft | 1 for each different good answer, else none | none | all tokens alike | leave | Yuan et al. 2023 |

The loss of a token is  -min(w A, clip(w, 1 - low, 1 + high) A) + kl D,  with w = p / p_old, and D the divergence from
the reference (`k3`). Of "rft" it is -log p.

What it leaves out: advantages normalised over the whole batch (they would tie ranks together), an entropy bonus, a
clipped value loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from configs import check

Advantage = Literal["normalised", "centred", "leave-one-out", "values", "kept"]
Average = Literal["answer", "constant", "token"]
Method = Literal["grpo", "dr-grpo", "dapo", "rloo", "ppo", "rft"]
TINY = 1e-6  # added to standard deviations


@dataclass(frozen=True)
class Switches:
    """What methods differ in.

    advantage      see the table; "values" needs a value head
    average        what the loss is a mean of: answers, each the mean of its tokens; answers, each the sum of its tokens
                   divided by the longest allowed; all tokens
    low, high      clipping of w to [1 - low, 1 + high]
    skip_silent    groups without signal count nowhere: not in the mean, nor with their divergence
    attempts       how often a group without signal is sampled anew, with another question, before it is skipped
    kl_in_reward   the divergence (its sample, log p - log q) is taken off the reward instead of being in the loss
    """

    advantage: Advantage = "normalised"
    average: Average = "answer"
    low: float = 0.2
    high: float = 0.2
    skip_silent: bool = False
    attempts: int = 0
    kl_in_reward: bool = False

    def __post_init__(self):
        problems = [] if 0 < self.low <= 1 else [f"low must be above 0 and at most 1, got {self.low}"]
        problems += [] if self.high > 0 else [f"high must be positive, got {self.high}"]
        if self.attempts < 0:
            problems.append(f"attempts must not be negative, got {self.attempts}")
        check(problems)


METHODS: dict[Method, Switches] = {
    "grpo": Switches(),
    "dr-grpo": Switches("centred", "constant"),
    "dapo": Switches("normalised", "token", high=0.28, skip_silent=True, attempts=3),
    "rloo": Switches("leave-one-out", "constant", kl_in_reward=True),
    "ppo": Switches("values", "token", kl_in_reward=True),
    "rft": Switches("kept", "token", skip_silent=True),
}


# Advantages ----------------------------------------------------------------------------------------------------------


def is_silent(rewards: Tensor) -> Tensor:
    """(..., K) -> (...) bool: groups whose answers all have the same reward, from which nothing follows."""
    return (rewards == rewards[..., :1]).all(-1)


def group_advantages(rewards: Tensor, kind: Advantage) -> Tensor:
    """(..., K) -> (..., K), K at least 2. The standard deviation is that of the group itself (divided by K)."""
    centred = rewards - rewards.mean(-1, keepdim=True)
    match kind:
        case "normalised":
            return centred / (rewards.std(-1, correction=0, keepdim=True) + TINY)
        case "centred":
            return centred
        case "leave-one-out":
            K = rewards.shape[-1]
            return centred * (K / (K - 1))  # r_i - (sum - r_i) / (K - 1)
    raise ValueError(f"{kind} is no advantage of a group by itself")


def gae(rewards: Tensor, values: Tensor, mask: Tensor, discount: float, trace: float) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016): (..., T) each -> (..., T), 0 where there is no token.

    A_t = sum over l of (discount * trace)^l d_{t+l}, with d_t = r_t + discount * V_{t+1} - V_t. values: V_t is the
    value before token t is chosen. The tokens of an answer stand side by side; after the last one the value is 0.
    """
    inside = mask.to(values.dtype)
    values, advantages = values * inside, torch.zeros_like(values)
    following = ahead = torch.zeros_like(values[..., 0])  # value and advantage of the next token
    for t in reversed(range(values.shape[-1])):
        ahead = (rewards[..., t] + discount * following - values[..., t] + discount * trace * ahead) * inside[..., t]
        advantages[..., t], following = ahead, values[..., t]
    return advantages


# Losses --------------------------------------------------------------------------------------------------------------


def k3(policy: Tensor, reference: Tensor) -> Tensor:
    """An estimate of KL(policy, reference) from log-probabilities of what the policy has sampled: q/p - 1 - log(q/p),
    unbiased and never negative (Schulman 2020, http://joschu.net/blog/kl-approx.html)."""
    difference = reference - policy
    return difference.exp() - 1 - difference


def clipped_losses(policy: Tensor, old: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """-min(w A, clip(w) A) of each token; all of one shape."""
    ratio = (policy - old).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def averaged(losses: Tensor, mask: Tensor, counted: Tensor, kind: Average, longest: int) -> tuple[Tensor, Tensor]:
    """(total, weight), whose quotient over all batches and ranks is the mean that `kind` names.

    losses, mask: (..., K, T), mask of the tokens. counted: (..., K), 1 for an answer that counts and 0 for others.
    longest: the most tokens that an answer may have.
    """
    inside = mask.to(losses.dtype) * counted[..., None].to(losses.dtype)
    sums = (losses * inside).sum(-1)
    tokens = inside.sum(-1)
    if kind == "token":
        return sums.sum(), tokens.sum()
    each = sums / longest if kind == "constant" else sums / tokens.clamp(min=1)
    return each.sum(), counted.to(losses.dtype).sum()
