"""What the log-sum-exp of a query's scores is good for: attention over parts of the keys can be put together.

Attention over all keys is the average of attention over parts of them, weighted by exp(lse) of each part. Two uses:
`merge` puts parts together (decoding against a long cache splits its keys over the processors, "Flash-Decoding", Dao et
al. 2023), and `absorb_sinks` adds a sink, a part whose value is the zero vector and whose lse is a learned number.
"""

from __future__ import annotations

import torch
from torch import Tensor


def merge(outs: Tensor, lses: Tensor) -> tuple[Tensor, Tensor]:
    """outs: (P, ..., D) attention over each of P parts of the keys; lses: (P, ...) float32. Returns the whole: (..., D)
    in the dtype of outs, and its lse (...). A part in which nothing is seen has lse -inf and no weight."""
    lse = torch.logsumexp(lses, dim=0)
    weights = torch.exp(lses - lse.masked_fill(lse == -torch.inf, 0.0))
    return (outs * weights[..., None]).sum(0).to(outs.dtype), lse


def absorb_sinks(out: Tensor, lse: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor]:
    """Attention with one more logit per head whose value is zero. out: (B, H, T, D), lse: (B, H, T), sinks: (H,)."""
    sinks = sinks.to(lse.dtype)[:, None]
    return (out * torch.sigmoid(lse - sinks)[..., None]).to(out.dtype), torch.logaddexp(lse, sinks)
