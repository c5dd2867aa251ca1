"""A byte-level n-gram model with Witten-Bell smoothing: the baseline that a Transformer must beat on the same text.

Interpolated Witten-Bell (Witten and Bell 1991; Chen and Goodman 1998, section 2.4): with c(h, w) the count of symbol
w after context h, c(h) its total and t(h) the number of different symbols seen after it,

    P(w | h) = (c(h, w) + t(h) P(w | h')) / (c(h) + t(h)),    h' = h without its oldest symbol,

down to the uniform distribution. Contexts that were never seen pass the probability of the shorter one through.
Symbols are the 256 bytes and the end of a document, which also stands in front of each document: the same things that
a language model over tokens has to predict. Counts are sorted integer codes, so that training and scoring are
whole-array operations.

`Neighbours` is the same for masked prediction: which token stands between these two?
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


class Neighbours:
    """Names the token that stands between two others, with back-off: the baseline of masked prediction.

    The most frequent token of the training text between these two neighbours; where they never stood so, the one beside
    the left or the right neighbour, whichever of them leaves the smaller doubt (count over total and kinds: Witten and
    Bell's share of what was seen); where neither was seen, the most frequent token of all (`unigram`).
    """

    def __init__(self, ids: np.ndarray, is_text: np.ndarray):
        """ids (N,) int64: documents in a row, each with its <bos> and <eos>. is_text (V,) bool: what may be named."""
        V = len(is_text)
        if V >= 2**21:
            raise ValueError(f"a vocabulary of {V} is too large: codes of three tokens overflow int64")
        self.vocab_size = V
        left, middle, right = ids[:-2], ids[1:-1], ids[2:]
        chosen = is_text[middle]
        left, middle, right = left[chosen], middle[chosen], right[chosen]
        if not len(middle):
            raise ValueError("there is no text between two tokens to learn from")
        self.unigram = int(np.bincount(middle).argmax())
        self.between = _favourites(left * V + right, middle, V)
        self.after, self.before = _favourites(left, middle, V), _favourites(right, middle, V)

    def predict(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """(N,), (N,) ids -> (N,) ids. A neighbour that says nothing, as <mask>, is one that was never seen."""
        after, doubt_after = _favourite(self.after, left)
        before, doubt_before = _favourite(self.before, right)
        one = np.where(doubt_after <= doubt_before, after, before)
        both, doubt = _favourite(self.between, left * self.vocab_size + right)
        found = np.where(np.minimum(doubt_after, doubt_before) < 1, one, self.unigram)
        return np.where(doubt < 1, both, found)


@dataclass(frozen=True)
class _Favourites:
    """Of sorted contexts: the token that is most frequent there, and one minus its share."""

    contexts: np.ndarray
    tokens: np.ndarray
    doubts: np.ndarray


def _favourites(contexts: np.ndarray, tokens: np.ndarray, V: int) -> _Favourites:
    pairs, counts = np.unique(contexts * V + tokens, return_counts=True)
    different, first, totals = _grouped(pairs // V, counts)
    kinds = np.diff(np.append(first, len(pairs)))
    order = np.lexsort((pairs, -counts, pairs // V))  # in each context the most frequent token is the first
    best = order[first]
    return _Favourites(different, pairs[best] % V, 1 - counts[best] / (totals + kinds))


def _favourite(table: _Favourites, contexts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Token and doubt; doubt 1 where the context was never seen."""
    place = np.minimum(np.searchsorted(table.contexts, contexts), len(table.contexts) - 1)
    return table.tokens[place], np.where(table.contexts[place] == contexts, table.doubts[place], 1.0)
