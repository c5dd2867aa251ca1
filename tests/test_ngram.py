"""The n-gram baseline against the definition, written out with dictionaries."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest

from train.ngram import END, SYMBOLS, WittenBell


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
