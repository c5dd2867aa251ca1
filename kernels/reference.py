"""The definition of attention, in a few lines. Everything else in this folder is compared with it.

    scores = scale * q k^T,  softcap * tanh(scores / softcap),  + bias,  masked;  softmax;  times v

Why it is also fast sometimes. It holds all T x S scores, so it loses at length; but below T = 512 the scores of a head
fit the cache, and inside a compiled model its pointwise part becomes one loop. On a CPU in bf16 it is the fastest way,
and for one query against a long cache of grouped keys too, because the H / K heads that share a key head are folded
into rows of one product: grouped keys are never repeated.

Precision: products in the dtype of the inputs, softmax in float32 (float64 for float64).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.bias import Bias, dense_bias
from kernels.masks import CAUSAL, Mask


def reference(
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
) -> Tensor | tuple[Tensor, Tensor]:
    """Arguments and results as in `kernels.attention`."""
    (B, H, T, D), (_, K, S, _) = q.shape, k.shape
    working = q.dtype if q.dtype == torch.float64 else torch.float32
    scale = D**-0.5 if scale is None else scale

    grouped = q.reshape(B, K, H // K * T, D)  # the heads that share a key head become rows
    scores = (grouped @ k.mT).view(B, H, T, S).to(working) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + dense_bias(bias, T, S)

    visible = mask.dense(B, T, S, q.device)
    scores = scores.masked_fill(~visible, torch.finfo(working).min)
    if sinks is not None:  # one more logit per head, whose value is the zero vector
        scores = torch.cat([scores, sinks.to(working).view(H, 1, 1).expand(B, H, T, 1)], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., :S].to(v.dtype)
    out = (weights.view(B, K, H // K * T, S) @ v).view(B, H, T, v.shape[-1])

    blind = None if mask.sees_something(T, S) else ~visible.any(-1, keepdim=True)
    if blind is not None:  # a query that sees nothing: zeros, and through the fill no gradient
        out = out.masked_fill(blind, 0.0)
    if not return_lse:
        return out
    lse = torch.logsumexp(scores, dim=-1)
    return out, lse if blind is None or sinks is not None else lse.masked_fill(blind[..., 0], -torch.inf)
