"""Attention on a CPU, ours: row blocks in a workspace that fits the cache, forward and backward by hand.

Why. The plain formula writes T x S scores to memory and reads them back four times; arithmetic waits for memory. Here a
block of queries (some heads at once, so that the product is large enough for both cores) meets all the keys it may see
in one product, whose result stays in a workspace of a few megabytes: softmax in place, second product, next block. The
workspace is reused, because touching fresh memory costs more than the arithmetic.

Unlike FlashAttention no running maximum is needed: a whole row of scores is in the workspace, so the softmax is the
exact one, in PyTorch's own vectorized loop. `online.py` beside this shows the other way.

Masks. The block map (`Spans.blocks`) gives each query block the range of keys that it may see: what lies outside is
never computed. Inside, only PARTIAL blocks are masked. So the work is proportional to the visible pairs.

Backward. Scores and softmax of a block are computed again instead of stored: memory stays O(T). With p the softmax,
dp = dout v^T and ds = p * (dp - sum(p * dp)):  dv += p^T dout,  dq = scale * ds k,  dk += scale * ds^T q.

Precision. Products in the dtype of the inputs. In bf16 the scores are rounded to bf16 as in the plain formula; softmax
computes in float32 inside its loop, and where scores are edited (softcap, bias) or summed (lse), the workspace is
float32. Gradients of keys and values are summed over blocks in float32.

Both directions are `torch.library.custom_op`s: a compiled model sees one node, and since masks arrive as tensors it is
not compiled again for another mask or length. Left out: CUDA (see triton_flash.py), dropout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernels.bias import ALiBi, Bias, dense_bias
from kernels.lse import absorb_sinks
from kernels.masks import CAUSAL, EMPTY, FULL, Mask, Spans, positions

KEY_BLOCK = 64  # granularity of the block map along the keys


def blocked(
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
    T, S = q.shape[2], k.shape[2]
    spans = mask.spans(T, S, q.device)
    slopes = position = None
    if isinstance(bias, ALiBi):
        slopes, position, bias = bias.slopes, positions(bias.offset, T, S, q.device), None
    elif bias is not None:
        bias = dense_bias(bias, T, S)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    want_lse = return_lse or sinks is not None
    masking = (spans.low, spans.high, spans.query_ids, spans.key_ids)
    out, lse = _forward(q, k, v, *masking, bias, slopes, position, scale, softcap or 0.0, want_lse)
    if sinks is not None:
        out, lse = absorb_sinks(out, lse, sinks)
    return (out, lse) if return_lse else out


@dataclass(frozen=True)
class Block:
    """Some queries of one row of the batch, and the range of keys that holds all that they may see."""

    queries: slice
    keys: slice
    partial: tuple[slice, ...]  # parts of `keys` that must be masked
    has_full: bool  # at least one key block is visible to all these queries, so none of them is blind


def plan(spans: Spans, S: int, block_q: int) -> list[list[Block]]:
    """For each row of the spans its blocks of queries that see anything."""
    T = spans.low.shape[1]
    result = []
    for row in spans.blocks(S, block_q, KEY_BLOCK).tolist():
        blocks = []
        for i, kinds in enumerate(row):
            seen = [j for j, kind in enumerate(kinds) if kind != EMPTY]
            if seen:
                queries = slice(i * block_q, min((i + 1) * block_q, T))
                first, last = seen[0], seen[-1] + 1
                keys = slice(first * KEY_BLOCK, min(last * KEY_BLOCK, S))
                blocks.append(Block(queries, keys, _partial(kinds, first, last, S), FULL in kinds))
        result.append(blocks)
    return result


def _partial(kinds: list[int], first: int, last: int, S: int) -> tuple[slice, ...]:
    """Runs of neighbouring key blocks that are not FULL, as ranges of keys."""
    runs: list[slice] = []
    for j in range(first, last):
        if kinds[j] != FULL:
            start, stop = j * KEY_BLOCK, min((j + 1) * KEY_BLOCK, S)
            if runs and runs[-1].stop == start:
                start = runs.pop().start
            runs.append(slice(start, stop))
    return tuple(runs)


@dataclass(frozen=True)
class Tile:
    """One step of work: a block of queries for a few key heads (all in one row of the batch, or many rows alike)."""

    heads: slice  # of the F = B * K key heads
    block: Block
    row: int  # of the batch, for the bias
    hidden: tuple[Tensor, ...]  # for each slice of block.partial (t, s) bool
    blind: Tensor | None  # (t, 1) bool: queries that see nothing; None when there are none


class Problem:
    """One call: its tensors with the heads that share a key head side by side, its plan and its workspaces."""

    def __init__(self, q, k, v, spans: Spans, bias, slopes, position, scale: float, softcap: float, wide: bool):
        (B, H, T, D), (_, K, S, _) = q.shape, k.shape
        self.B, self.K, self.G, self.T, self.S = B, K, H // K, T, S
        self.q = q.reshape(B * K, self.G, T, D)
        self.k, self.v = k.reshape(B * K, S, D).contiguous(), v.reshape(B * K, S, D).contiguous()
        self.bias, self.position, self.scale, self.softcap = bias, position, scale, softcap
        self.slopes = None if slopes is None else slopes.view(K, self.G, 1, 1)
        self.working = q.dtype if q.dtype == torch.float64 else torch.float32
        edited = bool(softcap) or bias is not None or slopes is not None
        self.wide = (edited or wide) and q.dtype != self.working
        rows_apart = max(x.shape[0] for x in (spans.low, spans.high, spans.query_ids, spans.key_ids) if x is not None)
        if bias is not None or (position is not None and position.shape[0] > 1):
            rows_apart = B
        self.rows = [spans.row(b) for b in range(rows_apart)]
        mean_keys = (spans.high - spans.low).clamp(min=0).double().mean().item()
        block_q, self.group = _tile_size(B * K // rows_apart, self.G, T, mean_keys, q.element_size())
        self.plans = plan(replace(spans, low=spans.low.expand(rows_apart, -1)), S, block_q)
        self.most = max((_size(block) for blocks in self.plans for block in blocks), default=0) * self.group * self.G

    def workspace(self, dtype: torch.dtype | None = None) -> Tensor:
        return self.q.new_empty(self.most, dtype=dtype or self.q.dtype)

    def tiles(self) -> Iterator[Tile]:
        heads_per_row = self.B * self.K // len(self.rows)
        for row, (spans, blocks) in enumerate(zip(self.rows, self.plans)):
            for block in blocks:
                hidden = tuple(~spans.tile(block.queries, part)[0] for part in block.partial)
                blind = None
                if not block.has_full:
                    blind = ~spans.tile(block.queries, block.keys)[0].any(-1, keepdim=True)
                    blind = blind if blind.any() else None
                for start in range(row * heads_per_row, (row + 1) * heads_per_row, self.group):
                    heads = slice(start, min(start + self.group, (row + 1) * heads_per_row))
                    yield Tile(heads, block, row, hidden, blind)

    def rows_of(self, x: Tensor, tile: Tile) -> Tensor:
        """(F, G, T, D) -> (n, G * t, D): the tile's queries, heads that share a key head as rows."""
        return x[tile.heads, :, tile.block.queries].reshape(tile.heads.stop - tile.heads.start, -1, x.shape[-1])

    def scores(self, tile: Tile, q: Tensor, products: Tensor, wide: Tensor | None) -> Tensor:
        """(n, G * t, s) masked scores in a workspace, float32 if `wide` is one. q: (n, G * t, D)."""
        x = _product(products, q, self.k[tile.heads, tile.block.keys].mT, self.scale)
        if wide is not None:
            x = wide[: x.numel()].view_as(x).copy_(x)
        if self.softcap:
            x.div_(self.softcap).tanh_().mul_(self.softcap)
        return x

    def edit(self, tile: Tile, x: Tensor) -> Tensor:
        """Add the bias, hide what the mask hides; in place."""
        block = tile.block
        by_head = x.view(x.shape[0], self.G, -1, x.shape[-1])  # (n, G, t, s)
        local = slice(tile.heads.start - tile.row * self.K, tile.heads.stop - tile.row * self.K)
        if self.bias is not None:
            bias = self.bias.expand(self.B, self.K * self.G, self.T, self.S)[tile.row].unflatten(0, (self.K, self.G))
            by_head.add_(bias[local, :, block.queries, block.keys])
        if self.slopes is not None:
            key = torch.arange(block.keys.start, block.keys.stop, device=x.device)
            distance = (self.position[tile.row % self.position.shape[0], block.queries, None] - key).abs()
            slopes = self.slopes.repeat(self.B, 1, 1, 1)[tile.heads]
            by_head.addcmul_(slopes.to(x.dtype), distance.to(x.dtype), value=-1)
        for part, hidden in zip(block.partial, tile.hidden):
            columns = slice(part.start - block.keys.start, part.stop - block.keys.start)
            by_head[..., columns].masked_fill_(hidden, torch.finfo(x.dtype).min)
        return x


