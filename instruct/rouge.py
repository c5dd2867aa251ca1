"""ROUGE-L between instructions, exact and fast, in English and Chinese.

What it is. ROUGE-L (Lin 2004) of two texts of n and m tokens is the F-measure of their longest common subsequence:
F = 2 L / (n + m), L tokens long. Self-Instruct keeps a new instruction when it is below 0.7 against all that it has.

    rouge_l("Reverse the list.", "Reverse the words in the list.")    # 0.666..., a pair
    pool = Pool(["Name three colours.", "把单词翻译成英文"])
    pool.admit(new, 0.7)                            # for each text None (kept) or the Match that it is too near to
    pool.nearest("Name two colours.", 10)           # the ten most similar ones with exact scores
    for i, j, scores in pool.close_pairs(0.7): ...  # all pairs within, as arrays

Why so. Elsewhere this is a Python table for each pair, millions of times (yizhongw/self-instruct), texts of one batch
are never compared with each other (BELLE), and Chinese characters are deleted, so that every Chinese pair scores 0
(rouge_score). Here a CJK character is a token of its own. For all other text, tokens and scores are those of
rouge_score without stemmer to the last bit: F is computed in its order of operations, so that even ties at 0.7 agree.

How. Three exact steps, each leaving less to the next.
1. *Lengths.* L <= min(n, m), hence F <= 2 min(n, m) / (n + m). Texts are sorted by length and compared in blocks; pairs
   of blocks too far apart are skipped.
2. *Tokens in common.* L is at most the number of tokens in common, counted with repetition. The k-th occurrence of a
   token is a feature, hashed into D buckets; the inner product of two bucket counts is at least the number of common
   features, whatever collides. So one matrix product bounds a million pairs, and n and m ride along as two columns:
   the sign of the product is the decision. (An inverted index wins on rare words and loses on instructions, which
   share templates; the product costs the same for both.)
3. *Bits.* For what is left, the longest common subsequence of 64 rows of the table at a time: one addition and three
   logical operations for each token (Crochemore et al. 2001, Hyyro 2004), for thousands of pairs at once.

The plain table (`lcs_table`) and the bits of one pair in Python's long integers (`lcs_bits`) stand beside it.

What it leaves out. Stemming, segmentation of Chinese into words, full-width letters and digits (deleted, as in
rouge_score). A text without any token scores 0 against everything, itself included.

    python -m instruct.rouge_bench    # how fast, and whether it is right
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from configs import UserError

# Han, kana, Hangul: scripts in which no space parts the words.
CJK = (
    "\u3005\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\uff66-\uff9d"
    "\U00020000-\U0002fa1f\U00030000-\U000323af"
)
TOKEN = re.compile(f"[a-z0-9]+|[{CJK}]")
BLOCK = 1024  # texts compared in one matrix product: a million pairs, which fit the second-level cache as float32
PAIRS = 1 << 15  # pairs whose subsequences are found together
SLACK = 1e-5  # relative; covers the rounding of float32 in the bound, which may let through but never reject

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]


def tokens(text: str) -> list[str]:
    """Lower-case runs of ASCII letters and digits, and single CJK characters; everything else separates."""
    return TOKEN.findall(text.lower())


# A pair --------------------------------------------------------------------------------------------------------------


def rouge_l(a: str, b: str) -> float:
    """ROUGE-L F-measure of two texts, in [0, 1]; symmetric."""
    first, second = tokens(a), tokens(b)
    return float(f_measure(np.array(lcs_bits(first, second)), np.array(len(first)), np.array(len(second))))


def f_measure(common: np.ndarray, n: np.ndarray, m: np.ndarray) -> np.ndarray:
    """F from the length of the common subsequence and the two lengths, float64; 0 where nothing is in common."""
    precision, recall = common / np.maximum(n, 1), common / np.maximum(m, 1)
    return 2 * precision * recall / np.where(common > 0, precision + recall, 1)


def lcs_table(a: Sequence, b: Sequence) -> int:
    """Length of the longest common subsequence: the definition, row by row. O(n m)."""
    row = [0] * (len(b) + 1)
    for x in a:
        previous, row = row, [0]
        for j, y in enumerate(b):
            row.append(previous[j] + 1 if x == y else max(previous[j + 1], row[j]))
    return row[-1]


def lcs_bits(a: Sequence, b: Sequence) -> int:
    """The same with a row of the table in the bits of one integer.

    Along a row the table grows by 0 or 1; bit i of `flat` is set where it does not grow at a[i]. Adding the matching
    bits carries each of them to the next flat one, which is what taking the best of two neighbours amounts to.
    """
    where: dict = {}
    for i, x in enumerate(a):
        where[x] = where.get(x, 0) | 1 << i
    everything = (1 << len(a)) - 1
    flat = everything
    for y in b:
        matches = where.get(y, 0)
        flat = (flat + (flat & matches) | flat & ~matches) & everything
    return len(a) - flat.bit_count()


# Many pairs ----------------------------------------------------------------------------------------------------------


def lcs_lengths(left: np.ndarray, right: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Common subsequences of many pairs: of left[rows[p]] and right[columns[p]] for each p; (P,) int64.

    left (Q, n), right (R, m): token ids from 1 on, padded with 0, which matches nothing. `lcs_bits` in 64-bit words,
    one for 64 tokens of the left text, the carry handed from word to word.
    """
    used, row = np.unique(rows, return_inverse=True)
    table, local = _match_table(left[used], int(right.max(initial=0)))
    words, _, size = table.shape
    steps = local[right.T]  # (m, R): rows of the table
    flat = np.full((words, len(rows)), ~np.uint64(0))
    table = table.reshape(words, -1)
    for step in steps:
        place = row * size + step[columns]
        carry: np.ndarray | np.uint64 = np.uint64(0)
        for word in range(words):
            before, matches = flat[word], table[word][place]
            total = before + (before & matches)
            overflow = total < before
            if words > 1:
                total += carry
                carry = (overflow | (total < carry)).astype(np.uint64)
            flat[word] = total | before & ~matches
    grows = np.unpackbits((~flat).view(np.uint8), axis=1).reshape(words, len(rows), 64)
    return grows.sum((0, 2), dtype=np.int64)


