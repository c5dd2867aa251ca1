"""Named masks for the command line, and the baselines that a careful user of SDPA would write himself.

    full                all to all                      causal          no look into the future
    window:256          the last 256 keys and itself    prefix:64       the first 64 keys for all, then causal
    document:8          8 packed documents, each causal padding:100     causal, row b has 100 keys less at most

Names joined by + (or, for `kernels.masks`, by a comma) are combined with &.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from configs import UserError
from kernels.bias import Bias
from kernels.masks import And, Causal, Document, Full, Mask, Padding, Prefix, Window

NAMES = ("full", "causal", "window:N", "prefix:N", "document:N", "padding:N")


def parse_mask(text: str, B: int, T: int, S: int, device: torch.device | str = "cpu") -> Mask:
    """The mask that a name says, for given sizes. Document borders and lengths come from a fixed seed.

    Raises UserError for a name that is not known.
    """
    masks = [_one(name.strip(), B, T, S, device) for name in text.replace(",", "+").split("+")]
    mask = masks[0]
    for other in masks[1:]:
        mask = mask & other
    return mask


def _one(text: str, B: int, T: int, S: int, device: torch.device | str) -> Mask:
    name, _, number = text.partition(":")
    if number and not number.isdigit():
        raise UserError(f"mask {text!r}: what stands after the colon must be a whole number.")
    rows = lambda n: torch.full((B,), n, device=device)
    match name:
        case "full":
            return Full()
        case "causal":
            return Causal()
        case "window":
            return Window(int(number or 256))
        case "prefix":
            return Prefix(rows(int(number or 64)))
        case "document":
            return _documents(int(number or 8), B, T, S, device)
        case "padding":
            shorter = torch.arange(B, device=device) * int(number or S // 4) // max(1, B - 1)
            return Causal() & Padding((S - shorter).clamp(min=1))
    raise UserError(f"unknown mask {text!r}; choose from {', '.join(NAMES)}, joined by +.")


def _documents(count: int, B: int, T: int, S: int, device: torch.device | str) -> Mask:
    """Each row has `count` documents of random lengths, as packing leaves them."""
    if count < 1 or count > S:
        raise UserError(f"document:{count}: the number of documents must lie between 1 and the number of keys, {S}.")
    generator = torch.Generator().manual_seed(0)
    borders = torch.rand(B, S, generator=generator).argsort(-1)[:, : count - 1]
    key_ids = torch.zeros(B, S, dtype=torch.int64).scatter_(1, borders, 1).cumsum(-1).to(device)
    if T == S:
        return Causal() & Document(key_ids)
    return Causal() & Document(key_ids[:, S - T :] if T < S else F.pad(key_ids, (T - S, 0), value=-1), key_ids)


def find(mask: Mask, kind: type) -> Mask | None:
    """The part of a mask that is of this kind."""
    parts = mask.parts if isinstance(mask, And) else (mask,)
    return next((part for part in parts if isinstance(part, kind)), None)


def chunked_obstacle(mask: Mask, T: int, S: int) -> str | None:
    plain = isinstance(mask, Window) and mask.right == 0 and mask.offset is None and mask.left > 0
    return None if plain and T == S and T % mask.left == 0 else "needs a window that divides T = S"


def sdpa_chunked(q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, bias: Bias = None) -> Tensor:
    """A window of W by SDPA without waste: chunks of W queries, each against its own and the previous W keys."""
    W, (B, H, T, D) = mask.left, q.shape
    n = T // W
    chunk = lambda x: F.pad(x, (0, 0, W, 0)).unfold(2, 2 * W, W).transpose(-1, -2)  # (B, K, n, 2W, D)
    fold = lambda x: x.transpose(1, 2).reshape(B * n, x.shape[1], x.shape[3], D)
    visible = Window(W).dense(1, W, 2 * W, q.device).repeat(B * n, 1, 1, 1)
    visible[::n, :, :, :W] = False  # before the first chunk there is only padding
    queries = q.reshape(B, H, n, W, D)
    out = F.scaled_dot_product_attention(
        fold(queries), fold(chunk(k)), fold(chunk(v)), visible, enable_gqa=H != k.shape[1]
    )
    return out.view(B, n, H, W, D).transpose(1, 2).reshape(B, H, T, D)


def documents_obstacle(mask: Mask, T: int, S: int) -> str | None:
    return None if find(mask, Document) and find(mask, Causal) and T == S else "needs causal documents with T = S"


def sdpa_documents(borders: list[list[int]]) -> Callable:
    """Packed documents by SDPA without waste: one causal call for each document. borders: per row, from 0 to T."""

    def run(q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, bias: Bias = None) -> Tensor:
        rows = []
        for b, row in enumerate(borders):
            parts = [
                F.scaled_dot_product_attention(
                    *(x[b : b + 1, :, start:stop] for x in (q, k, v)),
                    is_causal=True,
                    enable_gqa=q.shape[1] != k.shape[1],
                )
                for start, stop in itertools.pairwise(row)
            ]
            rows.append(torch.cat(parts, dim=2))
        return torch.cat(rows)

    return run


def document_borders(mask: Mask) -> list[list[int]]:
    """Where documents begin and end in each row; read outside the timed region, like the plan of a packed batch."""
    ids = find(mask, Document).ids
    return [[0, *((row[1:] != row[:-1]).nonzero()[:, 0] + 1).tolist(), len(row)] for row in ids.cpu()]
