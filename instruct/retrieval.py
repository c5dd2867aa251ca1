"""How well texts are found, told apart and grouped: the measures of an embedding, and word overlap to beat.

    best, scores = nearest(queries, vectors, 5)         # the five vectors of highest cosine for each query
    ranks = relevant_ranks(scores, relevant)            # where the relevant texts stand in each ranking
    retrieval_figures(ranks)                            # recall_at_1, recall_at_5, mrr, ndcg_at_10
    BM25(texts).scores("sort the numbers")              # how a search engine would score each text
    auc(same, different), spearman(x, y), v_measure(labels, clusters), k_means(vectors, 8), project(vectors)

Definitions. Recall at k is the share of queries that have a relevant text among their first k. MRR is the mean of one
over the rank of the first relevant text. nDCG at 10 discounts rank r by log2(r + 1) and divides by the best that was
possible. AUC is the chance that a pair of the first kind scores higher than one of the second, ties one half (Mann and
Whitney 1947). V-measure is the harmonic mean of homogeneity and completeness (Rosenberg and Hirschberg 2007). BM25 is
that of Robertson et al. (1995) with an idf that is never negative; unless others are named, its words are those of
`instruct.rouge`, where every CJK character is one. Texts of equal score stand in the order of the collection.

What it leaves out. Graded relevance, approximate search, learnt word segmentation.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from instruct.rouge import tokens

ROWS = 256  # queries that are compared with everything at a time


def nearest(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """queries (Q, E), vectors (N, E), all of length 1 -> places (Q, k) int64 and cosines (Q, k), the highest first.

    Fewer columns where there are fewer vectors.
    """
    k = min(k, len(vectors))
    places, cosines = np.zeros((len(queries), k), np.int64), np.zeros((len(queries), k), np.float32)
    for start in range(0, len(queries), ROWS):
        scores = queries[start : start + ROWS] @ vectors.T
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        places[start : start + ROWS] = best
        cosines[start : start + ROWS] = np.take_along_axis(scores, best, axis=1)
    return places, cosines


# Rankings ------------------------------------------------------------------------------------------------------------


def relevant_ranks(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Ranks, from 1, of the relevant texts in the ranking of one query, ascending: scores (N,), relevant (N,) bool."""
    order = np.argsort(-scores, kind="stable")
    return np.flatnonzero(relevant[order]) + 1


def retrieval_figures(ranks: Sequence[np.ndarray]) -> dict[str, float]:
    """Means over queries, of each of which `relevant_ranks` are given. Queries without a relevant text do not count."""
    ranks = [each for each in ranks if len(each)]
    first = np.array([each[0] for each in ranks], dtype=np.float64)
    if not ranks:
        return {"recall_at_1": 0.0, "recall_at_5": 0.0, "mrr": 0.0, "ndcg_at_10": 0.0, "queries": 0}
    return {
        "recall_at_1": float((first <= 1).mean()),
        "recall_at_5": float((first <= 5).mean()),
        "mrr": float((1 / first).mean()),
        "ndcg_at_10": float(np.mean([ndcg(each, 10) for each in ranks])),
        "queries": len(ranks),
    }


def ndcg(ranks: np.ndarray, k: int) -> float:
    """Of one query whose relevant texts have these ranks."""
    gain = (1 / np.log2(ranks[ranks <= k] + 1.0)).sum()
    return float(gain / (1 / np.log2(np.arange(min(k, len(ranks))) + 2.0)).sum())


# Numbers that go together --------------------------------------------------------------------------------------------


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values sharing the mean of theirs; (N,) float64."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[place]


