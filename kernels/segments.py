"""Packed documents on a CPU: every document by itself, through PyTorch's own flash kernel.

Why. Documents that lie one after another in a row need no mask between them: each is a small problem of its own, for
which PyTorch's kernel works at the machine's limit in float32 and, for long documents, is hard to beat in bf16 too.
What a careful user would write as a Python loop over documents is here one operator with its backward pass, so that a
compiled model sees one node and is not compiled again for other borders.

It does the masks `Document(ids)` and `Causal() & Document(ids)` with T = S and as many key heads as query heads.
Where an id comes back later in its row (documents that are not contiguous), the row-block kernel does the call: same
results, any order.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kernels.bias import Bias
from kernels.blocked import _backward as blocked_backward
from kernels.blocked import _forward as blocked_forward
from kernels.masks import CAUSAL, And, Causal, Document, Mask

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def segments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask = CAUSAL,
    *,
    scale: float | None = None,
    bias: Bias = None,
) -> Tensor:
    """Arguments and result as in `kernels.attention`; mask, heads and device as said above, without bias."""
    ids, causal = documents_of(mask)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return _forward(q, k, v, ids.to(torch.int64), causal, scale)[0]


def documents_of(mask: Mask) -> tuple[Tensor, bool] | None:
    """(ids, causal) of a mask that this file can do; None for another one. Looks at types only, never at values."""
    parts = mask.parts if isinstance(mask, And) else (mask,)
    ids = [part.ids for part in parts if isinstance(part, Document) and part.key_ids is None]
    causal = [part for part in parts if isinstance(part, Causal) and part.offset is None]
    if len(ids) != 1 or len(ids) + len(causal) != len(parts) or len(causal) > 1:
        return None
    return ids[0], bool(causal)


def runs(ids: list[int]) -> list[tuple[int, int]] | None:
    """The documents of one row as (start, stop), padding left out; None when one of them is not contiguous."""
    borders = [i for i in range(1, len(ids)) if ids[i] != ids[i - 1]]
    pieces = [(a, b) for a, b in zip([0, *borders], [*borders, len(ids)]) if ids[a] >= 0]
    return pieces if len({ids[a] for a, _ in pieces}) == len(pieces) else None


def _plan(ids: Tensor) -> list[list[tuple[int, int]]] | None:
    rows = [runs(row) for row in ids.tolist()]
    return None if None in rows else rows


def _masking(ids: Tensor, causal: bool) -> tuple[Tensor, ...]:
    """The mask as the row-block kernel takes it."""
    mask, T = (CAUSAL & Document(ids) if causal else Document(ids)), ids.shape[1]
    spans = mask.spans(T, T, ids.device)
    return spans.low, spans.high, spans.query_ids, spans.key_ids


def _places(plan: list[list[tuple[int, int]]]) -> Iterator[tuple[slice, slice, slice]]:
    """Where each document lies in a tensor (B, H, T, ...)."""
    for row, pieces in enumerate(plan):
        for start, stop in pieces:
            yield slice(row, row + 1), slice(None), slice(start, stop)


@torch.library.custom_op("zhiling::segments", mutates_args=(), device_types="cpu")
def _forward(q: Tensor, k: Tensor, v: Tensor, ids: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """(B, H, T, D) output, and (B, H, T) log-sum-exp for the backward pass."""
    working = q.dtype if q.dtype == torch.float64 else torch.float32
    plan = _plan(ids)
    if plan is None:
        return blocked_forward(q, k, v, *_masking(ids, causal), None, None, None, scale, 0.0, True)
    out = q.new_zeros(*q.shape[:3], v.shape[-1])
    lse = q.new_zeros(q.shape[:3], dtype=working)
    for at in _places(plan):
        out[at], lse[at] = _flash(q[at], k[at], v[at], 0.0, causal, attn_mask=None, scale=scale)
    return out, lse


@torch.library.custom_op("zhiling::segments_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, ids: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    plan = _plan(ids)
    if plan is None:
        masking = _masking(ids, causal)
        return blocked_backward(grad, None, q, k, v, *masking, None, None, None, scale, 0.0, False)[:3]
    grads = tuple(torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    for at in _places(plan):
        parts = [x[at] for x in (grad, q, k, v, out, lse)]
        found = _flash_backward(*parts, 0.0, causal, attn_mask=None, scale=scale)
        for whole, part in zip(grads, found):
            whole[at] = part
    return grads


@_forward.register_fake
def _(q, k, v, ids, causal, scale):
    working = q.dtype if q.dtype == torch.float64 else torch.float32
    return q.new_empty(*q.shape[:3], v.shape[-1]), q.new_empty(q.shape[:3], dtype=working)


@_backward.register_fake
def _(grad, q, k, v, out, lse, ids, causal, scale):
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _setup(ctx, inputs, output) -> None:
    q, k, v, ids, causal, scale = inputs
    ctx.save_for_backward(q, k, v, *output, ids)
    ctx.options = causal, scale


def _autograd(ctx, grad, _):
    return *_backward(grad.contiguous(), *ctx.saved_tensors, *ctx.options), None, None, None


_forward.register_autograd(_autograd, setup_context=_setup)
