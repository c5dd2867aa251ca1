"""The order: a bijection for every size, shared out among ranks without loss, a function of (seed, position)."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.order import key, mix, permute, rank_positions, samples_at

SEEDS = st.integers(0, 2**64 - 1)


@given(size=st.integers(1, 3000), seed=SEEDS)
def test_permutation_is_a_bijection(size, seed):
    assert np.array_equal(np.sort(permute(np.arange(size), size, key(seed))), np.arange(size))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 255, 256, 257])
def test_permutation_is_a_bijection_around_powers_of_four(size):
    assert np.array_equal(np.sort(permute(np.arange(size), size, key(7))), np.arange(size))


@given(size=st.integers(2**31, 2**50), seed=SEEDS, start=st.integers(0, 2**31 - 100))
def test_huge_sizes_stay_in_range_without_collisions(size, seed, start):
    """No memory for the size is needed; different places give different samples."""
    samples = permute(np.arange(start, start + 100), size, key(seed))
    assert len(set(samples.tolist())) == 100
    assert samples.min() >= 0 and samples.max() < size


def test_extreme_keys_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for extreme in (0, 2**64 - 1):
            permute(np.arange(10), 10, np.uint64(extreme))
            key(extreme, -1, 2**70)


@given(
    size=st.integers(1, 200),
    batch=st.integers(1, 40),
    world=st.integers(1, 9),
    seen=st.integers(0, 10**6),
)
def test_ranks_partition_every_step(size, batch, world, seen):
    """Whatever the number of ranks, together they handle the positions of the step, each once.

    Ranks overlapped (nanoGPT#531), or all saw the same stream (astroPT#64).
    """
    shares = [rank_positions(seen, batch, rank, world) for rank in range(world)]
    assert np.array_equal(np.sort(np.concatenate(shares)), np.arange(seen, seen + batch))
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1
    one = samples_at(rank_positions(seen, batch, 0, 1), size, 3)
    several = {int(p): int(s) for share in shares for p, s in zip(share, samples_at(share, size, 3))}
    assert [several[p] for p in range(seen, seen + batch)] == one.tolist()


@given(size=st.integers(1, 100), epoch=st.integers(0, 1000), seed=SEEDS)
def test_each_epoch_holds_every_sample_once(size, epoch, seed):
    """Offsets were drawn with replacement (nanoGPT#531)."""
    positions = np.arange(epoch * size, (epoch + 1) * size)
    assert np.array_equal(np.sort(samples_at(positions, size, seed)), np.arange(size))
    assert np.array_equal(samples_at(positions, size, seed, shuffle=False), np.arange(size))


def test_epochs_and_seeds_differ():
    """Two random orders of 1,000 agree in one place on average; in more than 20 with probability below 1e-18."""
    orders = [samples_at(np.arange(e * 1000, (e + 1) * 1000), 1000, seed) for e, seed in ((0, 1), (1, 1), (0, 2))]
    for one, two in ((0, 1), (0, 2), (1, 2)):
        assert (orders[one] == orders[two]).sum() <= 20
    assert key(1, 2) != key(2, 1)


def test_order_is_well_mixed():
    """Neighbours do not stay together: the mean distance of two random places is a third of the size.

    For a uniform permutation of 10,000 its standard deviation is below 0.003 of the size: 0.02 is passed with
    probability below 1e-9. Every tenth of the order holds about a tenth of the first tenth (binomial, +- 6 sigma).
    """
    size = 10_000
    order = samples_at(np.arange(size), size, seed=5)
    assert np.abs(np.diff(order)).mean() / size == pytest.approx(1 / 3, abs=0.02)
    counts = (order.reshape(10, -1) < size // 10).sum(1)
    assert np.abs(counts - 100).max() < 6 * 9.5


def test_known_values():
    """The order of a stored run must never change: values written down once."""
    assert mix(np.array([1, 2], np.uint64)).tolist() == [0x5692161D100B05E5, 0xDBD238973A2B148A]
    assert samples_at(np.arange(12), 10, seed=0).tolist() == [4, 2, 5, 6, 3, 1, 7, 9, 0, 8, 1, 2]
