"""A byte-level n-gram model with Witten-Bell smoothing: the baseline that a Transformer must beat on the same text.

Interpolated Witten-Bell (Witten and Bell 1991; Chen and Goodman 1998, section 2.4): with c(h, w) the count of symbol
w after context h, c(h) its total and t(h) the number of different symbols seen after it,

    P(w | h) = (c(h, w) + t(h) P(w | h')) / (c(h) + t(h)),    h' = h without its oldest symbol,

down to the uniform distribution. Contexts that were never seen pass the probability of the shorter one through.
Symbols are the 256 bytes and the end of a document, which also stands in front of each document: the same things that
a language model over tokens has to predict. Counts are sorted integer codes, so that training and scoring are
whole-array operations.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from data.shards import TokenStream
from data.tokenizer import Tokenizer

SYMBOLS = 257
END = 256


@dataclass(frozen=True)
class _Level:
    """Counts for contexts of one length: sorted codes of (context, symbol) and of contexts."""

    pairs: np.ndarray
    pair_counts: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray
    kinds: np.ndarray


class WittenBell:
    """An n-gram model of `order` symbols (order - 1 of context), trained on documents given as bytes."""

    def __init__(self, documents: Iterable[bytes], order: int = 5):
        if not 1 <= order <= 7:
            raise ValueError(f"order must lie between 1 and 7, got {order}: codes of longer contexts overflow int64")
        self.order = order
        symbols, codes = _contexts(documents, order)
        self.levels = []
        for length in range(order):
            context = codes % SYMBOLS**length
            pairs, pair_counts = np.unique(context * SYMBOLS + symbols, return_counts=True)
            contexts, first, totals = _grouped(pairs // SYMBOLS, pair_counts)
            self.levels.append(_Level(pairs, pair_counts, contexts, totals, np.diff(np.append(first, len(pairs)))))

    def probabilities(self, documents: Iterable[bytes]) -> np.ndarray:
        """P of every byte and document end, in order: float64 (number of symbols,)."""
        symbols, codes = _contexts(documents, self.order)
        result = np.full(len(symbols), 1 / SYMBOLS)
        for length, level in enumerate(self.levels):
            context = codes % SYMBOLS**length
            count = _look_up(level.pairs, level.pair_counts, context * SYMBOLS + symbols)
            total = _look_up(level.contexts, level.totals, context)
            kinds = _look_up(level.contexts, level.kinds, context)
            seen = total > 0
            result[seen] = (count[seen] + kinds[seen] * result[seen]) / (total[seen] + kinds[seen])
        return result

    def bits_per_byte(self, documents: Iterable[bytes]) -> float:
        """Bits of all symbols, document ends included, over the bytes of the documents."""
        documents = list(documents)
        bits = -np.log2(self.probabilities(documents)).sum()
        return float(bits / max(sum(map(len, documents)), 1))


def _contexts(documents: Iterable[bytes], order: int) -> tuple[np.ndarray, np.ndarray]:
    """All symbols in a row, and for each the code of the order - 1 symbols in front of it (newest in the lowest
    digit).
    """
    streams, contexts = [], []
    for document in documents:
        symbols = np.append(np.frombuffer(document, np.uint8).astype(np.int64), END)
        padded = np.concatenate([np.full(order - 1, END), symbols])
        code = np.zeros(len(symbols), np.int64)
        for back in range(1, order):
            start = order - 1 - back
            code += padded[start : start + len(symbols)] * SYMBOLS ** (back - 1)
        streams.append(symbols)
        contexts.append(code)
    if not streams:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(streams), np.concatenate(contexts)


def _grouped(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of sorted keys: the different ones, where each begins, and the sum of its counts."""
    different, first = np.unique(keys, return_index=True)
    return different, first, np.add.reduceat(counts, first) if len(first) else counts


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """values at the places where sorted `keys` hold `wanted`, 0 where they do not."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


def stream_documents(stream: TokenStream, tokenizer: Tokenizer) -> list[bytes]:
    """The documents of a shard split as bytes."""
    starts = np.asarray(stream.starts)
    return [
        tokenizer.decode_bytes(stream.read(int(start), int(end - start)).tolist()) for start, end in pairwise(starts)
    ]
