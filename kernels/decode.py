"""Decoding: one query, or a few, against a long cache of keys and values.

Here nothing is computed twice and everything is read once, so time is bytes of cache over bandwidth of memory, if the
work is laid out well. Two things matter. The H / K heads that share a key head are rows of one product, so the cache is
read once and not H / K times. And a GPU has more processors than there are rows times heads, so the keys are split into
parts, each part gives an output and a log-sum-exp, and `lse.merge` puts them together ("Flash-Decoding", Dao et al.
2023).

Unequal lengths: give `Causal(offset=lengths - 1)` (T = 1) or `Padding(lengths)`. Forward only.

A paged cache (Kwon et al. 2023, "PagedAttention") stores the keys of a row in pages anywhere in a common pool; a table
lists the pages of each row. `paged_decode` gathers them first: right and simple, and one copy of the keys slower.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.bias import Bias, dense_bias
from kernels.lse import absorb_sinks, merge
from kernels.masks import CAUSAL, Causal, Mask, Padding


def decode(
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
    parts: int | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Arguments and results as in `kernels.attention`. parts: how often the keys are split; None chooses."""
    (B, _, T, D), (_, K, S, _) = q.shape, k.shape
    scale = D**-0.5 if scale is None else scale
    visible = mask.dense(B, T, S, q.device).expand(-1, -1, T, S)
    bias = None if bias is None else dense_bias(bias, T, S).expand(-1, -1, T, S)
    parts = parts or (1 if q.device.type == "cpu" else max(1, min(S // 256, 256 // (B * K))))
    size = -(-S // parts)
    results = [
        _part(q, k[:, :, i : i + size], v[:, :, i : i + size], visible[..., i : i + size], scale, softcap, bias, i)
        for i in range(0, S, size)
    ]
    out, lse = results[0]
    if len(results) > 1:
        out, lse = merge(torch.stack([x for x, _ in results]), torch.stack([x for _, x in results]))
    if sinks is not None:
        out, lse = absorb_sinks(out, lse, sinks)
    out = out.to(q.dtype)
    return (out, lse) if return_lse else out


def _part(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scale: float, softcap: float | None, bias: Tensor | None, at: int
) -> tuple[Tensor, Tensor]:
    """Attention over one part of the keys that starts at key `at`: (B, H, T, D) float32 and lse (B, H, T)."""
    (B, H, T, D), (_, K, S, _) = q.shape, k.shape
    working = q.dtype if q.dtype == torch.float64 else torch.float32
    rows = q.reshape(B, K, H // K * T, D)
    if q.device.type == "cpu" and q.dtype == torch.float32:
        scores = (k @ rows.mT).mT  # measured: the tall product is twice as fast for a few rows in float32, not in bf16
    else:
        scores = rows @ k.mT
    scores = scores.reshape(B, H, T, S).to(working) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias[..., at : at + S]
    scores = scores.masked_fill(~visible, -torch.inf)
    largest = scores.amax(-1, keepdim=True)
    weights = torch.exp(scores - largest.masked_fill(largest == -torch.inf, 0.0))
    total = weights.sum(-1, keepdim=True)  # divided by at the end: exp(score - lse) would carry the rounding of lse
    out = (weights.to(v.dtype).view(B, K, H // K * T, S) @ v).view(B, H, T, v.shape[-1]).to(working)
    return out / total.masked_fill(total == 0, 1.0), (largest + total.log())[..., 0]


def paged_decode(
    q: Tensor, pages_k: Tensor, pages_v: Tensor, table: Tensor, lengths: Tensor, **options
) -> Tensor | tuple[Tensor, Tensor]:
    """`decode` against a paged cache.

    q: (B, H, T, D), the last T tokens of each row. pages_k, pages_v: (pages, K, page size, D), the common pool.
    table: (B, pages per row) int, which pages hold the row's keys, in order; entries beyond its length may be anything
    valid. lengths: (B,) keys in each row, the T new ones included. options: as in `decode`.
    """
    T = q.shape[2]
    k, v = (pages[table].transpose(1, 2).flatten(2, 3) for pages in (pages_k, pages_v))  # (B, K, S, D)
    return decode(q, k, v, Causal(offset=lengths - T) & Padding(lengths), **options)
