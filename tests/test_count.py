"""Counts: against numbers known from papers, against counts by hand, and against the built model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from configs import load
from model import LanguageModel, ModelConfig
from model.cache import KeyValueCache
from model.count import (
    cache_bytes,
    count_parameters,
    describe,
    forward_flops,
    training_bytes,
    training_flops,
    visible_pairs,
)
from tests.small import small_model
from train.pretrain import PretrainConfig

ROOT = Path(__file__).parent.parent
GPT2 = ModelConfig(
    50257, 1024, 768, 12, 12, norm="layer", activation="gelu", position="learned", head_norm=False, bias=True
)


def test_gpt2_small_has_124439808_parameters():
    """The published number, and its parts by hand."""
    parts = count_parameters(GPT2)
    C = 768
    assert parts.total == 124_439_808
    assert parts.embedding == 50257 * C and parts.position == 1024 * C and parts.head == 0
    assert parts.attention == 12 * (C * 3 * C + 3 * C + C * C + C)
    assert parts.feed_forward == 12 * (C * 4 * C + 4 * C + 4 * C * C + C)
    assert parts.norms == 12 * 2 * 2 * C + 2 * C
    config = load(PretrainConfig, ROOT / "configs/gpt2-124m.toml")
    assert count_parameters(replace(config.model, vocab_size=config.data.tokenizer.vocab_size)) == parts


def test_bert_base_has_about_110_million_parameters():
    """Without the second segment embedding and the pooler, which this trunk does not have; by hand."""
    C, V, F = 768, 30522, 3072
    bert = ModelConfig(
        V, 512, C, 12, 12, causal=False, norm="layer", norm_place="post", activation="gelu", position="learned",
        head_norm=False, bias=True,
    )  # fmt: skip
    embeddings = V * C + 512 * C + 2 * C
    layer = 4 * (C * C + C) + 2 * (2 * C) + (C * F + F) + (F * C + C)
    head = C * C + C + 2 * C
    assert count_parameters(bert, "masked").total == embeddings + 12 * layer + head
    assert embeddings + 12 * layer + 2 * C + C * C + C == 109_482_240  # the published trunk, with segments and pooler


def configurations():
    return st.builds(
        lambda heads, group, **switches: ModelConfig(heads=heads * group, kv_heads=heads, **switches),
        heads=st.integers(1, 3),
        group=st.integers(1, 3),
        vocab_size=st.integers(1, 50),
        context=st.integers(1, 20),
        width=st.integers(1, 20),
        head_width=st.sampled_from([2, 4, 6]),
        hidden=st.none() | st.integers(1, 30),
        layers=st.integers(1, 3),
        causal=st.booleans(),
        norm=st.sampled_from(["rms", "layer"]),
        norm_place=st.sampled_from(["pre", "post"]),
        activation=st.sampled_from(["gelu", "swiglu", "relu2"]),
        position=st.sampled_from(["rope", "learned", "alibi", "none"]),
        head_norm=st.booleans(),
        bias=st.booleans(),
        tie=st.booleans(),
    )


@given(configurations(), st.sampled_from(["language", "masked"]))
def test_parameters_are_those_of_the_built_model(config, head):
    with torch.device("meta"):
        model = LanguageModel(config, head)
    parts = {"embedding": 0, "position": 0, "attention": 0, "feed_forward": 0, "norms": 0, "head": 0}
    for name, parameter in model.named_parameters():
        if name.startswith("head."):
            part = "head"
        elif "norm" in name:
            part = "norms"
        else:
            part = next(p for p in parts if f"{p}." in name)
        parts[part] += parameter.numel()
    assert vars(count_parameters(config, head)) == parts


@given(st.integers(1, 40), st.booleans(), st.integers(0, 45))
def test_visible_pairs_are_those_of_the_mask(T, causal, window):
    mask = small_model(causal=causal, windows=(window,), layers=1).trunk.mask(0)
    assert visible_pairs(T, causal, window) == mask.dense(1, T, T).sum()


def test_operations_by_hand():
    """One layer with 2 query heads and 1 key head of width 4, a window of 3 over 5 tokens, and swiglu."""
    config = ModelConfig(
        11, width=6, layers=1, heads=2, kv_heads=1, head_width=4, hidden=7, activation="swiglu", windows=(3,)
    )
    matrices = 6 * 8 + 2 * (6 * 4) + 8 * 6 + 3 * (6 * 7) + 11 * 6
    pairs = 1 + 2 + 3 + 3 + 3
    products = 2 * 2 * 4 * pairs  # for each pair and head: one product for the score, one for the value
    assert forward_flops(config, 5) == 2 * matrices + 2 * products / 5
    assert training_flops(config, 5) == 3 * forward_flops(config, 5)


@pytest.mark.parametrize("head", ["language", "masked"])
def test_operations_are_those_that_run(head):
    """PyTorch's own counter sees the products of the linear layers: what `forward_flops` says but for attention."""
    model, T = small_model(head, bias=True, activation="swiglu", position="none", kv_heads=1), 8
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.zeros(3, T, dtype=torch.int64))
    counted = counter.get_flop_counts()["Global"]
    linear = sum(n for operator, n in counted.items() if str(operator) in ("aten.mm", "aten.addmm"))
    attention = model.config.layers * 4 * 24 * visible_pairs(T, True, 0) / T
    assert linear / (3 * T) == forward_flops(model.config, T, head) - attention


def test_six_n_rule():
    """Training costs about 6 operations a parameter and token (Kaplan et al. 2020), attention apart."""
    assert training_flops(GPT2, 1) / 6 == pytest.approx(count_parameters(GPT2).total - 1024 * 768, rel=0.002)


def test_memory():
    """Four numbers of 4 bytes a parameter; the cache is as large as the one that is built."""
    assert sum(training_bytes(GPT2).values()) == 16 * 124_439_808
    config = small_model(heads=4, kv_heads=2).config
    cache = KeyValueCache(config, rows=1, capacity=7, dtype=torch.bfloat16)
    assert cache_bytes(config, 7) == cache.keys.nbytes + cache.values.nbytes


def test_description_names_the_numbers():
    text = describe(GPT2, 1024)
    assert "124,439,808" in text and "MFLOP" in text and f"{16 * 124_439_808 / 2**20:,.1f} MiB" in text
