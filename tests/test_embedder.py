"""The embedder: what a vector depends on, its prefixes, and that it travels in a checkpoint."""

from __future__ import annotations

import json
import math

import pytest
import torch

from configs import UserError
from data.chat import ChatFormat
from model.config import ModelConfig
from model.embedder import LARGEST_SCALE, Embedder, embed, pad_rows, prefix, text_ids
from model.load import DESCRIPTION, load_run, model_files
from model.storage import write_folder

TEXTS = [[5, 7, 9], [4], [8, 3, 3, 6, 12, 40, 2]]


def embedder(dimensions=10, causal=False, **switches) -> Embedder:
    config = ModelConfig(**({"vocab_size": 61, "context": 48, "width": 24, "layers": 2, "heads": 3} | switches))
    model = Embedder(ModelConfig(**{**vars(config), "causal": causal}), dimensions)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5
    return model.eval()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dimensions", [0, 10])
def test_vectors_are_of_length_one_and_of_the_size_asked_for(causal, dimensions):
    model = embedder(dimensions, causal)
    vectors = model(*pad_rows(TEXTS, 0))
    assert vectors.shape == (3, dimensions or 24) == (3, model.size)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("causal", [False, True])
def test_padding_does_not_change_a_vector(causal):
    """Neither what stands beside a text nor what fills its row."""
    model = embedder(causal=causal).double()
    model.trunk.compute_dtype = torch.float64
    alone = torch.cat([model(torch.tensor([each])) for each in TEXTS])
    for pad in (0, 17):
        assert torch.allclose(model(*pad_rows(TEXTS, pad)), alone, atol=1e-12)
    assert (alone[0] - alone[1]).abs().max() > 0.01


def test_the_mean_is_over_real_tokens():
    model = embedder(0).double()
    model.trunk.compute_dtype = torch.float64
    for text in TEXTS:
        mean = model.trunk(torch.tensor([text]))[0].mean(0)
        assert torch.allclose(model(*pad_rows([text, [1] * 9], 0))[0], mean / mean.norm(), atol=1e-12)


def test_a_prefix_is_the_first_dimensions_made_a_unit_vector():
    vectors = torch.tensor([[3.0, 4.0, 12.0]]) / 13
    assert torch.allclose(prefix(vectors, 2), torch.tensor([[0.6, 0.8]]))
    assert torch.allclose(prefix(vectors, 3), vectors)


def test_embedding_a_collection_keeps_its_order():
    model = embedder()
    texts = [[3 + i % 50] * (1 + i * 7 % 11) for i in range(23)]
    found = embed(model.train(), texts, 0, batch_rows=4)
    assert not model.training
    assert torch.allclose(found, model(*pad_rows(texts, 0)), atol=1e-5)


def test_texts_begin_with_bos_and_are_cut(small_tokenizer):
    ids = text_ids(["ka to", "mi " * 50], small_tokenizer, 12)
    assert ids[0] == [small_tokenizer.bos, *small_tokenizer.encode("ka to")]
    assert len(ids[1]) == 12


def test_the_scale_is_one_over_the_temperature_and_bounded():
    assert Embedder(ModelConfig(vocab_size=20), 4, 0.05).scale.item() == pytest.approx(20)
    assert Embedder(ModelConfig(vocab_size=20), 4, 1e-9).scale.item() == LARGEST_SCALE
    fixed = Embedder(ModelConfig(vocab_size=20), 4, 0.1, learnable=False)
    assert not fixed.log_scale.requires_grad and fixed.log_scale.item() == pytest.approx(math.log(10))


@pytest.mark.parametrize("dimensions", [0, 10])
def test_an_embedder_travels_in_a_checkpoint(dimensions, small_tokenizer, tmp_path):
    model = embedder(dimensions, vocab_size=small_tokenizer.vocab_size)
    write_folder(tmp_path / "one", model_files(model, small_tokenizer, ChatFormat()))
    loaded = load_run(tmp_path / "one", heads=["vectors"])
    rows = pad_rows(TEXTS, 0)
    assert torch.equal(loaded.model(*rows), model(*rows)) and loaded.model.size == model.size
    with pytest.raises(UserError, match="holds a model with the head 'vectors'"):
        load_run(tmp_path / "one")


@pytest.mark.parametrize("wrong", [-1, "10", True, None])
def test_a_description_without_a_size_is_refused(wrong, small_tokenizer, tmp_path):
    files = model_files(embedder(10, vocab_size=small_tokenizer.vocab_size), small_tokenizer, ChatFormat())
    files[DESCRIPTION] = json.dumps(json.loads(files[DESCRIPTION]) | {"dimensions": wrong}).encode()
    write_folder(tmp_path / "one", files)
    with pytest.raises(UserError, match="does not describe a model of this version"):
        load_run(tmp_path / "one", heads=["vectors"])
