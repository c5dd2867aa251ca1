"""Measures of retrieval, correlation and clusters against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from instruct.retrieval import (
    BM25,
    auc,
    average_ranks,
    k_means,
    ndcg,
    nearest,
    project,
    relevant_ranks,
    retrieval_figures,
    spearman,
    v_measure,
)


def test_nearest_is_ordered_and_no_longer_than_the_collection():
    vectors = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    places, cosines = nearest(np.array([[0.8, 0.6], [0, 1]], np.float32), vectors, 2)
    assert places.tolist() == [[2, 0], [1, 2]]
    assert cosines == pytest.approx(np.array([[0.96, 0.8], [1, 0.8]]))
    assert nearest(vectors, vectors, 9)[0].shape == (3, 3)
    assert nearest(np.tile(vectors, (200, 1)), vectors, 1)[0][:, 0].tolist() == [0, 1, 2] * 200, "beyond one block"


def test_ranks_of_relevant_texts():
    scores, relevant = np.array([0.1, 0.9, 0.5, 0.5]), np.array([True, False, False, True])
    assert relevant_ranks(scores, relevant).tolist() == [3, 4], "of equal scores the earlier text stands first"


def test_figures_of_three_queries_by_hand():
    ranks = [np.array([1, 3]), np.array([4]), np.array([20]), np.array([], int)]
    found = retrieval_figures(ranks)
    assert found["queries"] == 3
    assert found["recall_at_1"] == pytest.approx(1 / 3) and found["recall_at_5"] == pytest.approx(2 / 3)
    assert found["mrr"] == pytest.approx((1 + 1 / 4 + 1 / 20) / 3)
    first = (1 + 1 / 2) / (1 + 1 / math.log2(3))
    assert found["ndcg_at_10"] == pytest.approx((first + 1 / math.log2(5) + 0) / 3)
    assert retrieval_figures([])["queries"] == 0


def test_ndcg_is_one_where_all_relevant_texts_come_first():
    assert ndcg(np.arange(1, 25), 10) == pytest.approx(1)
    assert ndcg(np.array([2]), 10) == pytest.approx(1 / math.log2(3))
    assert ndcg(np.array([11]), 10) == 0


def test_equal_values_share_their_rank():
    assert average_ranks(np.array([5, 1, 5, 9])).tolist() == [2.5, 1, 2.5, 4]


def test_auc_is_the_share_of_ordered_pairs():
    higher, lower = np.array([3.0, 1.0]), np.array([0.0, 1.0, 2.0])
    pairs = [(a > b) + (a == b) / 2 for a in higher for b in lower]
    assert auc(higher, lower) == pytest.approx(sum(pairs) / 6)
    assert auc(np.array([1.0]), np.array([0.0])) == 1 and auc(np.ones(3), np.ones(4)) == 0.5


def test_spearman_by_hand():
    assert spearman(np.array([1, 2, 3, 4]), np.array([1, 8, 27, 64])) == pytest.approx(1)
    assert spearman(np.array([1, 2, 3]), np.array([9, 3, 1])) == pytest.approx(-1)
    # 1 - 6 * (0 + 1 + 1) / (3 * 8)
    assert spearman(np.array([1, 2, 3]), np.array([10, 30, 20])) == pytest.approx(0.5)
    assert spearman(np.array([1, 2, 3]), np.ones(3)) == 0


def test_v_measure_by_hand():
    assert v_measure("aabb", [7, 7, 3, 3]) == pytest.approx(1)
    assert v_measure("aabb", [0, 1, 0, 1]) == pytest.approx(0)
    assert v_measure("aabb", [0, 0, 0, 0]) == pytest.approx(0)
    # four clusters: homogeneous (1), completeness log 2 / log 4 = 1 / 2
    assert v_measure("aabb", [0, 1, 2, 3]) == pytest.approx(2 / 3)


def test_k_means_finds_what_lies_together():
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0, 9], [9, 0, 0], [0, 9, 0]])
    labels = np.repeat([0, 1, 2], 40)
    found = k_means(centres[labels] + rng.normal(size=(120, 3)), 3)
    assert v_measure(labels.tolist(), found.tolist()) == pytest.approx(1)
    assert len(set(k_means(np.ones((5, 2)), 3).tolist())) == 1, "fewer different vectors than clusters"


def test_the_projection_keeps_the_widest_directions():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 3)) * [0.1, 5, 1]
    found = project(vectors)
    for axis, column in ((0, 1), (1, 2)):
        assert abs(np.corrcoef(found[:, axis], vectors[:, column])[0, 1]) > 0.99
    assert found.mean(0) == pytest.approx(np.zeros(2), abs=1e-9)


def test_bm25_by_hand():
    """Three texts of 2, 4 and 3 words, 3 on average; "sort" stands in two of them, "词" once in the last."""
    index = BM25(["sort numbers", "sort sort the words", "把 词 x"])
    idf_sort, idf_word = math.log(1 + 1.5 / 2.5), math.log(1 + 2.5 / 1.5)
    first = idf_sort * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 2 / 3))
    second = idf_sort * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 4 / 3))
    assert index.scores("Sort!") == pytest.approx(np.array([first, second, 0]))
    assert index.scores("sort sort 词") == pytest.approx(np.array([2 * first, 2 * second, idf_word]))
    assert index.scores("nothing of it").tolist() == [0, 0, 0]


def test_bm25_reads_chinese_character_by_character():
    index = BM25(["给数字排序", "翻译这个词"])
    scores = index.scores("把数字排好")
    assert scores[0] > 0 and scores[1] == 0


def test_bm25_of_other_words_and_the_share_of_a_query_that_a_text_holds():
    index = BM25(["the cat and the cat", "the dog", "a bird", ""], str.split)
    idf = {term: math.log(1 + (4 - n + 0.5) / (n + 0.5)) for term, n in (("the", 2), ("cat", 1), ("zebra", 0))}
    norm = [1.2 * (0.25 + 0.75 * length / (9 / 4)) for length in (5, 2)]
    first = sum(idf[term] * 2 * 2.2 / (2 + norm[0]) for term in ("the", "cat"))
    assert index.scores("the cat") == pytest.approx(np.array([first, idf["the"] * 2.2 / (1 + norm[1]), 0, 0]))
    whole = sum(idf.values())
    shares = [index.coverage("the zebra the cat", place) for place in range(3)]
    assert shares == pytest.approx([(idf["the"] + idf["cat"]) / whole, idf["the"] / whole, 0])
    assert index.coverage("", 0) == 0