def _size(block: Block) -> int:
    return (block.queries.stop - block.queries.start) * (block.keys.stop - block.keys.start)


def _tile_size(heads: int, G: int, T: int, mean_keys: float, bytes_each: int) -> tuple[int, int]:
    """Queries per block and key heads per product. Measured: a workspace of 2 KB for each key in the range is best,
    and longer query blocks pay when that range is long: what they compute in vain is then the smaller part."""
    block_q = 256 // bytes_each
    if mean_keys > 8 * block_q:
        block_q *= 2
    return block_q, max(1, min(heads, 2048 // bytes_each // (min(block_q, T) * G)))


def _product(workspace: Tensor, a: Tensor, b: Tensor, factor: float = 1.0) -> Tensor:
    """factor * a @ b in the front of a flat workspace. a: (n, r, c), b: (n, c, s). Returns (n, r, s)."""
    n, r, s = a.shape[0], a.shape[1], b.shape[2]
    out = workspace[: n * r * s].view(n, r, s)
    if factor == 1.0:
        return torch.bmm(a, b, out=out)
    return torch.baddbmm(out, a, b, beta=0, alpha=factor, out=out)  # the factor before rounding


@torch.library.custom_op("zhiling::blocked_attention", mutates_args=(), device_types="cpu")
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    low: Tensor,
    high: Tensor,
    query_ids: Tensor | None,
    key_ids: Tensor | None,
    bias: Tensor | None,
    slopes: Tensor | None,
    position: Tensor | None,
    scale: float,
    softcap: float,
    want_lse: bool,
) -> tuple[Tensor, Tensor]:
    """(B, H, T, D) output and (B, H, T) log-sum-exp, which is empty unless wanted."""
    spans = Spans(low, high, query_ids, key_ids)
    problem = Problem(q, k, v, spans, bias, slopes, position, scale, softcap, want_lse)
    out = problem.q.new_zeros(*problem.q.shape[:3], v.shape[-1])  # (F, G, T, D)
    lse = problem.q.new_full(out.shape[:3] if want_lse else (0,), -torch.inf, dtype=problem.working)
    products, wide = problem.workspace(), problem.workspace(problem.working) if problem.wide else None
    for tile in problem.tiles():
        at = (tile.heads, slice(None), tile.block.queries)
        x = problem.edit(tile, problem.scores(tile, problem.rows_of(problem.q, tile), products, wide))
        if want_lse:
            lse[at] = torch.logsumexp(x, dim=-1).view_as(lse[at])
        p = torch.softmax(x, dim=-1, out=x)
        if wide is not None:
            p = products[: p.numel()].view_as(p).copy_(p)
        out[at] = (p @ problem.v[tile.heads, tile.block.keys]).view_as(out[at])
        if tile.blind is not None:
            out[at].masked_fill_(tile.blind, 0.0)
            if want_lse:
                lse[at].masked_fill_(tile.blind[:, 0], -torch.inf)
    return out.view(*q.shape[:3], -1), lse.view(q.shape[:3]) if want_lse else lse


@torch.library.custom_op("zhiling::blocked_attention_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    low: Tensor,
    high: Tensor,
    query_ids: Tensor | None,
    key_ids: Tensor | None,
    bias: Tensor | None,
    slopes: Tensor | None,
    position: Tensor | None,
    scale: float,
    softcap: float,
    want_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and of the bias (empty unless wanted)."""
    problem = Problem(q, k, v, Spans(low, high, query_ids, key_ids), bias, slopes, position, scale, softcap, want_bias)
    grad_q = torch.zeros_like(problem.q, memory_format=torch.contiguous_format)
    grad_k = torch.zeros_like(problem.k, dtype=problem.working)
    grad_v = torch.zeros_like(problem.v, dtype=problem.working)
    grad_bias = q.new_zeros(bias.shape if want_bias else (0,), dtype=problem.working)
    grad_out = grad_out.reshape(*problem.q.shape[:3], v.shape[-1])
    grad_lse = None if grad_lse is None else grad_lse.reshape(problem.q.shape[:3])
    spaces = [problem.workspace(), problem.workspace()]
    wides = [problem.workspace(problem.working) for _ in range(2)] if problem.wide else [None, None]
    slope = problem.workspace(problem.working) if softcap else None
    key_space = q.new_empty(problem.group * problem.S * max(k.shape[-1], v.shape[-1]))
    for tile in problem.tiles():
        at, keys = (tile.heads, slice(None), tile.block.queries), (tile.heads, tile.block.keys)
        rows, upstream = problem.rows_of(problem.q, tile), problem.rows_of(grad_out, tile)
        if tile.blind is not None:
            upstream = upstream.unflatten(1, (problem.G, -1)).masked_fill(tile.blind, 0.0).flatten(1, 2)
        x = problem.scores(tile, rows, spaces[0], wides[0])
        if slope is not None:  # d tanh, before the softmax overwrites what it is computed from
            steep = torch.div(x, softcap, out=slope[: x.numel()].view_as(x)).square_().neg_().add_(1)
        p = torch.softmax(problem.edit(tile, x), dim=-1, out=x)
        low_p = p if wides[0] is None else spaces[0][: p.numel()].view_as(p).copy_(p)
        grad_v[keys] += _product(key_space, low_p.mT, upstream)
        ds = _product(spaces[1], upstream, problem.v[keys].mT)
        if wides[1] is not None:
            ds = wides[1][: ds.numel()].view_as(ds).copy_(ds)
        torch._softmax_backward_data(ds, p, -1, p.dtype, grad_input=ds)
        if grad_lse is not None:
            ds.addcmul_(p, _blinded(grad_lse[at], tile.blind).reshape(*p.shape[:2], 1).to(p.dtype))
        if want_bias:
            _add_to_bias(grad_bias, ds, tile, problem)
        if slope is not None:
            ds.mul_(steep)
        if wides[1] is not None:
            ds = spaces[1][: ds.numel()].view_as(ds).copy_(ds)
        grad_q[at] = (ds @ problem.k[keys]).mul_(scale).view_as(grad_q[at])
        grad_k[keys] += _product(key_space, ds.mT, rows)
    grad_k.mul_(scale)
    gradients = grad_q.view(q.shape), grad_k.view(k.shape).to(k.dtype), grad_v.view(v.shape).to(v.dtype)
    return *gradients, grad_bias.to(bias.dtype) if want_bias else grad_bias


def _blinded(gradient: Tensor, blind: Tensor | None) -> Tensor:
    return gradient if blind is None else gradient.masked_fill(blind[:, 0], 0.0)


def _add_to_bias(grad_bias: Tensor, ds: Tensor, tile: Tile, problem: Problem) -> None:
    """Add the gradient of a tile's scores to the part of the bias that it was read from."""
    first = tile.heads.start - tile.row * problem.K
    heads = slice(first * problem.G, first * problem.G + ds.shape[0] * problem.G)
    where = (slice(tile.row, tile.row + 1), heads, tile.block.queries, tile.block.keys)
    part = grad_bias[tuple(slice(None) if size == 1 else cut for size, cut in zip(grad_bias.shape, where))]
    part += ds.reshape(1, heads.stop - heads.start, -1, ds.shape[-1]).sum_to_size(part.shape)


@_forward.register_fake
def _(q, k, v, low, high, query_ids, key_ids, bias, slopes, position, scale, softcap, want_lse):
    working = q.dtype if q.dtype == torch.float64 else torch.float32
    out = q.new_empty(*q.shape[:3], v.shape[-1])
    return out, q.new_empty(q.shape[:3] if want_lse else (0,), dtype=working)


@_backward.register_fake
def _(grad_out, grad_lse, q, k, v, low, high, query_ids, key_ids, bias, slopes, position, scale, softcap, want_bias):
    working = q.dtype if q.dtype == torch.float64 else torch.float32
    grad_bias = bias.new_empty(bias.shape) if want_bias else q.new_empty((0,), dtype=working)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), grad_bias


def _setup(ctx, inputs, output) -> None:
    *tensors, scale, softcap, want_lse = inputs
    ctx.save_for_backward(*tensors)
    ctx.options = scale, softcap, want_lse


def _autograd(ctx, grad_out, grad_lse):
    scale, softcap, want_lse = ctx.options
    want_bias = ctx.needs_input_grad[7]
    gradients = _backward(grad_out, grad_lse if want_lse else None, *ctx.saved_tensors, scale, softcap, want_bias)
    return *gradients[:3], None, None, None, None, gradients[3] if want_bias else None, *([None] * 5)


_forward.register_autograd(_autograd, setup_context=_setup)
