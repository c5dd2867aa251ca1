"""PyTorch's FlexAttention behind our signature.

FlexAttention (He et al. 2024, "Flex Attention") compiles a kernel from two small functions, one that edits a score and
one that says what is visible, and takes a block map to skip work. The block map comes from `Spans.blocks` here: a few
small tensors, where `create_block_mask` evaluates all T x S pairs.

What it cannot do, as of PyTorch 2.13: on a CPU there is no backward pass (it even refuses inputs that require
gradients) and no log-sum-exp, hence no sinks. Uncompiled it holds all scores, so it is compiled here at its first use.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from kernels.bias import ALiBi, Bias, dense_bias
from kernels.lse import absorb_sinks
from kernels.masks import CAUSAL, FULL, PARTIAL, Full, Mask, Spans, block_lists, positions

BLOCK = 128


def flex(
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
    from torch.nn.attention.flex_attention import AuxRequest

    (B, H, T, _), (_, K, S, _) = q.shape, k.shape
    block_mask = None if isinstance(mask, Full) else block_mask_of(mask, T, S, q.device)
    if q.device.type == "cpu":
        q, k, v = q.detach(), k.detach(), v.detach()
    want_lse = return_lse or sinks is not None
    out = compiled_flex()(
        q,
        k,
        v,
        score_mod=_score_mod(softcap, bias, B, H, T, S),
        block_mask=block_mask,
        scale=scale,
        enable_gqa=H != K,
        return_aux=AuxRequest(lse=True) if want_lse else None,
    )
    out, lse = (out[0], out[1].lse) if want_lse else (out, None)
    if sinks is not None:
        out, lse = absorb_sinks(out, lse, sinks)
    return (out, lse) if return_lse else out


@functools.cache
def compiled_flex() -> Callable:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def block_mask_of(mask: Mask, T: int, S: int, device: torch.device):
    """The mask as FlexAttention's BlockMask."""
    from torch.nn.attention.flex_attention import BlockMask

    spans = mask.spans(T, S, device)
    kinds = spans.blocks(S, BLOCK, BLOCK)[:, None]  # (B or 1, 1, nq, nk)
    partial, full = block_lists(kinds == PARTIAL), block_lists(kinds == FULL)
    return BlockMask.from_kv_blocks(*partial, *full, BLOCK_SIZE=BLOCK, mask_mod=_mask_mod(spans), seq_lengths=(T, S))


def _mask_mod(spans: Spans) -> Callable:
    low, high, query_ids, key_ids = spans.low, spans.high, spans.query_ids, spans.key_ids
    rows, id_rows = low.shape[0] > 1, query_ids is not None and query_ids.shape[0] > 1

    def within(b, h, q, k):
        row = b if rows else 0
        return (k >= low[row, q]) & (k < high[row, q])

    def within_document(b, h, q, k):
        row = b if id_rows else 0
        return within(b, h, q, k) & (query_ids[row, q] == key_ids[row, k]) & (query_ids[row, q] >= 0)

    return within if query_ids is None else within_document


def _score_mod(softcap: float | None, bias: Bias, B: int, H: int, T: int, S: int) -> Callable | None:
    if softcap is None and bias is None:
        return None
    table = None
    if isinstance(bias, ALiBi):
        slopes, position = bias.slopes, positions(bias.offset, T, S, bias.slopes.device)
        per_row = position.shape[0] > 1
    elif bias is not None:
        table = dense_bias(bias, T, S).expand(B, H, T, S)

    def edit(score, b, h, q, k):
        if softcap is not None:
            score = softcap * torch.tanh(score / softcap)
        if table is not None:
            return score + table[b, h, q, k]
        if bias is not None:
            return score - slopes[h] * (position[b if per_row else 0, q] - k).abs()
        return score

    return edit
