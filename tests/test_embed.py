"""Training an embedder end to end at tiny size: rows, mining, learning, ranks, wrong input."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from configs import ConfigError, UserError, load
from data.batches import PADDING
from model.embedder import text_ids
from model.load import load_run
from tests.ranks import on_ranks
from tests.small import require_only_adapters_learnt
from train.contrastive import NOTHING
from train.distributed import Ranks
from train.embed import BehaviourRows, EmbedConfig, build_trainer, held_out_figures, mine
from train.run import read_metrics

WORDS = {"sort": ("order", "arrange", "排序"), "sum": ("total", "add", "总和"), "copy": ("repeat", "echo", "重复")}
FILLER = ("the", "numbers", "now", "please", "these", "数")


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Forty behaviours of two words each; what is said around them says nothing."""
    draw, rows = random.Random(0), []
    words = [f"{a}{b}" for a in ("ka", "to", "mi", "ren") for b in ("sol", "ve", "指", "令")]
    for number in range(40):
        chosen = draw.sample(words, 2)
        texts = []
        for _ in range(6):
            said = chosen + draw.choices(FILLER, k=draw.randint(0, 4))
            draw.shuffle(said)
            texts.append(" ".join(said))
        rows += [{"a": texts[0], "b": text, "behaviour": number} for text in texts[1:]]
    return write(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", rows)


def overrides(path, folder, *more) -> list[str]:
    return [
        f"run={folder}", f"data.paths=['{path}']", "tokenizer.vocab_size=330", "dimensions=16", "loss.sizes=[8]",
        "model.context=64", "model.width=32", "model.layers=1", "model.heads=2", "model.causal=false",
        "train.steps=40", "train.batch_size=8", "train.precision=float32", "train.compile=off", "train.threads=1",
        "train.log_every=1", "train.evaluate_every=20", "optimizer.lr=0.01", "schedule.warmup=2", *more,
    ]  # fmt: skip


def trainer(path, folder, *more, ranks: Ranks | None = None):
    return build_trainer(load(EmbedConfig, None, overrides(path, folder, *more)), ranks or Ranks())


# Rows ----------------------------------------------------------------------------------------------------------------


def rows_of(**more) -> BehaviourRows:
    """Behaviour 0 has five texts, 1 has three, 2 has one; text i is i + 1 times the token i + 10."""
    ids = [[i + 10] * (i + 1) for i in range(9)]
    return BehaviourRows(ids, [0, 0, 0, 0, 0, 1, 1, 1, 2], 4, 0, **more)


def test_a_row_holds_different_texts_of_one_behaviour():
    rows = rows_of()
    assert len(rows) == 3
    batch = rows.batch(np.array([0, 1, 2]), np.array([7, 8, 9]))
    assert batch.tokens.shape == (3, 4, 16) and batch.targets.tolist()[0] == [0] * 4
    for row, (number, texts) in enumerate(((0, range(5)), (1, range(5, 8)), (2, [8]))):
        real = batch.targets[row] == number
        said = [batch.tokens[row, i, 0].item() - 10 for i in range(4) if real[i]]
        assert len(said) == len(set(said)) == min(4, len(texts)) and set(said) <= set(texts)
        lengths = (batch.documents[row] != PADDING).sum(1)
        assert lengths[real].tolist() == [text + 1 for text in said]
        assert (batch.targets[row][~real] == NOTHING).all() and (lengths[~real] == 0).all()


def test_the_same_place_gives_the_same_row_and_another_place_another():
    rows, samples = rows_of(seed=3), np.array([0, 0])
    first, second = (rows.batch(samples, np.array([5, 6])).tokens for _ in range(2))
    assert torch.equal(first, second)
    drawn = {tuple(rows.batch(samples[:1], np.array([i])).tokens[0, :, 0].tolist()) for i in range(30)}
    assert len(drawn) > 10


def test_hard_negatives_are_texts_of_the_neighbours():
    rows = rows_of(neighbours=torch.tensor([[1, 2], [0, 2], [1, 0]]), hard=1)
    batch = rows.batch(np.zeros(40, int), np.arange(40))
    assert batch.targets.shape == (40, 5)
    last = batch.targets[:, 4].tolist()
    assert set(last) == {1, 2}
    for target, token in zip(last, batch.tokens[:, 4, 0].tolist()):
        assert token - 10 in rows.groups[target]


def test_mining_finds_the_most_similar_other_behaviours():
    vectors = F.normalize(torch.tensor([[1, 0.0], [1, 0.1], [0.9, 0.3], [0, 1], [-1, 0]]), dim=1)
    found = mine(vectors, [0, 0, 1, 2, 3], 2)
    assert found.tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]
    assert mine(vectors, [0, 0, 1, 1, 1]).tolist() == [[1], [0]], "no more than there are"


# Learning ------------------------------------------------------------------------------------------------------------


