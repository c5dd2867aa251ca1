"""The cache: whatever is fed in whichever portions, the logits are those of one full forward pass."""

import pytest
import torch

from configs import UserError
from model.cache import KeyValueCache
from tests.small import small_model
from tests.test_model import every_architecture, random_tokens

LENGTHS = torch.tensor([5, 1, 9])  # of three prompts


def new_cache(model, rows: int = 3, capacity: int = 40) -> KeyValueCache:
    return KeyValueCache(model.config, rows, capacity, model.trunk.compute_dtype)


@every_architecture
@pytest.mark.parametrize("portions", [(13,), (1,) * 13, (5, 1, 1, 4, 2), (2, 11)], ids=str)
def test_cached_equals_full(switches, portions):
    """Token by token, in portions, at once; windows are narrower than the cache. In float64, to rounding."""
    model, tokens = small_model(dtype=torch.float64, **switches), random_tokens(3)
    cache, logits = new_cache(model), []
    for portion in tokens.split(portions, dim=1):
        logits.append(model(portion, cache=cache))
        assert cache.lengths.tolist() == [sum(map(lambda x: x.shape[1], logits))] * 3
    torch.testing.assert_close(torch.cat(logits, 1), model(tokens), rtol=1e-9, atol=1e-9)


@every_architecture
def test_rows_of_unequal_length_equal_each_row_alone(switches):
    """Prompts padded on the right, cut to their lengths, continued from unequal places: each row as if alone."""
    model, tokens = small_model(dtype=torch.float64, **switches), random_tokens(3, 9 + 6)
    cache = new_cache(model)
    prompts, continuation = tokens[:, :9], tokens[:, 9:]
    prefill = model(prompts, cache=cache)
    cache.truncate(LENGTHS)
    steps = torch.cat([model(portion, cache=cache) for portion in continuation.split((1, 1, 3, 1), dim=1)], 1)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = model(torch.cat([prompts[row, :length], continuation[row]])[None])[0]
        torch.testing.assert_close(prefill[row, :length], alone[:length], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(steps[row], alone[length:], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@every_architecture
def test_low_precision_is_close(switches, dtype):
    """The same in the precisions that are used: to a few units of their rounding."""
    model, tokens = small_model(dtype=dtype, **switches), random_tokens(3)
    cache = new_cache(model)
    logits = torch.cat([model(portion, cache=cache) for portion in tokens.split((6, 1, 1, 5), dim=1)], 1)
    assert cache.keys.dtype == dtype
    full = model(tokens)
    assert (logits - full).norm() < 16 * torch.finfo(dtype).eps * full.norm()


@every_architecture
def test_rows_can_be_selected(switches):
    """Leaving rows out, or changing their order, changes nothing for those that stay."""
    model, tokens = small_model(dtype=torch.float64, **switches), random_tokens(3, 9 + 4)
    cache = new_cache(model)
    model(tokens[:, :9], cache=cache)
    cache.truncate(LENGTHS)
    chosen = torch.tensor([1, 0])
    cache.select(chosen)
    assert cache.lengths.tolist() == [1, 5] and cache.longest == 5
    after = model(tokens[chosen, 9:], cache=cache)
    for place, row in enumerate(chosen.tolist()):
        alone = model(torch.cat([tokens[row, : LENGTHS[row]], tokens[row, 9:]])[None])[0]
        torch.testing.assert_close(after[place], alone[LENGTHS[row] :], rtol=1e-9, atol=1e-9)


def test_what_was_forgotten_has_no_influence():
    """After `truncate`, whatever the padding wrote: the same bits."""
    model = small_model()
    results = []
    for seed in (1, 2):
        cache, tokens = new_cache(model), random_tokens(3, 9)
        padding = torch.arange(9) >= LENGTHS[:, None]
        model(torch.where(padding, random_tokens(3, 9, seed), tokens), cache=cache)
        cache.truncate(LENGTHS)
        results.append(model(random_tokens(3, 4), cache=cache))
    assert torch.equal(*results)


def test_too_much_is_refused_before_anything_is_written():
    model = small_model()
    cache = new_cache(model, capacity=10)
    model(random_tokens(3, 9), cache=cache)
    with pytest.raises(ValueError, match="the cache holds 10 tokens, 11 are needed"):
        model(random_tokens(3, 2), cache=cache)
    model(random_tokens(3, 1), cache=cache)
    assert cache.lengths.tolist() == [10, 10, 10]


def test_learned_positions_end():
    """With a cache the limit counts what is in it."""
    model = small_model(position="learned", context=10)
    cache = new_cache(model)
    model(random_tokens(3, 9), cache=cache)
    with pytest.raises(UserError, match="11 tokens exceed the 10 learned positions"):
        model(random_tokens(3, 2), cache=cache)


def test_size():
    """Only the key heads are kept, for as many tokens as were asked for."""
    cache = KeyValueCache(small_model(heads=4, kv_heads=2, layers=3).config, rows=5, capacity=7, dtype=torch.bfloat16)
    assert cache.keys.shape == cache.values.shape == (3, 5, 2, 7, 6)
    assert cache.keys.dtype == torch.bfloat16 and cache.lengths.tolist() == [0] * 5
