"""Additive bias of attention scores: a tensor, or ALiBi, which is computed where it is needed.

ALiBi (Press, Smith, Lewis 2021, "Train Short, Test Long") lowers a score by slope[h] times the distance between query
and key; the slopes form a geometric series over the heads. In a bidirectional model the distance is its absolute value.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.masks import Offset, positions


@dataclass(frozen=True, eq=False)
class ALiBi:
    """slopes: (H,) float, positive. offset: position of the first query, as in `kernels.masks.Causal`."""

    slopes: Tensor
    offset: Offset = None

    @classmethod
    def for_heads(cls, H: int, device: torch.device | str | None = None, offset: Offset = None) -> ALiBi:
        """The slopes of the paper for H heads."""
        return cls(torch.tensor(alibi_slopes(H), device=device), offset)

    def dense(self, T: int, S: int) -> Tensor:
        """(B or 1, H, T, S) in the dtype of the slopes: - slope * |position of the query - position of the key|."""
        key = torch.arange(S, device=self.slopes.device)
        distance = (positions(self.offset, T, S, self.slopes.device)[:, None, :, None] - key).abs()
        return -self.slopes[:, None, None] * distance


def alibi_slopes(H: int) -> list[float]:
    """2^(-8 i / H) for i = 1 .. H when H is a power of two; else those of the power below, then every other one of
    the power above (the authors' rule)."""
    power = 1 << (H.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    between = [2.0 ** (-8.0 * (i + 1) / (2 * power)) for i in range(0, 2 * power, 2)]
    return slopes + between[: H - power]


Bias = Tensor | ALiBi | None


def dense_bias(bias: Tensor | ALiBi, T: int, S: int) -> Tensor:
    """As a tensor with four axes that broadcasts to (B, H, T, S)."""
    if isinstance(bias, ALiBi):
        return bias.dense(T, S)
    return bias.view((1,) * (4 - bias.ndim) + bias.shape)
