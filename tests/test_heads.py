"""Classifier and span reader: losses are their closed forms, padding changes nothing, a run gives them back."""

from __future__ import annotations

import json
import math

import pytest
import torch

from configs import UserError
from data.batches import PADDING
from data.chat import ChatFormat
from model.config import ModelConfig
from model.heads import HEADS, Classifier, SpanReader
from model.load import DESCRIPTION, load_run, model_files
from model.storage import checkpoint_folder, write_folder
from tests.small import small_model

SIZES = {"context": 48, "width": 24, "layers": 2, "heads": 3, "hidden": 40}
CLASSES = ("good", "bad", "坏")


def config(**switches) -> ModelConfig:
    return ModelConfig(**(SIZES | {"vocab_size": 61} | switches))


def randomised(model):
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def classifier(multiple=False, **switches) -> Classifier:
    return randomised(Classifier(config(**switches), CLASSES, multiple))


def double(model):
    model.trunk.compute_dtype = torch.float64
    return model.double()


def gradient(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, logits)[0]


# Losses --------------------------------------------------------------------------------------------------------------


def test_cross_entropy_is_its_closed_form():
    """Of a text with class k: log(sum of exp(z)) - z_k; its gradient is softmax(z) - indicator."""
    logits = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    targets = torch.eye(3, dtype=torch.float64)[torch.tensor([0, 1, 2, 2, 0, 1, 0])]
    losses = classifier().losses(logits, targets)
    exponentials = [[math.exp(z) for z in row] for row in logits.tolist()]
    expected = [-math.log(row[k] / sum(row)) for row, k in zip(exponentials, targets.argmax(1).tolist())]
    assert losses.tolist() == pytest.approx(expected, abs=1e-14)
    shares = torch.tensor([[e / sum(row) for e in row] for row in exponentials], dtype=torch.float64)
    torch.testing.assert_close(gradient(losses.sum(), logits), shares - targets, atol=1e-14, rtol=0)


def test_binary_cross_entropy_is_its_closed_form():
    """The mean over classes of -log p or -log(1 - p), p = 1 / (1 + exp(-z)); its gradient is (p - y) / N."""
    logits = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    targets = (torch.rand(7, 3) < 0.5).double()
    targets[0], targets[1] = 0, 1  # no class, and all
    losses = classifier(multiple=True).losses(logits, targets)
    p = torch.tensor([[1 / (1 + math.exp(-z)) for z in row] for row in logits.tolist()], dtype=torch.float64)
    expected = [
        sum(-math.log(q if y else 1 - q) for q, y in zip(*rows)) / 3 for rows in zip(p.tolist(), targets.tolist())
    ]
    assert losses.tolist() == pytest.approx(expected, abs=1e-14)
    torch.testing.assert_close(gradient(losses.sum(), logits), (p - targets) / 3, atol=1e-14, rtol=0)


def test_losses_stay_finite_for_extreme_scores():
    logits = torch.tensor([[1000.0, -1000.0, 0.0]])
    for multiple in (False, True):
        assert classifier(multiple).losses(logits, torch.tensor([[0.0, 1.0, 0.0]])).isfinite().all()


def test_span_scores_are_log_probabilities_over_the_candidates():
    model = double(randomised(SpanReader(config(causal=False))))
    tokens = torch.randint(0, 61, (3, 11))
    candidates = torch.zeros(3, 11, dtype=torch.bool)
    candidates[0, 4:], candidates[1, 2:7], candidates[2, 5] = True, True, True
    raw = model.head(model.trunk(tokens))
    for index, score in enumerate(model(tokens, candidates)):
        assert torch.equal(score.isfinite(), candidates)
        expected = raw[..., index].exp() * candidates
        torch.testing.assert_close(score.exp(), expected / expected.sum(1, keepdim=True), atol=1e-14, rtol=0)
    assert float(model(tokens, candidates)[0][2, 5].detach()) == 0, "the only candidate is certain"


# Padding and pooling -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("position", ["rope", "learned", "alibi"])
def test_padding_does_not_change_what_is_said(causal, position):
    """Neither how much there is nor which tokens it shows; a text says the same alone, in a batch, and unpadded."""
    model, reader = (
        double(each)
        for each in (classifier(causal=causal, position=position),
                     randomised(SpanReader(config(causal=causal, position=position))))
    )  # fmt: skip
    texts = [torch.randint(0, 61, (length,)) for length in (5, 17, 1)]
    for width in (17, 32):
        tokens = torch.randint(0, 61, (3, width))
        documents = torch.full((3, width), PADDING)
        for row, text in enumerate(texts):
            tokens[row, : len(text)], documents[row, : len(text)] = text, 0
        logits, spans = model(tokens, documents), reader(tokens, documents >= 0, documents)
        for row, text in enumerate(texts):
            torch.testing.assert_close(logits[row], model(text[None])[0], atol=1e-12, rtol=0)
            alone = reader(text[None], torch.ones(1, len(text), dtype=torch.bool))
            for one, other in zip(spans, alone):
                torch.testing.assert_close(one[row, : len(text)], other[0], atol=1e-12, rtol=0)
                assert (one[row, len(text) :] == -torch.inf).all()


