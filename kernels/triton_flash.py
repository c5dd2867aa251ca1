"""FlashAttention in Triton, ours for CUDA: forward and backward, all masks, block maps.

The recurrence is the one of `online.py`, the kernels are in `triton_kernels.py`; this file prepares their arguments and
registers them as operators. The block map is turned into lists, for each block of queries the FULL and the PARTIAL
blocks of keys (and the other way round for the gradients of keys and values), so that the kernels' loops have no
branches and their length is the work. The backward pass computes scores again from the stored log-sum-exp.

Checked without a GPU: set TRITON_INTERPRET=1 before Python starts and call it with CPU tensors in float32 or float16.
Not in bf16: Triton's interpreter silently computes nonsense for products of bf16 (triton issue 11584).

State of things: right in the interpreter; tile sizes are first guesses, nothing here was tuned on a GPU yet. Left out:
an additive bias tensor (use `flex`), dropout, tensor-memory accelerator and warp specialization of Hopper.
"""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

from configs import UserError
from kernels.bias import ALiBi, Bias
from kernels.lse import absorb_sinks
from kernels.masks import CAUSAL, FULL, PARTIAL, Mask, Spans, block_lists, positions

FORWARD_TILE = (128, 64)  # queries, keys
BACKWARD_TILE = (64, 64)


def triton_obstacle(device: str, dtype: torch.dtype, bias: str = "none") -> str | None:
    """What stops the Triton kernels; None when nothing does."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install triton)"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device != "cuda" and not interpreted:
        return "the Triton kernels need a CUDA device"
    if interpreted and dtype == torch.bfloat16:
        return "Triton's interpreter computes products of bf16 wrongly"
    if dtype == torch.float64:
        return "the Triton kernels compute in float32 at most"
    if bias in ("tensor", "learned"):
        return "the Triton kernels have no additive bias tensor"
    return None


def triton(
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
    """Arguments and results as in `kernels.attention`. The slopes of an ALiBi get no gradient here."""
    if isinstance(bias, Tensor):
        raise UserError("the Triton kernels have no additive bias tensor; use impl='flex' or impl='reference'.")
    T, S = q.shape[2], k.shape[2]
    spans = mask.spans(T, S, q.device)
    slopes = position = None
    if isinstance(bias, ALiBi):
        slopes, position = bias.slopes.float(), positions(bias.offset, T, S, q.device)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    masking = (spans.low, spans.high, spans.query_ids, spans.key_ids, slopes, position)
    out, lse = _forward(q, k, v, *masking, scale, softcap or 0.0)
    if sinks is not None:
        out, lse = absorb_sinks(out, lse, sinks)
    return (out, lse) if return_lse else out


def _arguments(spans: Spans, slopes, position, S: int, tile: tuple[int, int], transposed: bool) -> tuple[list, dict]:
    """The part of the kernels' arguments that describes the mask: positional ones and keywords."""
    kinds = spans.blocks(S, *tile)
    if S % tile[1]:  # the kernels must hide what lies beyond the last key
        kinds[..., -1].clamp_(max=PARTIAL)
    if transposed:
        kinds = kinds.mT
    (full_count, full_list), (partial_count, partial_list) = block_lists(kinds == FULL), block_lists(kinds == PARTIAL)
    unused = spans.low
    has_ids = spans.query_ids is not None
    tensors = [
        spans.low.contiguous(),
        spans.high.contiguous(),
        spans.query_ids.contiguous() if has_ids else unused,
        spans.key_ids.contiguous() if has_ids else unused,
        position.contiguous() if position is not None else unused,
        slopes.contiguous() if slopes is not None else unused,
        full_count,
        full_list,
        partial_count,
        partial_list,
    ]
    keywords = {
        "longest": kinds.shape[-1],
        "span_rows": spans.low.shape[0],
        "id_rows": spans.query_ids.shape[0] if has_ids else 1,
        "list_rows": kinds.shape[0],
        "position_rows": position.shape[0] if position is not None else 1,
        "HAS_IDS": has_ids,
        "ALIBI": slopes is not None,
        "BLOCK_M": tile[0],
        "BLOCK_N": tile[1],
    }
    return tensors, keywords


