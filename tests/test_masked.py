"""Masked accuracy beside its baselines: the same places, the model's own figure, and texts that a baseline can know."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from configs import UserError, load
from data.batches import PADDING, Batch
from data.corruption import MaskedRows, MaskingConfig
from tests.tiny import tiny_overrides
from train.distributed import Ranks
from train.evaluation import evaluate_language
from train.masked import guesses, main
from train.ngram import Neighbours
from train.pretrain import PretrainConfig, build_trainer
from train.run import read_metrics


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    config = load(PretrainConfig, "configs/demo/encoder.toml", [*tiny_overrides(folder), "train.steps=20"])
    trainer = build_trainer(config, Ranks())
    trainer.fit()
    return folder, trainer


def test_three_accuracies_at_the_same_places(encoder, capsys):
    """The model's is the one that its training measured; the count of places is that of the rows."""
    folder, _ = encoder
    main([str(folder / "run")])
    found = json.loads(capsys.readouterr().out)
    last = [record for record in read_metrics(folder / "run") if record["kind"] == "evaluation"][-1]
    assert found.keys() == {"model", "neighbours", "unigram", "places", "command", "steps", "machine"}
    assert found["model"] == pytest.approx(last["masked_accuracy"], abs=1e-9) and found["places"] > 50
    assert all(0 <= found[name] <= 1 for name in ("model", "neighbours", "unigram"))
    main([str(folder / "run"), "--rows", "1"])
    assert json.loads(capsys.readouterr().out)["places"] < found["places"]


def test_baselines_see_the_same_corrupted_neighbours_and_nothing_else(small_tokenizer):
    """A row of two documents and padding, by hand: the neighbours of a place are those of its own document, as shown;
    beyond its ends are the markers that begin and end one; what is shown at the place itself is taken for true."""
    bos, eos, mask, pad = (getattr(small_tokenizer, name) for name in ("bos", "eos", "mask", "pad"))
    a, b, c, d = range(300, 304)
    asked = []

    class Spy:
        unigram = 399

        def predict(self, left, right):
            asked.extend(zip(left.tolist(), right.tolist()))
            return np.arange(500, 500 + len(left))

    tokens = torch.tensor([[bos, mask, mask, c, d, bos, a, mask, pad]])
    weights = torch.tensor([[0, 1, 1, 0, 1, 0, 0, 1, 0]]).float()
    documents = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, PADDING]], dtype=torch.int32)
    places = torch.arange(9)[None]
    batch = Batch(tokens, torch.full_like(tokens, b), weights, documents, places, torch.zeros(1))
    neighbours, unigram = guesses(batch, Spy(), small_tokenizer)
    assert asked == [(bos, mask), (mask, c), (c, eos), (a, eos)]
    assert neighbours.tolist() == [500, 501, d, 503], "the token that is shown is kept"
    assert unigram.tolist() == [399, 399, d, 399]


def test_what_neighbours_decide_is_known_and_guessed_from_frequency_it_is_not(small_tokenizer):
    """A text in which every token follows from the one before: right wherever a neighbour is shown."""
    order = np.arange(280, 410)
    text = np.concatenate([[small_tokenizer.bos], order, [small_tokenizer.eos]])
    is_text = np.asarray(small_tokenizer.byte_lengths) > 0
    baseline = Neighbours(np.tile(text, 3), is_text)

    class OneRow:
        def __len__(self):
            return 40

        def batch(self, samples, positions):
            tokens = torch.from_numpy(np.stack([text[:-1]] * len(samples)))
            places = torch.arange(tokens.shape[1]).expand(tokens.shape)
            none = torch.zeros(tokens.shape)
            return Batch(tokens, tokens, none, none.int(), places, torch.from_numpy(np.asarray(samples)))

    rows = MaskedRows(OneRow(), small_tokenizer, MaskingConfig(random=0.0))
    batch = rows.batch(np.arange(40), np.arange(40))
    targets = batch.targets[batch.weights > 0].numpy()
    neighbours, unigram = guesses(batch, baseline, small_tokenizer)
    assert (neighbours == targets).mean() > 0.95, "wrong only where both neighbours are hidden"
    assert 0.15 < (unigram == targets).mean() < 0.3, "one in five is shown, one in 130 is that token"


def test_the_figure_of_an_evaluation_is_unchanged_by_batches(encoder):
    _, trainer = encoder
    first = trainer.evaluate()
    rows = trainer.rows
    one = evaluate_language(trainer.model, rows, rows.tokenizer, Ranks(), 1, 6)
    many = evaluate_language(trainer.model, rows, rows.tokenizer, Ranks(), 4, 6)
    assert one["masked_accuracy"] == many["masked_accuracy"] and first.keys() == {"loss", "masked_accuracy"}


def test_wrong_input_is_one_sentence(encoder, tmp_path):
    with pytest.raises(UserError, match=r"there is no .*config\.toml; give the folder of a run of train\.pretrain"):
        main([str(tmp_path)])
    config = load(PretrainConfig, "configs/demo/pretrain.toml", [*tiny_overrides(tmp_path), "train.steps=1"])
    build_trainer(config, Ranks()).fit()
    with pytest.raises(UserError, match="has the objective 'causal'; give a run with objective = 'masked'"):
        main([str(tmp_path / "run")])