def test_padding_gets_no_gradient():
    model = classifier(causal=False)
    tokens, documents = torch.tensor([[3, 4, 5, 9, 9]]), torch.tensor([[0, 0, 0, PADDING, PADDING]])
    model(tokens, documents).sum().backward()
    assert model.trunk.embedding.weight.grad[[3, 4, 5]].abs().sum() > 0
    assert model.trunk.embedding.weight.grad[9].abs().max() == 0


def test_scores_are_the_head_of_the_mean():
    model = double(classifier(causal=False))
    tokens = torch.randint(0, 61, (2, 9))
    expected = model.trunk(tokens).mean(1) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(tokens), expected, atol=1e-12, rtol=0)


def test_scores_are_float32_under_bfloat16():
    model = classifier()
    model.trunk.compute_dtype = torch.bfloat16
    assert model(torch.arange(9)[None]).dtype == torch.float32


# Saving and loading --------------------------------------------------------------------------------------------------


def save(folder, model, tokenizer, **changes) -> None:
    files = model_files(model, tokenizer, ChatFormat())
    if changes:
        files[DESCRIPTION] = json.dumps(json.loads(files[DESCRIPTION]) | changes).encode()
    write_folder(checkpoint_folder(folder, 3), files)


@pytest.mark.parametrize("multiple", [False, True])
def test_a_classifier_comes_back_with_its_classes(multiple, tmp_path, small_tokenizer):
    model = classifier(multiple, vocab_size=small_tokenizer.vocab_size, causal=False)
    save(tmp_path, model, small_tokenizer)
    loaded = load_run(tmp_path, heads=["classes"]).model
    assert (loaded.classes, loaded.multiple, loaded.head_name) == (CLASSES, multiple, "classes")
    tokens = torch.arange(12)[None]
    assert torch.equal(loaded(tokens), model(tokens)) and not loaded.training


def test_a_span_reader_comes_back(tmp_path, small_tokenizer):
    model = randomised(SpanReader(config(vocab_size=small_tokenizer.vocab_size)))
    save(tmp_path, model, small_tokenizer)
    tokens, everywhere = torch.arange(12)[None], torch.ones(1, 12, dtype=torch.bool)
    loaded = load_run(tmp_path, heads=HEADS).model
    assert all(torch.equal(one, other) for one, other in zip(loaded(tokens, everywhere), model(tokens, everywhere)))


def test_a_model_of_another_head_is_one_sentence(tmp_path, small_tokenizer):
    """Nobody chats with a classifier, nobody classifies with a language model."""
    save(tmp_path / "a", classifier(vocab_size=small_tokenizer.vocab_size), small_tokenizer)
    with pytest.raises(UserError, match="holds a model with the head 'classes'; use one with 'language' or 'masked'"):
        load_run(tmp_path / "a")
    save(tmp_path / "b", small_model(vocab_size=small_tokenizer.vocab_size), small_tokenizer)
    with pytest.raises(UserError, match="holds a model with the head 'language'; use one with 'classes'"):
        load_run(tmp_path / "b", heads=["classes"])


@pytest.mark.parametrize(
    "changes",
    [{"classes": "good"}, {"classes": []}, {"classes": [1, 2, 3]}, {"multiple": 1}, {"classes": None}],
    ids=str,
)
def test_classes_without_names_are_one_sentence(changes, tmp_path, small_tokenizer):
    save(tmp_path, classifier(vocab_size=small_tokenizer.vocab_size), small_tokenizer, **changes)
    with pytest.raises(UserError, match=r"model.json does not describe a model of this version \(its classes have no"):
        load_run(tmp_path, heads=HEADS)


def test_fewer_names_than_scores_are_one_sentence(tmp_path, small_tokenizer):
    save(tmp_path, classifier(vocab_size=small_tokenizer.vocab_size), small_tokenizer, classes=["a", "b"])
    with pytest.raises(UserError, match=r"holds another architecture: head\.weight"):
        load_run(tmp_path, heads=HEADS)
