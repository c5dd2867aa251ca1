"""Sampling: exact probabilities by hand, draws that follow them, numbers that depend on (seed, place) alone.

The draws are functions of their seeds, so a test gives the same outcome in every run; the stated probabilities say how
often a perfect random source would fail it.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from configs import UserError
from data.order import mix
from model.sampling import GOLDEN, Sampling, choose, filtered_probabilities, uniform

P = torch.tensor([[0.05, 0.4, 0.25, 0.1, 0.2]])  # ids by probability: 1, 2, 4, 3, 0


def kept(sampling: Sampling, probabilities: torch.Tensor = P) -> torch.Tensor:
    return filtered_probabilities(probabilities.log(), sampling)[0]


def close(one, two) -> None:
    torch.testing.assert_close(one, torch.tensor(two, dtype=one.dtype), rtol=1e-5, atol=1e-7)


# Filters by hand -----------------------------------------------------------------------------------------------------


def test_no_filter_is_the_softmax():
    close(kept(Sampling(1.0)), [0.05, 0.4, 0.25, 0.1, 0.2])


def test_top_k():
    close(kept(Sampling(1.0, top_k=2)), [0, 0.4 / 0.65, 0.25 / 0.65, 0, 0])
    close(kept(Sampling(1.0, top_k=9)), [0.05, 0.4, 0.25, 0.1, 0.2])


def test_top_p():
    """The fewest that reach p: 0.4 + 0.25 < 0.7 <= 0.4 + 0.25 + 0.2."""
    close(kept(Sampling(1.0, top_p=0.7)), [0, 0.4 / 0.85, 0.25 / 0.85, 0, 0.2 / 0.85])
    close(kept(Sampling(1.0, top_p=0.3)), [0, 1, 0, 0, 0])
    close(kept(Sampling(1.0, top_p=1e-9)), [0, 1, 0, 0, 0])


def test_min_p():
    """At least 0.3 of the largest, 0.12."""
    close(kept(Sampling(1.0, min_p=0.3)), [0, 0.4 / 0.85, 0.25 / 0.85, 0, 0.2 / 0.85])
    close(kept(Sampling(1.0, min_p=1.0)), [0, 1, 0, 0, 0])


def test_filters_in_their_order():
    """top_k = 3 leaves 0.4, 0.25, 0.2 of 0.85; then 0.47 + 0.29 reach p = 0.75. With all five, three would be kept."""
    close(kept(Sampling(1.0, top_k=3, top_p=0.75)), [0, 0.4 / 0.65, 0.25 / 0.65, 0, 0])
    assert (kept(Sampling(1.0, top_p=0.75)) > 0).sum() == 3


def test_equally_likely_tokens():
    """The lower ids come first, and no more than k are kept."""
    alike = torch.full((1, 6), 1 / 6)
    close(kept(Sampling(1.0, top_k=2), alike), [0.5, 0.5, 0, 0, 0, 0])
    assert choose(alike.log(), Sampling(), *seeds_and_places(1)).item() == 0


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=12),
    st.integers(0, 12),
    st.floats(0.01, 1),
    st.floats(0, 1),
)
def test_filters_keep_the_likeliest(logits, top_k, top_p, min_p):
    """Whatever the filters: a distribution, whose kept tokens are the likeliest ones, in their old proportions."""
    logits = torch.tensor([logits])
    result = filtered_probabilities(logits, Sampling(1.0, top_k, top_p, min_p))[0]
    whole = logits.softmax(-1)[0]
    assert math.isclose(result.sum(), 1, abs_tol=1e-5)
    inside = result > 0
    assert whole[inside].max() == whole.max()  # of equally likely ones the logits decide, before they are rounded
    if not inside.all():
        assert whole[inside].min() >= whole[~inside].max()
    torch.testing.assert_close(result[inside], (whole[inside] / whole[inside].sum()), rtol=1e-4, atol=1e-6)


# Choosing ------------------------------------------------------------------------------------------------------------


def seeds_and_places(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(count), torch.full((count,), 17)


def draws(sampling: Sampling, logits: torch.Tensor, count: int) -> torch.Tensor:
    """How often each token is drawn, over `count` seeds."""
    chosen = choose(logits.expand(count, -1), sampling, *seeds_and_places(count))
    return torch.bincount(chosen, minlength=logits.shape[-1])


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1.0),
        Sampling(0.5),
        Sampling(2.0, top_k=4),
        Sampling(1.0, top_p=0.7),
        Sampling(1.3, min_p=0.3),
        Sampling(0.8, top_k=4, top_p=0.9, min_p=0.1),
    ],
    ids=str,
)
def test_draws_follow_the_exact_probabilities(sampling):
    """Each of 5 counts among 20,000 draws is binomial: 6 standard deviations are passed with probability below 1e-7."""
    expected = filtered_probabilities(P.log() / sampling.temperature, sampling)[0]
    counts, n = draws(sampling, P.log(), 20_000), 20_000
    assert (counts[expected == 0] == 0).all()
    assert ((counts - n * expected).abs() <= 6 * (n * expected * (1 - expected)).sqrt() + 1e-6).all()


def test_temperature_divides_the_logits():
    """At 0.5 probabilities are squared and brought back to one: by hand, within 6 standard deviations."""
    squares = P[0] ** 2 / (P**2).sum()
    counts = draws(Sampling(0.5), P.log(), 20_000)
    assert ((counts / 20_000 - squares).abs() < 6 * (squares * (1 - squares) / 20_000).sqrt()).all()
    assert draws(Sampling(0.0), P.log(), 50).tolist() == [0, 50, 0, 0, 0]


def test_repetition_penalty():
    """Logits of seen tokens: positive ones are divided, negative ones multiplied."""
    logits = torch.tensor([[2.0, 1.9, -1.0]])
    seen = torch.tensor([[True, False, True]])
    greedy = Sampling(repetition_penalty=1.5)
    assert choose(logits, greedy, *seeds_and_places(1), seen).item() == 1
    assert choose(logits, greedy, *seeds_and_places(1), ~seen).item() == 0
    n = 20_000
    sampled = Sampling(1.0, repetition_penalty=1.5)
    counts = torch.bincount(choose(logits.expand(n, 3), sampled, *seeds_and_places(n), seen.expand(n, 3)))
    expected = torch.tensor([2 / 1.5, 1.9, -1.5]).softmax(0)
    assert ((counts - n * expected).abs() < 6 * (n * expected * (1 - expected)).sqrt()).all()


def test_what_is_banned_is_never_chosen():
    """Minus infinity: not by sampling, not by the greedy choice, not through the penalty."""
    logits = P.log().clone()
    logits[0, 1] = logits[0, 4] = -math.inf
    assert draws(Sampling(1.0), logits, 20_000)[[1, 4]].tolist() == [0, 0]
    assert draws(Sampling(0.0), logits, 5).tolist() == [0, 0, 5, 0, 0]
    seen = torch.ones(1, 5, dtype=torch.bool)
    assert choose(logits, Sampling(0.0, repetition_penalty=3.0), *seeds_and_places(1), seen).item() in (0, 2, 3)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("broken", [[math.nan, 1, 2], [math.inf, 1, 2], [-math.inf] * 3], ids=str)
def test_logits_that_are_no_numbers_are_one_sentence(broken, temperature):
    logits = torch.tensor([[0.0, 1.0, 2.0], broken])
    with pytest.raises(UserError, match=r"the model gives no numbers for the next token .* use another checkpoint"):
        choose(logits, Sampling(temperature), *seeds_and_places(2))


# Random numbers ------------------------------------------------------------------------------------------------------


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**40))
def test_numbers_are_those_of_splitmix64(seed, place):
    """The same arithmetic as in data.order, on unsigned numbers."""
    golden = np.array([GOLDEN % 2**64], np.uint64)
    state = mix(np.array([seed % 2**64], np.uint64) + golden)
    expected = mix(state + np.array([place], np.uint64) * golden + golden)[0] >> np.uint64(12)
    number = uniform(torch.tensor([seed]), torch.tensor([place])).item()
    assert number == int(expected) / 2**52
    assert 0 <= number < 1


@pytest.mark.parametrize("vary", ["seed", "place"])
def test_numbers_are_uniform_and_independent(vary):
    """100,000 of them, for consecutive seeds and for consecutive places.

    A hundred bins by chi-squared (99 degrees of freedom; more than 220 with probability below 1e-10), and correlation
    with the next one (normal with deviation 0.0032; beyond 6 of them with probability below 1e-8).
    """
    running, fixed = torch.arange(100_000), torch.full((100_000,), 5)
    numbers = uniform(running, fixed) if vary == "seed" else uniform(fixed, running)
    counts = torch.histc(numbers, bins=100, min=0, max=1)
    assert ((counts - 1000) ** 2 / 1000).sum() < 220
    assert torch.corrcoef(torch.stack([numbers[:-1], numbers[1:]]))[0, 1].abs() < 6 * 100_000**-0.5
    assert len(numbers.unique()) == 100_000


@pytest.mark.parametrize(("number", "chosen"), [(0.0, 1), (1 - 2.0**-52, 7)], ids=["smallest", "largest"])
def test_extreme_numbers_choose_possible_tokens(monkeypatch, number, chosen):
    """0 does not hit an impossible first token, nor does the largest number an impossible last one."""
    monkeypatch.setattr("model.sampling.uniform", lambda *_: torch.tensor([number], dtype=torch.float64))
    impossible = torch.tensor([-math.inf])
    for probabilities in torch.rand(200, 7).softmax(-1):
        logits = torch.cat([impossible, probabilities.log(), impossible])[None]
        assert choose(logits, Sampling(1.0), *seeds_and_places(1)).item() == chosen


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": 2.0},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": math.nan},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Sampling(**wrong)
