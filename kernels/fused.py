"""The small operations between the large products, as plain functions that a compiler fuses.

What it is. Normalization, rotary positions and gated activations read and write much and compute little: eager PyTorch
makes one pass over memory for each of their five to ten steps. They are written here as plain arithmetic; inside a
compiled model each becomes one loop. A model that runs eagerly can take `compiled(function)`, which is
`torch.compile(function)` made once.

    q, k = norm_rotary(q, k, cos, sin, q_weight, k_weight)            # inside a compiled model
    q, k = compiled(norm_rotary)(q, k, cos, sin, q_weight, k_weight)  # anywhere else

Why no kernels by hand: the measurement in results/ shows the compiler's loop at the speed of memory.

Rotary convention (Su et al. 2021, in the half-split layout of GPT-NeoX): channel i of the first half turns together
with channel i of the second half, by the angle position * base^(-2 i / D).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang and Sennrich 2019), computed in float32.

    x: (..., C). weight: (C,) or None. Returns (..., C) in the dtype of x.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (normed if weight is None else normed * weight).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor | None, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """The step between two sub-layers: (rms_norm(residual + x), residual + x). All (..., C)."""
    residual = residual + x
    return rms_norm(residual, weight, eps), residual


def rotary_tables(positions: Tensor, D: int, base: float = 10000.0) -> tuple[Tensor, Tensor]:
    """cos and sin of position * base^(-2 i / D), i < D / 2: float32.

    positions: (T,) or (B, T) numbers. D: head width, even. Returns two of (T, D / 2) or (B, T, D / 2).
    """
    frequency = base ** (torch.arange(0, D, 2, device=positions.device, dtype=torch.float64) / -D)
    angle = positions[..., None].to(torch.float64) * frequency  # float32 loses the angle of late positions
    return angle.cos().float(), angle.sin().float()


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of channels by its angle, computed in float32.

    x: (B, H, T, D). cos, sin: (T, D / 2), or (B, T, D / 2) where rows have their own positions. Returns (B, H, T, D).
    """
    if cos.ndim == 3:
        cos, sin = cos[:, None], sin[:, None]  # (B, 1, T, D / 2)
    one, two = x.chunk(2, dim=-1)
    return torch.cat([one * cos - two * sin, two * cos + one * sin], dim=-1).to(x.dtype)


def norm_rotary(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """Head norm (Henry et al. 2020, as in Qwen3) and rotary positions of queries and keys together.

    q: (B, H, T, D), k: (B, K, T, D), cos and sin as in `rotary`, weights (D,) or None. Returns q and k.
    """
    return rotary(rms_norm(q, q_weight, eps), cos, sin), rotary(rms_norm(k, k_weight, eps), cos, sin)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up (Shazeer 2020). Both (..., C)."""
    return torch.nn.functional.silu(gate) * up


def squared_relu(x: Tensor) -> Tensor:
    """relu(x)^2 (So et al. 2021)."""
    return torch.relu(x).square()


@functools.cache
def compiled(function: Callable) -> Callable:
    """The function as one fused loop, made by `torch.compile` at its first call; shapes may vary afterwards."""
    return torch.compile(function, fullgraph=True, dynamic=True)