def test_held_out_figures_by_hand():
    queries, pool = torch.eye(2), torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8]])
    found = held_out_figures(queries, pool, np.array([[True, False, False], [False, False, True]]), 1.0)
    shares = [np.exp(1) / np.exp([1, 0, 0.6]).sum(), np.exp(0.8) / np.exp([0, 1, 0.8]).sum()]
    assert found["loss"] == pytest.approx(-np.log(shares).mean())
    assert found["recall_at_1"] == 0.5 and found["mrr"] == 0.75


@pytest.fixture(scope="module")
def trained(pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    trainer(pairs, folder).fit()
    return folder


def test_behaviours_that_were_never_seen_are_told_apart(trained):
    """They consist of words that were seen, among words that say nothing."""
    records = read_metrics(trained)
    train = [record["loss"] for record in records if record["kind"] == "train"]
    evaluations = [record for record in records if record["kind"] == "evaluation"]
    assert train[-1] < 0.5 * train[0]
    assert evaluations[-1]["recall_at_1"] >= 0.8


def test_the_run_is_loaded_with_its_temperature(trained):
    loaded = load_run(trained, heads=["vectors"])
    assert loaded.model.size == 16 and loaded.model.scale.item() != pytest.approx(20, abs=1e-3)


def test_a_fixed_temperature_stays(pairs, tmp_path):
    made = trainer(pairs, tmp_path / "run", "loss.learnable=false", "train.steps=2")
    made.fit()
    assert made.model.scale.item() == pytest.approx(20, rel=1e-5)


def test_chunks_change_memory_but_not_the_steps(pairs, tmp_path):
    plain, chunked = (trainer(pairs, tmp_path / str(chunk), f"loss.chunk={chunk}") for chunk in (0, 5))
    for _ in range(3):
        assert plain.step()["loss"] == pytest.approx(chunked.step()["loss"], rel=1e-4)


def test_hard_negatives_of_a_trained_run(trained, pairs, tmp_path):
    made = trainer(pairs, tmp_path / "run", f"data.miner={trained}", "data.hard=2")
    batch = made.rows.batch(np.array([0]), np.array([0]))
    assert batch.targets.shape == (1, 6) and (batch.targets[0, 4:] != batch.targets[0, 0]).all()
    assert made.step()["loss"] > 0


def test_a_decoder_is_tuned_and_continued(trained, pairs, tmp_path):
    """A causal trunk learns too; a run starts from the trunk of another."""
    first = trainer(pairs, tmp_path / "causal", "model.causal=true", "train.steps=20")
    losses = [first.step()["loss"] for _ in range(20)]
    assert losses[-1] < losses[0]
    settings = [each for each in overrides(pairs, tmp_path / "next") if not each.startswith(("model", "tokenizer"))]
    second = build_trainer(load(EmbedConfig, None, [*settings, f"init={trained}"]), Ranks())
    weights, before = second.model.trunk.state_dict(), load_run(trained, heads=["vectors"]).model.trunk.state_dict()
    assert all(torch.equal(weights[name], before[name]) for name in before)
    more = [f"init={trained}", f"run={tmp_path / 'adapters'}", "lora.rank=4"]
    adapters = build_trainer(load(EmbedConfig, None, [*settings, *more]), Ranks())
    adapters.step()
    require_only_adapters_learnt(adapters.model, load_run(trained, heads=["vectors"]).model)


def train_on(ranks: Ranks, path: str, folder: str, parallel: str):
    made = trainer(path, folder, "train.steps=3", f"train.parallel={parallel}", "loss.chunk=7", ranks=ranks)
    losses = [made.step()["loss"] for _ in range(3)]
    return losses, made.evaluate() if parallel == "ddp" else None


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_take_the_steps_of_one(pairs, tmp_path, parallel):
    one = train_on(Ranks(), str(pairs), str(tmp_path / "one"), parallel)
    two = on_ranks(2, train_on, str(pairs), str(tmp_path / "two"), parallel)
    for losses, figures in two:
        assert losses == pytest.approx(one[0], rel=1e-3)
        assert figures is None or figures == pytest.approx(one[1], rel=1e-3)


# Wrong input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.micro_batch=2", "train.micro_batch would cut the negatives of a batch"),
        ("loss.temperature=0", "temperature must be positive"),
        ("loss.chunk=-1", "chunk must not be negative"),
        ("loss.sizes=[0]", "sizes must be positive"),
        ("loss.sizes=[300]", "loss.sizes must not be above the 128 dimensions"),
        ("dimensions=-1", "dimensions must not be negative"),
        ("data.views=1", "views must be at least 2"),
        ("data.inputs=2", "inputs must lie between 0 and 1"),
        ("data.pool=0", "pool must be positive"),
    ],
)
def test_wrong_settings_are_named(setting, message):
    with pytest.raises(ConfigError, match=message):
        load(EmbedConfig, None, [setting])


def test_too_few_pairs_are_one_sentence_and_leave_nothing(tmp_path):
    path = write(tmp_path / "p.jsonl", [{"a": "x", "b": "y"}])
    with pytest.raises(UserError, match="two behaviours are needed"):
        trainer(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_texts_are_read_as_in_training(trained):
    loaded = load_run(trained, heads=["vectors"])
    assert text_ids(["a b"], loaded.tokenizer, 64)[0][0] == loaded.tokenizer.bos