def _same_rows(low: Tensor, high: Tensor, query_ids: Tensor | None, key_ids: Tensor | None) -> Spans:
    """Spans whose parts have one number of rows each: low with high, query_ids with key_ids."""
    low, high = torch.broadcast_tensors(low, high)
    if query_ids is not None:
        rows = max(query_ids.shape[0], key_ids.shape[0])
        query_ids, key_ids = query_ids.expand(rows, -1), key_ids.expand(rows, -1)
    return Spans(low, high, query_ids, key_ids)


def _sizes(q: Tensor, k: Tensor, scale: float, softcap: float) -> dict:
    (_, H, T, D), (_, K, S, _) = q.shape, k.shape
    sizes = {"T": T, "S": S, "D": D, "H": H, "KEY_HEADS": K, "scale": scale, "softcap": softcap}
    return sizes | {"SOFTCAP": softcap > 0, "BLOCK_D": max(16, 1 << (D - 1).bit_length())}


@torch.library.custom_op("zhiling::triton_attention", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    low: Tensor,
    high: Tensor,
    query_ids: Tensor | None,
    key_ids: Tensor | None,
    slopes: Tensor | None,
    position: Tensor | None,
    scale: float,
    softcap: float,
) -> tuple[Tensor, Tensor]:
    """(B, H, T, D) output and (B, H, T) log-sum-exp."""
    from kernels import triton_kernels

    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out, lse = torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)
    spans = _same_rows(low, high, query_ids, key_ids)
    tensors, keywords = _arguments(spans, slopes, position, k.shape[2], FORWARD_TILE, transposed=False)
    grid = (-(-q.shape[2] // FORWARD_TILE[0]), q.shape[0] * q.shape[1])
    triton_kernels.forward[grid](q, k, v, out, lse, *tensors, **_sizes(q, k, scale, softcap), **keywords)
    return out, lse


@torch.library.custom_op("zhiling::triton_attention_backward", mutates_args=())
def _backward(
    grad_out: Tensor,
    grad_lse: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    low: Tensor,
    high: Tensor,
    query_ids: Tensor | None,
    key_ids: Tensor | None,
    slopes: Tensor | None,
    position: Tensor | None,
    scale: float,
    softcap: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    from kernels import triton_kernels

    q, k, v, grad_out = q.contiguous(), k.contiguous(), v.contiguous(), grad_out.contiguous()
    blind = lse == -torch.inf
    delta = (grad_out.float() * out.float()).sum(-1) - grad_lse
    delta = delta.masked_fill(blind, 0.0).contiguous()
    lse = lse.masked_fill(blind, torch.inf).contiguous()
    grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    spans = _same_rows(low, high, query_ids, key_ids)
    sizes = _sizes(q, k, scale, softcap)
    inputs = (q, k, v, grad_out, lse, delta)
    tensors, keywords = _arguments(spans, slopes, position, k.shape[2], BACKWARD_TILE, transposed=False)
    grid = (-(-q.shape[2] // BACKWARD_TILE[0]), q.shape[0] * q.shape[1])
    triton_kernels.backward_queries[grid](*inputs, grads[0], *tensors, **sizes, **keywords)
    tensors, keywords = _arguments(spans, slopes, position, k.shape[2], BACKWARD_TILE, transposed=True)
    grid = (-(-k.shape[2] // BACKWARD_TILE[1]), k.shape[0] * k.shape[1])
    triton_kernels.backward_keys[grid](*inputs, *grads[1:], *tensors, **sizes, **keywords)
    return grads


@_forward.register_fake
def _(q, k, v, low, high, query_ids, key_ids, slopes, position, scale, softcap):
    return q.new_empty(q.shape), q.new_empty(q.shape[:3], dtype=torch.float32)


@_backward.register_fake
def _(grad_out, grad_lse, out, lse, q, k, v, low, high, query_ids, key_ids, slopes, position, scale, softcap):
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _setup(ctx, inputs, output) -> None:
    *tensors, scale, softcap = inputs
    ctx.save_for_backward(*output, *tensors)
    ctx.options = scale, softcap


def _autograd(ctx, grad_out, grad_lse):
    return *_backward(grad_out, grad_lse, *ctx.saved_tensors, *ctx.options), *([None] * 8)


_forward.register_autograd(_autograd, setup_context=_setup)
