"""PyTorch's own `scaled_dot_product_attention` behind our signature.

On a CPU in float32 it runs at the machine's limit for full and causal attention (results/), so there is no reason to
write another. What it cannot do is refused by `why_not`: softcap, sinks, the log-sum-exp. Other masks than Full and
Causal reach it as a dense (T, S) tensor: right, but every hidden pair costs as much as a visible one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.bias import Bias, dense_bias
from kernels.masks import CAUSAL, Causal, Full, Mask


def is_plain(mask: Mask, T: int, S: int) -> bool:
    """Whether SDPA knows the mask by a flag, without a dense tensor."""
    if isinstance(mask, Causal) and mask.offset is None:
        # `True if ... else False` branches: while torch.compile traces symbolic sizes, T == S alone is no Python bool.
        return True if T == S or T == 1 else False  # noqa: SIM210
    return isinstance(mask, Full)


def sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask = CAUSAL,
    *,
    scale: float | None = None,
    bias: Bias = None,
) -> Tensor:
    """Arguments and result as in `kernels.attention`."""
    (B, H, T, D), (_, K, S, _) = q.shape, k.shape
    grouped = H != K
    if q.dtype == torch.float32 and q.device.type == "cpu":  # scaled here its gradient is up to three times as exact
        q, scale = q * (D**-0.5 if scale is None else scale), 1.0
    if bias is None and is_plain(mask, T, S):
        causal = True if isinstance(mask, Causal) and T > 1 else False  # noqa: SIM210
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=grouped)

    visible = mask.dense(B, T, S, q.device)
    blind = None if mask.sees_something(T, S) else ~visible.any(-1, keepdim=True)
    if blind is not None:  # let a query that sees nothing see everything, then erase it: no backend meets an empty row
        visible = visible | blind
    if bias is not None:
        visible = dense_bias(bias, T, S).to(q.dtype).masked_fill(~visible, -torch.inf)
    out = F.scaled_dot_product_attention(q, k, v, visible, scale=scale, enable_gqa=grouped)
    return out if blind is None else out.masked_fill(blind, 0.0)