def auc(higher: np.ndarray, lower: np.ndarray) -> float:
    """The chance that one of `higher` is above one of `lower`; ties count one half."""
    n, m = len(higher), len(lower)
    total = average_ranks(np.concatenate([higher, lower]))[:n].sum()
    return float((total - n * (n + 1) / 2) / (n * m))


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Correlation of the ranks; 0 where one of them never varies."""
    a, b = (each - each.mean() for each in (average_ranks(x), average_ranks(y)))
    size = math.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size else 0.0


# Groups --------------------------------------------------------------------------------------------------------------


def v_measure(labels: Sequence, clusters: Sequence) -> float:
    """How well clusters agree with labels, from 0 to 1; the names of the clusters do not matter."""
    joint = Counter(zip(labels, clusters))
    by_label, by_cluster = Counter(labels), Counter(clusters)
    both, one, other = (_entropy(each.values()) for each in (joint, by_label, by_cluster))
    shared = one + other - both
    homogeneity = shared / one if one else 1.0
    completeness = shared / other if other else 1.0
    return 2 * homogeneity * completeness / (homogeneity + completeness) if homogeneity + completeness > 0 else 0.0


def _entropy(counts) -> float:
    shares = np.array(list(counts), dtype=np.float64)
    shares /= shares.sum()
    return float(-(shares * np.log(shares)).sum())


def k_means(vectors: np.ndarray, k: int, seed: int = 0, rounds: int = 50) -> np.ndarray:
    """Cluster numbers (N,) of vectors (N, E), by Lloyd's iteration from the seeds of k-means++ (Arthur and
    Vassilvitskii 2007); of four starts, the one with the least squared distance."""
    attempts = [_lloyd(vectors.astype(np.float64), k, np.random.default_rng([seed, i]), rounds) for i in range(4)]
    return min(attempts, key=lambda found: found[0])[1]


def _lloyd(vectors: np.ndarray, k: int, rng: np.random.Generator, rounds: int) -> tuple[float, np.ndarray]:
    centres = vectors[[rng.integers(len(vectors))]]
    for _ in range(k - 1):
        away = _distances(vectors, centres).min(1)
        shares = away / away.sum() if away.sum() > 0 else None
        centres = np.concatenate([centres, vectors[[rng.choice(len(vectors), p=shares)]]])
    for _ in range(rounds):
        found = _distances(vectors, centres).argmin(1)
        moved = np.stack([vectors[found == i].mean(0) if (found == i).any() else centres[i] for i in range(k)])
        if np.allclose(moved, centres):
            break
        centres = moved
    distances = _distances(vectors, centres)
    return float(distances.min(1).sum()), distances.argmin(1)


def _distances(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    squares = (vectors**2).sum(1)[:, None] - 2 * vectors @ centres.T + (centres**2).sum(1)
    return squares.clip(min=0)


def project(vectors: np.ndarray) -> np.ndarray:
    """The two principal components (N, 2) of vectors (N, E)."""
    centred = vectors - vectors.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    return centred @ axes[:2].T


# Words ---------------------------------------------------------------------------------------------------------------


class BM25:
    """Scores of word overlap with every text of a collection of N.

    words: what a text is cut into. k1: how soon more of a word stops to matter. b: how much long texts are held against
    themselves.
    """

    def __init__(
        self,
        texts: Sequence[str],
        words: Callable[[str], Sequence[str]] = tokens,
        k1: float = 1.2,
        b: float = 0.75,
    ):
        counted = [Counter(words(text)) for text in texts]
        lengths = np.array([sum(each.values()) for each in counted], dtype=np.float64)
        damping = k1 * (1 - b + b * lengths / max(lengths.mean(), 1e-9)) if len(texts) else lengths
        postings: dict[str, list[tuple[int, int]]] = {}
        for place, each in enumerate(counted):
            for word, count in each.items():
                postings.setdefault(word, []).append((place, count))
        self.size, self.words = len(texts), words
        self.weights: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for word, found in postings.items():
            places, counts = np.array(found).T
            self.weights[word] = places, self._idf(len(found)) * counts * (k1 + 1) / (counts + damping[places])

    def _idf(self, holding: int) -> float:
        return math.log(1 + (self.size - holding + 0.5) / (holding + 0.5))

    def scores(self, query: str) -> np.ndarray:
        """(N,) float64; a word that the query says twice counts twice."""
        found = np.zeros(self.size)
        for word, count in Counter(self.words(query)).items():
            if word in self.weights:
                places, weights = self.weights[word]
                found[places] += count * weights
        return found

    def coverage(self, query: str, place: int) -> float:
        """The share of the query that one text holds: its different words, weighted by idf; 0 of a query of none."""
        total = held = 0.0
        for word in dict.fromkeys(self.words(query)):
            places = self.weights[word][0] if word in self.weights else ()
            total += self._idf(len(places))
            held += self._idf(len(places)) if place in places else 0
        return held / total if total else 0.0
