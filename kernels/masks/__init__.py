"""Masks: who may attend to what, said once and answered in three ways.

What it is. A mask is a small frozen dataclass. `Causal() & Document(ids)` reads: a query sees the keys of its own
document that do not lie in its future. Every mask answers three questions:

    mask.visible(b, q, k, shift)        element by element: the definition, one line in each class
    mask.dense(B, T, S)                 as a boolean tensor: for the reference, and for drawing
    mask.blocks(B, T, S, 64, 64)        per block EMPTY, PARTIAL or FULL: what lets a kernel skip work

Why so. All masks here share one form, `Spans`: query t of row b sees the keys `low[b, t] <= s < high[b, t]`, of these
only the ones whose document number equals its own. That is O(T) memory, closed under `&`, and made of tensors alone,
so that an operator takes any mask, and a compiled model is not compiled again for another one. Block maps, the blocked
and the Triton kernels and FlexAttention all start from it.

Positions. Query t stands at the absolute position t + offset, key s at position s. By default the offset is S - T: the
last query stands at the last key, so T = 1 against a cache of S keys sees them all. `Causal(offset=tensor)` of shape
(B,) gives each row its own position of the first query: cached decoding with unequal lengths. The cache of row b is
filled to the left, and key s is visible to query t when s <= offset[b] + t.

How to look at one:  python -m kernels.masks causal,window:128,document

What it leaves out. Masks that differ between heads, and sets of keys that are neither an interval nor a document.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from configs import UserError

EMPTY, PARTIAL, FULL = 0, 1, 2

Offset = Tensor | int | None


@dataclass(frozen=True, eq=False)
class Spans:
    """The common form of all masks: query t of row b sees key s when

        low[b, t] <= s < high[b, t]   and   query_ids[b, t] == key_ids[b, s] >= 0   (when there are ids)

    low, high: int64, (B or 1, T). query_ids: int64, (B or 1, T); key_ids: int64, (B or 1, S); both or neither.
    """

    low: Tensor
    high: Tensor
    query_ids: Tensor | None = None
    key_ids: Tensor | None = None

    def __and__(self, other: Spans) -> Spans:
        query_ids, key_ids = _pair_ids(self, other)
        return Spans(torch.maximum(self.low, other.low), torch.minimum(self.high, other.high), query_ids, key_ids)

    def row(self, b: int) -> Spans:
        """The spans of one row of the batch."""
        parts = (self.low, self.high, self.query_ids, self.key_ids)
        return Spans(*(None if x is None else x[b : b + 1] if x.shape[0] > 1 else x for x in parts))

    def tile(self, queries: slice, keys: slice) -> Tensor:
        """(B or 1, t, s) bool: the visible pairs among some queries and some keys."""
        key = torch.arange(keys.start, keys.stop, device=self.low.device)
        seen = (key >= self.low[:, queries, None]) & (key < self.high[:, queries, None])
        if self.query_ids is not None:
            document = self.query_ids[:, queries, None]
            seen = seen & (document == self.key_ids[:, None, keys]) & (document >= 0)
        return seen

    def dense(self, S: int) -> Tensor:
        """(B or 1, 1, T, S) bool."""
        return self.tile(slice(0, self.low.shape[1]), slice(0, S))[:, None]

    def blocks(self, S: int, block_q: int, block_k: int) -> Tensor:
        """(B or 1, ceil(T / block_q), ceil(S / block_k)) int8. EMPTY and FULL are certain; PARTIAL may be either."""
        start = torch.arange(0, S, block_k, device=self.low.device)
        stop = (start + block_k).clamp(max=S)
        blind = self.low >= self.high  # such a query must not widen the hull of its block
        first = _per_block(self.low.masked_fill(blind, S), block_q).amin(-1)[..., None]
        last = _per_block(self.high.masked_fill(blind, 0), block_q).amax(-1)[..., None]
        some = (start < last) & (stop > first)
        every = (start >= _per_block(self.low, block_q).amax(-1)[..., None]) & (
            stop <= _per_block(self.high, block_q).amin(-1)[..., None]
        )
        if self.query_ids is not None:
            q_low, q_high, q_one = _id_range(self.query_ids, block_q)
            k_low, k_high, k_one = _id_range(self.key_ids, block_k)
            q_low, q_high, q_one = q_low[..., None], q_high[..., None], q_one[..., None]
            k_low, k_high, k_one = k_low[:, None], k_high[:, None], k_one[:, None]
            some = some & (q_low <= k_high) & (k_low <= q_high)
            every = every & q_one & k_one & (q_low == k_low)
        return some.to(torch.int8) + (some & every).to(torch.int8)


def block_lists(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """(..., n) bool of blocks as lists: how many are chosen, (...), and their numbers first in the list, (..., n).
    int32, contiguous: the form in which FlexAttention and the Triton kernels take a block map."""
    order = chosen.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return chosen.sum(-1).to(torch.int32), order.to(torch.int32).contiguous()


def _pair_ids(one: Spans, two: Spans) -> tuple[Tensor | None, Tensor | None]:
    """Document numbers that agree exactly when both pairs of numbers agree."""
    if one.query_ids is None or two.query_ids is None:
        return (one.query_ids, one.key_ids) if two.query_ids is None else (two.query_ids, two.key_ids)
    count = torch.maximum(two.query_ids.max(), two.key_ids.max()) + 1

    def pair(a: Tensor, b: Tensor) -> Tensor:
        return torch.where((a < 0) | (b < 0), -1, a * count + b)

    return pair(one.query_ids, two.query_ids), pair(one.key_ids, two.key_ids)


def _per_block(values: Tensor, block: int) -> Tensor:
    """(B, T) -> (B, ceil(T / block), block); the last block is filled up with the last value."""
    T = values.shape[-1]
    count = -(-T // block)
    index = torch.arange(count * block, device=values.device).clamp(max=T - 1)
    return values[:, index].view(-1, count, block)


def _id_range(ids: Tensor, block: int) -> tuple[Tensor, Tensor, Tensor]:
    """Per block the smallest and largest document number, and whether the block is one document without padding."""
    grouped = _per_block(ids, block)
    padding = grouped < 0
    low = grouped.masked_fill(padding, torch.iinfo(torch.int64).max).amin(-1)
    high = grouped.amax(-1)
    return low, high, (low == high) & ~padding.any(-1)


class Mask:
    """What may attend to what. A new mask needs `visible` and `spans`, which must agree (a test compares them)."""

    def visible(self, b: Tensor, q: Tensor, k: Tensor, shift: int = 0) -> Tensor:
        """The definition: may query q of row b see key k?

        b, q, k: integer tensors of row, query and key numbers that broadcast. shift: S - T, where the first query
        stands unless the mask says otherwise. Returns bool in the broadcast shape, or in one that broadcasts to it.
        """
        raise NotImplementedError

    def spans(self, T: int, S: int, device: torch.device | str | None = None) -> Spans:
        """The same as intervals of keys and document numbers, see `Spans`."""
        raise NotImplementedError

    def dense(self, B: int, T: int, S: int, device: torch.device | str | None = None) -> Tensor:
        """(B or 1, 1, T, S) bool, True where the query may see the key."""
        b = torch.arange(B, device=device)[:, None, None, None]
        q = torch.arange(T, device=device)[None, None, :, None]
        k = torch.arange(S, device=device)[None, None, None, :]
        seen = self.visible(b, q, k, S - T)
        return seen.expand(seen.shape[0], 1, T, S)

    def blocks(self, B: int, T: int, S: int, block_q: int, block_k: int, device=None) -> Tensor:
        """(B or 1, ceil(T / block_q), ceil(S / block_k)) int8: EMPTY, PARTIAL or FULL."""
        return self.spans(T, S, device).blocks(S, block_q, block_k)

    def sees_something(self, T: int, S: int) -> bool:
        """Whether every query is known, without reading a tensor, to see at least one key."""
        return False

    def __and__(self, other: Mask) -> Mask:
        return And((*_parts(self), *_parts(other)))


@dataclass(frozen=True, eq=False)
class Full(Mask):
    """Every query sees every key."""

    def visible(self, b: Tensor, q: Tensor, k: Tensor, shift: int = 0) -> Tensor:
        return (q >= 0) & (k >= 0)

    def spans(self, T: int, S: int, device: torch.device | str | None = None) -> Spans:
        low = torch.zeros(1, T, dtype=torch.int64, device=device)
        return Spans(low, low + S)

    def sees_something(self, T: int, S: int) -> bool:
        return S > 0


@dataclass(frozen=True, eq=False)
class Causal(Mask):
    """A query sees its own position and all before it. offset: position of the first query, int or (B,); see above."""

    offset: Offset = None

    def visible(self, b: Tensor, q: Tensor, k: Tensor, shift: int = 0) -> Tensor:
        return k <= q + _offset(self.offset, b, shift)

    def spans(self, T: int, S: int, device: torch.device | str | None = None) -> Spans:
        position = positions(self.offset, T, S, device)
        return Spans(torch.zeros_like(position), (position + 1).clamp(0, S))

    def sees_something(self, T: int, S: int) -> bool:
        return self.offset is None and S >= T


CAUSAL = Causal()  # the default of every `mask` argument


@dataclass(frozen=True, eq=False)
class Window(Mask):
    """A query at position p sees the keys p - left .. p + right, itself included: left + 1 + right of them."""

    left: int
    right: int = 0
    offset: Offset = None

    def __post_init__(self) -> None:
        if self.left < 0 or self.right < 0:
            raise UserError(f"Window({self.left}, {self.right}): both sides must be 0 or more.")

    def visible(self, b: Tensor, q: Tensor, k: Tensor, shift: int = 0) -> Tensor:
        position = q + _offset(self.offset, b, shift)
        return (k >= position - self.left) & (k <= position + self.right)

    def spans(self, T: int, S: int, device: torch.device | str | None = None) -> Spans:
        position = positions(self.offset, T, S, device)
        return Spans((position - self.left).clamp(0, S), (position + self.right + 1).clamp(0, S))

    def sees_something(self, T: int, S: int) -> bool:
        return self.offset is None and S >= T


@dataclass(frozen=True, eq=False)
class Prefix(Mask):
    """Every query sees the first lengths[b] keys; beyond them it is causal (a prefix language model). lengths: (B,)."""

    lengths: Tensor
    offset: Offset = None

    def visible(self, b: Tensor, q: Tensor, k: Tensor, shift: int = 0) -> Tensor:
        return (k < self.lengths[b]) | (k <= q + _offset(self.offset, b, shift))

    def spans(self, T: int, S: int, device: torch.device | str | None = None) -> Spans:
        high = torch.maximum(positions(self.offset, T, S, device) + 1, self.lengths[:, None]).clamp(0, S)
        return Spans(torch.zeros_like(high), high)

    def sees_something(self, T: int, S: int) -> bool:
        return self.offset is None and S >= T


@dataclass(frozen=True, eq=False)
class Document(Mask):
    """A query sees the keys of its own document. ids: (B, T) integers; a negative one is padding, which sees nothing
    and is seen by nothing. key_ids: (B, S), by default ids itself, which then needs S = T."""

    ids: Tensor
    key_ids: Tensor | None = None

    @property
    def of_keys(self) -> Tensor:
        return self.ids if self.key_ids is None else self.key_ids

    def visible(self, b: Tensor, q: Tensor, k: Tensor, shift: int = 0) -> Tensor:
        document = self.ids[b, q]
        return (document == self.of_keys[b, k]) & (document >= 0)

    def spans(self, T: int, S: int, device: torch.device | str | None = None) -> Spans:
        if self.ids.shape[-1] != T or self.of_keys.shape[-1] != S:
            raise UserError(
                f"Document: ids of {self.ids.shape[-1]} queries and {self.of_keys.shape[-1]} keys do not fit T = {T} "
                f"and S = {S}; give ids (B, T) and key_ids (B, S)."
            )
        low = torch.zeros(1, T, dtype=torch.int64, device=device)
        return Spans(low, low + S, self.ids.to(torch.int64), self.of_keys.to(torch.int64))


@dataclass(frozen=True, eq=False)
class Padding(Mask):
    """Keys at or beyond lengths[b] are padding: no query sees them. lengths: (B,)."""

    lengths: Tensor

    def visible(self, b: Tensor, q: Tensor, k: Tensor, shift: int = 0) -> Tensor:
        return k < self.lengths[b]

    def spans(self, T: int, S: int, device: torch.device | str | None = None) -> Spans:
        high = self.lengths[:, None].clamp(0, S).to(torch.int64).expand(-1, T)
        return Spans(torch.zeros_like(high), high)


@dataclass(frozen=True, eq=False)
class And(Mask):
    """A query sees the keys that all parts let it see; written `one & other`."""

    parts: tuple[Mask, ...]

    def visible(self, b: Tensor, q: Tensor, k: Tensor, shift: int = 0) -> Tensor:
        seen = self.parts[0].visible(b, q, k, shift)
        for part in self.parts[1:]:
            seen = seen & part.visible(b, q, k, shift)
        return seen

    def spans(self, T: int, S: int, device: torch.device | str | None = None) -> Spans:
        spans = self.parts[0].spans(T, S, device)
        for part in self.parts[1:]:
            spans = spans & part.spans(T, S, device)
        return spans

    def sees_something(self, T: int, S: int) -> bool:
        # Causal & Window keep the query's own position; Padding and Document may hide it.
        return all(isinstance(part, (Full, Causal, Window)) and part.sees_something(T, S) for part in self.parts)


def positions(offset: Offset, T: int, S: int, device: torch.device | str | None = None) -> Tensor:
    """(B or 1, T) int64: absolute position of each query; offset as in `Causal`."""
    query = torch.arange(T, device=device)[None]
    if isinstance(offset, Tensor):
        return query + offset[:, None]
    return query + (S - T if offset is None else offset)


def _offset(offset: Offset, b: Tensor, shift: int) -> Tensor | int:
    if isinstance(offset, Tensor):
        return offset[b]
    return shift if offset is None else offset


def _parts(mask: Mask) -> tuple[Mask, ...]:
    return mask.parts if isinstance(mask, And) else (mask,)