def _match_table(left: np.ndarray, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each token stands in each text: (W, Q, K) words of bits for the K - 1 tokens that occur, and (V,) the row
    of the table for each token id, 0 (nowhere) for those that do not occur."""
    distinct = np.unique(left)
    distinct = distinct[distinct > 0]
    local = np.zeros(max(largest, int(left.max(initial=0))) + 1, dtype=np.int64)
    local[distinct] = np.arange(1, len(distinct) + 1)
    words = max(1, -(-left.shape[1] // 64))
    table = np.zeros((words, len(left), len(distinct) + 1), dtype=np.uint64)
    every = np.arange(len(left))
    for i, column in enumerate(local[left.T]):
        table[i // 64, every, column] |= np.uint64(1 << i % 64)
    table[:, :, 0] = 0
    return table, local


class _Block:
    """B texts side by side. numbers (B,): their place in the pool. tokens, features (B, n): padded with 0 and -1."""

    def __init__(self, numbers: np.ndarray, encoded: Sequence[np.ndarray]):
        self.numbers = numbers
        self.lengths = np.array([row.shape[1] for row in encoded], dtype=np.int64)
        filled = np.arange(self.lengths.max(initial=0)) < self.lengths[:, None]
        self.tokens, self.features = np.zeros(filled.shape, np.int64), np.full(filled.shape, -1)
        self.tokens[filled], self.features[filled] = np.concatenate(encoded, axis=1)

    def counts(self, buckets: int, lengths: np.ndarray, ones_first: bool) -> torch.Tensor:
        """(B, buckets + 2) float32: features in each bucket, then what adds the lengths of both sides in a product."""
        row, column = (self.features >= 0).nonzero()
        places = row * buckets + self.features[row, column] % buckets
        counted = np.bincount(places, minlength=len(self.numbers) * buckets).reshape(-1, buckets)
        ones = np.ones(len(lengths))
        extra = (ones, lengths) if ones_first else (lengths, ones)
        return torch.from_numpy(np.column_stack((counted, *extra)).astype(np.float32))

    def may_be_near(self, other: _Block, threshold: float) -> bool:
        """Whether lengths alone leave any pair with a score of `threshold`; what has no token is near to nothing."""
        shorter, longer = sorted((self, other), key=lambda block: block.lengths.max())
        short, long = int(shorter.lengths.max()), max(int(longer.lengths.min()), 1)
        return short > 0 and 2 * short >= threshold * (1 - SLACK) * (short + long)


def _near(left: _Block, right: _Block, threshold: float) -> Iterator[Pairs]:
    """Pairs of two blocks with a score of at least `threshold`: places in the pool, and scores. left is not right, or
    each pair comes once, the earlier one in the block second."""
    if not left.may_be_near(right, threshold):
        return
    # Eight buckets a token keep collisions rare; more of them cost time, fewer let more pairs through.
    buckets = 1 << min(max((8 * max(left.tokens.shape[1], right.tokens.shape[1]) - 1).bit_length(), 6), 12)
    share = -threshold * (1 - SLACK) / 2
    bound = left.counts(buckets, share * left.lengths, False) @ right.counts(buckets, share * right.lengths, True).T
    candidates = np.flatnonzero(bound.numpy() >= 0)
    rows, columns = np.divmod(candidates, len(right.numbers))
    if left is right:
        rows, columns = rows[rows > columns], columns[rows > columns]
    for start in range(0, len(rows), PAIRS):
        row, column = rows[start : start + PAIRS], columns[start : start + PAIRS]
        common = lcs_lengths(left.tokens, right.tokens, row, column)
        scores = f_measure(common, left.lengths[row], right.lengths[column])
        near = scores >= threshold
        yield left.numbers[row[near]], right.numbers[column[near]], scores[near]


# A pool --------------------------------------------------------------------------------------------------------------


class Match(NamedTuple):
    """A text of the pool by its number, and the ROUGE-L with it."""

    index: int
    score: float


class Pool:
    """A growing set of texts to compare with; `texts[i]` is number i. N texts."""

    def __init__(self, texts: Iterable[str] = ()):
        self.texts: list[str] = []
        self._encoded: list[np.ndarray] = []  # of each text (2, n): tokens and features
        self._vocabulary: dict[str, int] = {}
        self._blocks: list[_Block] = []
        self._in_blocks = 0
        self.extend(texts)

    def __len__(self) -> int:
        return len(self.texts)

    def copy(self) -> Pool:
        """A pool of the same texts that grows on its own."""
        twin = Pool()
        twin.texts, twin._encoded, twin._blocks = self.texts[:], self._encoded[:], self._blocks[:]
        twin._vocabulary, twin._in_blocks = self._vocabulary, self._in_blocks  # it only grows: both may share it
        return twin

    def add(self, text: str) -> int:
        """Put a text into the pool without judging it; gives its number."""
        self._encoded.append(self._encode(text))
        self.texts.append(text)
        return len(self.texts) - 1

    def extend(self, texts: Iterable[str]) -> None:
        """Put texts into the pool without judging them."""
        for text in texts:
            self.add(text)

    def scores(self, text: str) -> np.ndarray:
        """Exact ROUGE-L with every text of the pool, (N,) float64."""
        query = self._encode(text)
        found = np.zeros(len(self))
        for block in self._current():
            everyone = np.arange(len(block.numbers))
            common = lcs_lengths(query[:1], block.tokens, np.zeros_like(everyone), everyone)
            found[block.numbers] = f_measure(common, np.array(query.shape[1]), block.lengths)
        return found

    def nearest(self, text: str, count: int = 10) -> list[Match]:
        """The most similar texts with exact scores, best first, of equal ones the earlier first; fewer when N is."""
        scores = self.scores(text)
        best = np.argsort(-scores, kind="stable")[:count]
        return [Match(int(i), float(scores[i])) for i in best]

    def max_similarity(self, text: str) -> float:
        """The highest ROUGE-L with any text of the pool; 0 in an empty pool."""
        return float(self.scores(text).max(initial=0))

    def first_within(self, text: str, threshold: float = 0.7) -> Match | None:
        """The earliest text with a ROUGE-L of at least `threshold`, or None: the text may be kept."""
        scores = self.scores(text)
        within = np.flatnonzero(scores >= _checked(threshold))
        return Match(int(within[0]), float(scores[within[0]])) if len(within) else None

    def admit(self, texts: Sequence[str], threshold: float = 0.7) -> list[Match | None]:
        """Judge texts in their order and keep in the pool those below `threshold` against all that it holds by then.

        So texts of one call are compared with each other, and of two duplicates exactly one stays. For each text: None
        when kept, else the nearest of those texts of the pool that are within the threshold.
        """
        _checked(threshold)
        verdicts: list[Match | None] = []
        for start in range(0, len(texts), BLOCK):
            verdicts += self._admit_block(texts[start : start + BLOCK], threshold)
        return verdicts

    def close_pairs(self, threshold: float = 0.7) -> Iterator[Pairs]:
        """All pairs with a ROUGE-L of at least `threshold`, each once: arrays (first, second, scores), in no order.

        Decides N (N - 1) / 2 pairs and holds a block of them at a time, however many are close.
        """
        _checked(threshold)
        blocks = _sorted_blocks(np.arange(len(self)), self._encoded)
        for i, left in enumerate(blocks):
            for right in blocks[: i + 1]:
                yield from _near(left, right, threshold)

    def _admit_block(self, texts: Sequence[str], threshold: float) -> list[Match | None]:
        encoded = [self._encode(text) for text in texts]
        verdicts = self._nearest_held(encoded, threshold)
        left = np.array([i for i, verdict in enumerate(verdicts) if verdict is None], dtype=np.int64)
        earlier = _nearby_earlier(left, [encoded[i] for i in left], threshold)
        number_of: dict[int, int] = {}  # place in `texts` -> place in the pool, of those kept
        for i in left.tolist():
            for j, score in earlier.get(i, ()):
                if j in number_of:
                    verdicts[i] = _nearer(verdicts[i], Match(number_of[j], score))
            if verdicts[i] is None:
                number_of[i] = len(self)
                self.texts.append(texts[i])
                self._encoded.append(encoded[i])
        return verdicts

    def _nearest_held(self, encoded: Sequence[np.ndarray], threshold: float) -> list[Match | None]:
        """For each new text the nearest one of the pool within the threshold."""
        nearest: list[Match | None] = [None] * len(encoded)
        for block in _sorted_blocks(np.arange(len(encoded)), encoded):
            for held in self._current():
                for new, old, scores in _near(block, held, threshold):
                    for i, match in zip(new.tolist(), map(Match, old.tolist(), scores.tolist())):
                        nearest[i] = _nearer(nearest[i], match)
        return nearest

    def _encode(self, text: str) -> np.ndarray:
        """(2, n) int64: token ids, and features: numbers that tell token and occurrence (near enough) apart."""
        vocabulary, seen = self._vocabulary, Counter()
        ids, features = [], []
        for token in tokens(text):
            number = vocabulary.setdefault(token, len(vocabulary) + 1)
            ids.append(number)
            features.append(number + 1_000_003 * seen[token])
            seen[token] += 1
        return np.array([ids, features], dtype=np.int64)

    def _current(self) -> list[_Block]:
        """The pool in blocks. New texts get a block of their own, until there are too many of those."""
        if self._in_blocks < len(self):
            fresh = np.arange(self._in_blocks, len(self))
            self._blocks = [*self._blocks, *_sorted_blocks(fresh, self._encoded[self._in_blocks :])]
            if len(self._blocks) > 16 + 2 * len(self) // BLOCK:
                self._blocks = _sorted_blocks(np.arange(len(self)), self._encoded)
            self._in_blocks = len(self)
        return self._blocks


def _sorted_blocks(numbers: np.ndarray, encoded: Sequence[np.ndarray]) -> list[_Block]:
    """Blocks of texts of about the same length, shortest first."""
    order = np.argsort([row.shape[1] for row in encoded], kind="stable")
    parts = (order[start : start + BLOCK] for start in range(0, len(order), BLOCK))
    return [_Block(numbers[part], [encoded[i] for i in part]) for part in parts]


def _nearby_earlier(
    numbers: np.ndarray, encoded: Sequence[np.ndarray], threshold: float
) -> dict[int, list[tuple[int, float]]]:
    """For each text the earlier ones within the threshold, with scores; texts are named by their numbers."""
    earlier: dict[int, list[tuple[int, float]]] = {}
    for block in _sorted_blocks(numbers, encoded):
        for a, b, scores in _near(block, block, threshold):
            for i, j, score in zip(a.tolist(), b.tolist(), scores.tolist()):
                earlier.setdefault(max(i, j), []).append((min(i, j), score))
    return earlier


def _nearer(a: Match | None, b: Match) -> Match:
    return b if a is None or (b.score, -b.index) > (a.score, -a.index) else a


def _checked(threshold: float) -> float:
    if not 0 < threshold <= 1:
        raise UserError(f"the ROUGE-L threshold must lie above 0 and at most at 1, got {threshold}; 0.7 is usual")
    return threshold
