"""FlashAttention's recurrence in a few lines: the implementation to study.

The softmax of a row needs the row's maximum and sum, so it seems that all scores must exist at once. They need not
(Milakov and Gimelshein 2018; Rabe and Staats 2021; Dao 2023, "FlashAttention-2"): walk over blocks of keys and keep the
running maximum m, the running sum l and the running output. When a block raises the maximum, what was gathered before
shrinks by exp(old m - new m). At the end divide by l.

    m' = max(m, rowmax(s))      p = exp(s - m')      r = exp(m - m')
    l' = r l + rowsum(p)        out' = r out + p v

`torch.compile` fuses the pointwise part of a step into one loop: `compiled(online)(q, k, v, mask)`, or use it inside a
compiled model. What it leaves out: its backward pass is autograd's, which stores the scores of every block, O(T^2)
memory; `blocked.py` (CPU) and `triton_flash.py` (CUDA) compute them again instead. The loops are unrolled while
tracing, so compile time grows with the number of blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.bias import Bias, dense_bias
from kernels.lse import absorb_sinks
from kernels.masks import CAUSAL, And, Causal, Mask, Window


def online(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask = CAUSAL,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    bias: Bias = None,
    sinks: Tensor | None = None,
    return_lse: bool = False,
    block: int = 512,
) -> Tensor | tuple[Tensor, Tensor]:
    """Arguments and results as in `kernels.attention`. block: queries, and keys, in one step."""
    T, S, D = q.shape[2], k.shape[2], q.shape[3]
    scale = D**-0.5 if scale is None else scale
    spans = mask.spans(T, S, q.device)
    bias = None if bias is None else dense_bias(bias, T, S).expand(-1, -1, T, S)
    outs, lses = [], []
    for start in range(0, T, block):
        rows = slice(start, min(start + block, T))
        state = _start(q[:, :, rows], v)
        for first in range(0, S, block):
            keys = slice(first, min(first + block, S))
            if not _certainly_hidden(mask, rows, keys, S - T):
                scores = _scores(q[:, :, rows], k[:, :, keys], scale, softcap)
                if bias is not None:
                    scores = scores + bias[:, :, rows, keys]
                state = step(*state, scores, spans.tile(rows, keys)[:, None], v[:, :, keys])
        out, lse = _finish(*state)
        outs.append(out.to(q.dtype))
        lses.append(lse)
    out, lse = torch.cat(outs, dim=2), torch.cat(lses, dim=2)
    if sinks is not None:
        out, lse = absorb_sinks(out, lse, sinks)
    return (out, lse) if return_lse else out


def step(
    m: Tensor, l: Tensor, out: Tensor, scores: Tensor, visible: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One step. m, l: (B, H, t, 1), out: (B, H, t, D), scores: (B, H, t, s), visible: (B or 1, 1, t, s)."""
    scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    new_m = torch.maximum(m, scores.amax(-1, keepdim=True))
    p = torch.exp(scores - new_m) * visible  # the factor: in a row that sees nothing yet, exp(min - min) is 1
    shrink = torch.exp(m - new_m)
    return new_m, l * shrink + p.sum(-1, keepdim=True), out * shrink + _by_key_head(p.to(v.dtype), v).to(out.dtype)


def _start(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    working = q.dtype if q.dtype == torch.float64 else torch.float32
    B, H, t, _ = q.shape
    m = q.new_full((B, H, t, 1), torch.finfo(working).min, dtype=working)
    return m, torch.zeros_like(m), q.new_zeros(B, H, t, v.shape[-1], dtype=working)


def _finish(m: Tensor, l: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and the log-sum-exp (B, H, t); zeros and -inf where nothing was seen."""
    blind = l == 0
    safe = l.masked_fill(blind, 1.0)
    return out / safe, (m + safe.log()).masked_fill(blind, -torch.inf)[..., 0]


def _scores(q: Tensor, k: Tensor, scale: float, softcap: float | None) -> Tensor:
    scores = _by_key_head(q, k.mT)
    scores = scores.to(q.dtype if q.dtype == torch.float64 else torch.float32) * scale
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def _by_key_head(x: Tensor, y: Tensor) -> Tensor:
    """(B, H, t, c) @ (B, K, c, d) -> (B, H, t, d): the heads that share a key head are rows of one product."""
    (B, H, t, c), K = x.shape, y.shape[1]
    return (x.reshape(B, K, H // K * t, c) @ y).view(B, H, t, y.shape[-1])


def _certainly_hidden(mask: Mask, rows: slice, keys: slice, shift: int) -> bool:
    """Whether the kind of mask alone, without its tensors, hides all these pairs."""
    parts = mask.parts if isinstance(mask, And) else (mask,)
    for part in parts:
        if isinstance(part, (Causal, Window)) and not isinstance(part.offset, Tensor):
            offset = shift if part.offset is None else part.offset
            right = part.right if isinstance(part, Window) else 0
            if keys.start > rows.stop - 1 + offset + right:
                return True
            if isinstance(part, Window) and keys.stop - 1 < rows.start + offset - part.left:
                return True
    return False
