"""The n-gram baseline against the definition, written out with dictionaries."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest

from train.ngram import END, SYMBOLS, Neighbours, WittenBell


def by_definition(train: list[bytes], history: tuple[int, ...], symbol: int) -> float:
    """P(symbol | history), recursively, counting anew each time."""
    follow: Counter = Counter()
    for document in train:
        padded = [END] * 6 + list(document) + [END]
        for place in range(6, len(padded)):
            if tuple(padded[place - len(history) : place]) == history:
                follow[padded[place]] += 1
    shorter = by_definition(train, history[1:], symbol) if history else 1 / SYMBOLS
    if not follow:
        return shorter
    return (follow[symbol] + len(follow) * shorter) / (follow.total() + len(follow))


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_are_those_of_the_definition(order):
    generator = random.Random(order)
    train = [bytes(generator.choices(b"abc ", k=generator.randint(0, 9))) for _ in range(6)]
    held_out = [b"abca", b"", b"zb a"]
    expected = []
    for document in held_out:
        padded = [END] * (order - 1) + list(document) + [END]
        for place in range(order - 1, len(padded)):
            expected.append(by_definition(train, tuple(padded[place - order + 1 : place]), padded[place]))
    np.testing.assert_allclose(WittenBell(train, order).probabilities(held_out), expected, rtol=1e-12)


def test_probabilities_of_all_symbols_sum_to_one():
    train = [b"the cat", b"the hat", b"a cat that sat"]
    model = WittenBell(train, 4)
    endings = [b"the ca" + bytes([symbol]) for symbol in range(256)]
    place = len(b"the ca")
    total = sum(model.probabilities([ending])[place] for ending in endings)
    total += model.probabilities([b"the ca"])[place]  # the end of the document
    assert total == pytest.approx(1, abs=1e-9)


def test_bits_per_byte_of_a_certain_text_is_small_and_of_noise_is_not():
    text = b"abcdefgh" * 200
    assert WittenBell([text]).bits_per_byte([text]) < 0.1
    generator = random.Random(0)
    noise = [bytes(generator.randrange(256) for _ in range(3000)) for _ in range(2)]
    assert WittenBell(noise[:1]).bits_per_byte(noise[1:]) > 7.9


def test_document_ends_cost_bits():
    model = WittenBell([b"aaaa"] * 3, 2)
    bits = -np.log2(model.probabilities([b"aaaa"])).sum()
    assert model.bits_per_byte([b"aaaa"]) == pytest.approx(bits / 4)
    assert math.isfinite(bits)


def test_an_order_whose_codes_would_overflow_is_refused():
    with pytest.raises(ValueError, match="between 1 and 7"):
        WittenBell([b"a"], 8)


# Between two neighbours ----------------------------------------------------------------------------------------------

BOS, EOS, HIDDEN = 0, 1, 2
IS_TEXT = np.array([False] * 3 + [True] * 9)


def named_by_definition(ids: list[int], left: int, right: int) -> set[int]:
    """What may be named between the two, counting anew: the favourites of the best context that was ever seen."""
    seen = [(a, w, b) for a, w, b in zip(ids, ids[1:], ids[2:]) if IS_TEXT[w]]

    def favourites(counts: Counter) -> tuple[float, set[int]]:
        if not counts:
            return 1.0, set()
        most = max(counts.values())
        return 1 - most / (counts.total() + len(counts)), {w for w, count in counts.items() if count == most}

    between = favourites(Counter(w for a, w, b in seen if (a, b) == (left, right)))[1]
    one = favourites(Counter(w for a, w, _ in seen if a == left))
    other = favourites(Counter(w for _, w, b in seen if b == right))
    beside = min(one, other, key=lambda each: each[0])[1] if one[0] != other[0] else one[1] | other[1]
    return between or beside or favourites(Counter(w for _, w, _ in seen))[1]


def test_neighbours_name_what_the_definition_says():
    generator = random.Random(0)
    ids = []
    for _ in range(40):
        words = generator.choices(range(3, 11), weights=range(1, 9), k=generator.randint(1, 6))
        ids += [BOS, *words, EOS]
    model = Neighbours(np.array(ids), IS_TEXT)
    pairs = [(left, right) for left in range(12) for right in range(12)]
    named = model.predict(*np.array(pairs).T)
    for (left, right), token in zip(pairs, named.tolist()):
        assert token in named_by_definition(ids, left, right), (left, right)
    assert {model.unigram} == named_by_definition(ids, HIDDEN, HIDDEN), "which were never seen"


def test_the_pair_is_asked_before_one_neighbour_and_that_before_none():
    """3 x 4 once gave 5; after 3 comes mostly 6, before 4 mostly 7; the most frequent of all is 8."""
    ids = [BOS, 3, 5, 4, EOS, *[BOS, 3, 6, EOS] * 5, *[BOS, 7, 4, EOS, BOS, 9, 4, EOS] * 4, *[BOS, 8, EOS] * 30]
    model = Neighbours(np.array(ids), IS_TEXT)
    named = model.predict(np.array([3, 3, HIDDEN, HIDDEN]), np.array([4, HIDDEN, 4, HIDDEN]))
    assert named[:2].tolist() == [5, 6] and named[2] in (7, 9) and named[3] == 8
    assert model.predict(np.array([3]), np.array([9])).tolist() == [6], "the surer of two: nothing stood before a 9"


def test_markers_are_never_named():
    ids = np.array([BOS, 3, EOS, BOS, 4, EOS, BOS, 3, EOS])
    assert set(Neighbours(ids, IS_TEXT).predict(*np.indices((12, 12)).reshape(2, -1)).tolist()) <= {3, 4}
    with pytest.raises(ValueError, match="no text between two tokens"):
        Neighbours(np.array([BOS, EOS, BOS, EOS]), IS_TEXT)
    with pytest.raises(ValueError, match="too large"):
        Neighbours(ids, np.ones(2**21, bool))
