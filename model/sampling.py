"""Choosing the next token: temperature, top-k, top-p, min-p, repetition penalty; reproducible row by row.

The random number of a row is a pure function of (seed of the row, place in the sequence): no generator state, so a
row gives the same text alone or in any batch, and generation can be resumed anywhere.

What it leaves out: beam search, penalties by count, and constraints beyond a list of banned tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from configs import UserError, check

GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # 2**64 / golden ratio, as int64


@dataclass(frozen=True)
class Sampling:
    """How to choose. The penalty comes first; the temperature divides the logits; the filters act in the order of the
    fields.

    temperature  0 takes the most likely token
    top_k        keep the k most likely tokens (Fan et al. 2018); 0 keeps all
    top_p        keep the fewest tokens whose probabilities reach p (Holtzman et al. 2020); 1 keeps all
    min_p        keep tokens with at least min_p times the probability of the most likely one (Nguyen et al. 2024)
    repetition_penalty  logits of tokens seen before are divided by it when positive, multiplied when negative
                 (Keskar et al. 2019, CTRL); 1 is off
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self):
        problems = []
        if not 0 <= self.temperature < math.inf:
            problems.append(f"temperature must be a number not below 0, got {self.temperature}")
        if self.top_k < 0:
            problems.append(f"top_k must not be negative, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            problems.append(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if not 0 <= self.min_p <= 1:
            problems.append(f"min_p must lie between 0 and 1, got {self.min_p}")
        if not 0 < self.repetition_penalty < math.inf:
            problems.append(f"repetition_penalty must be positive, got {self.repetition_penalty}")
        check(problems)


def choose(logits: Tensor, sampling: Sampling, seeds: Tensor, place: Tensor, seen: Tensor | None = None) -> Tensor:
    """The next token of each row, (B,) int64.

    logits: (B, V) float32. seeds: (B,) int64. place: (B,) int64, position of the new token in its row.
    seen: (B, V) bool, tokens that occurred before, for the repetition penalty.
    Raises UserError when the logits of a row are no numbers (NaN, or all infinite).
    """
    if not logits.amax(-1).isfinite().all():
        raise UserError(
            "the model gives no numbers for the next token (NaN or infinity): its weights are damaged or its training "
            "diverged; use another checkpoint"
        )
    if sampling.repetition_penalty != 1 and seen is not None:
        penalised = torch.where(logits > 0, logits / sampling.repetition_penalty, logits * sampling.repetition_penalty)
        logits = torch.where(seen, penalised, logits)
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probabilities = filtered_probabilities(logits / sampling.temperature, sampling)
    cumulative = probabilities.double().cumsum(-1)
    threshold = uniform(seeds, place) * cumulative[:, -1]  # below the last sum, so a token of probability 0 is not hit
    return torch.searchsorted(cumulative, threshold[:, None], right=True)[:, 0]


def filtered_probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """Softmax of (B, V) logits after top-k, top-p and min-p, of which each acts on what the one before has kept.

    The most likely token of each row is always kept; of equally likely ones those with the lower ids come first.
    """
    if not sampling.top_k and sampling.top_p == 1 and not sampling.min_p:
        return logits.softmax(-1)
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(-1)
    keep = torch.ones_like(probabilities, dtype=torch.bool)
    if sampling.top_k:
        keep[:, sampling.top_k :] = False
    if sampling.top_p < 1:
        kept = probabilities * keep
        kept = kept / kept.sum(-1, keepdim=True)
        keep &= kept.cumsum(-1) - kept < sampling.top_p
    if sampling.min_p:
        keep &= probabilities >= sampling.min_p * probabilities[:, :1]
    probabilities = torch.where(keep, probabilities, 0)
    probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return torch.empty_like(probabilities).scatter_(-1, order, probabilities)


def uniform(seeds: Tensor, counters: Tensor) -> Tensor:
    """Numbers from pairs of integers, (B,) int64 each: (B,) float64, multiples of 2**-52 in [0, 1).

    A counter-based generator: two rounds of splitmix64 (Steele et al. 2014), as `data.order.mix`, on wrapping int64.
    """
    x = _mix(seeds + GOLDEN)
    x = _mix(x + counters * GOLDEN + GOLDEN)
    return _shift(x, 12).double() / 2**52  # with 53 bits, the largest one times a sum could round up to that sum


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _shift(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
