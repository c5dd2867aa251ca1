"""The order of samples as a pure function: no stored index, no hidden state.

Which sample stands at position p of an endless run is computed from `(seed, p)`: epoch e = p // size, place i = p %
size, sample = P(seed, e)(i), where P is a pseudo-random bijection of {0 .. size-1}. The bijection is a balanced
Feistel network over the smallest power of four that holds `size`, with cycle-walking for the values outside (Black
and Rogaway, 2002, "Ciphers with arbitrary finite domains"). Memory is O(1) whatever the corpus.

So the whole state of a data loader is one integer, `samples_seen`; ranks take strided slices of the same positions, and
exact resume and another number of ranks need no further code.

What it leaves out: this is a shuffle, not cryptography.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 6


def mix(x: np.ndarray) -> np.ndarray:
    """A well-mixing bijection of uint64 (the finaliser of splitmix64, Steele et al. 2014); wraps modulo 2**64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def key(*parts: int) -> np.uint64:
    """One 64-bit key from several integers, such as seed, epoch and rank; their order matters."""
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = mix(state + np.uint64(part % 2**64) + np.uint64(0x9E3779B97F4A7C15))
    return state[0]


def permute(index: np.ndarray, size: int, permutation_key: np.uint64) -> np.ndarray:
    """Apply a keyed bijection of {0 .. size-1} to every element of `index`, (N,) int64, each in range: (N,) int64."""
    half = np.uint64((max(size - 1, 1).bit_length() + 1) // 2)  # bits of either half of a number
    low = (np.uint64(1) << half) - np.uint64(1)
    round_keys = mix(permutation_key + np.arange(1, ROUNDS + 1, dtype=np.uint64))

    def feistel(x: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & low
        for round_key in round_keys:
            left, right = right, left ^ (mix(right + round_key) & low)
        return (left << half) | right

    value = feistel(np.asarray(index, np.uint64))
    while (outside := value >= np.uint64(size)).any():  # at most three of four: a few rounds on average
        value[outside] = feistel(value[outside])
    return value.astype(np.int64)


def samples_at(positions: np.ndarray, size: int, seed: int, shuffle: bool = True) -> np.ndarray:
    """The sample at each position of the endless sequence of epochs over `size` samples: (N,) int64 to (N,) int64."""
    positions = np.asarray(positions, np.int64)
    epochs, places = np.divmod(positions, size)
    if not shuffle:
        return places
    samples = np.empty_like(places)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        samples[chosen] = permute(places[chosen], size, key(seed, int(epoch)))
    return samples


def rank_positions(samples_seen: int, batch_size: int, rank: int, world: int) -> np.ndarray:
    """Positions that `rank` of `world` handles in the step that starts at `samples_seen`: every `world`-th of them.

    (batch_size / world,) int64; where `world` does not divide the batch, the first ranks have one more.
    """
    return np.arange(samples_seen + rank, samples_seen + batch_size, world, dtype=np.int64)
