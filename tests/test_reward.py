"""The reward model: its losses are their closed forms, it learns, it says how far it can be believed."""

from __future__ import annotations

import json
import math
import random

import pytest
import torch

from configs import UserError, load
from data.batches import PADDING
from data.chat import ChatFormat, Conversation, Message
from data.preferences import Labelled, Preference, read_preferences, write_labelled, write_preferences
from model.config import ModelConfig
from model.heads import Scorer
from model.load import LoadedModel, load_run, model_files
from model.reward import rewards
from model.storage import checkpoint_folder, newest_intact, write_folder
from tests.ranks import on_ranks
from tests.small import require_only_adapters_learnt, small_model
from train.distributed import Ranks
from train.preference_data import divided
from train.reward import (
    RewardConfig,
    RewardObjective,
    build_trainer,
    calibration_error,
    pair_rewards_loss,
    rated_rows,
    reliability,
    report_of,
    reward_table,
    score_loss,
)
from train.run import read_metrics

WORDS = ("ka", "to", "mi", "ren", "ve")


def asked(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


@pytest.fixture(scope="module")
def base(tmp_path_factory, small_tokenizer):
    """An untrained model."""
    folder = tmp_path_factory.mktemp("base") / "run"
    model = small_model(vocab_size=small_tokenizer.vocab_size, context=48)
    write_folder(checkpoint_folder(folder, 1), model_files(model, small_tokenizer, ChatFormat()))
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Answers with the word "sol" are liked better than those without; some raters are sure."""
    draw, found = random.Random(0), []
    for number in range(150):
        words = draw.choices(WORDS, k=draw.randint(1, 4))
        liked = [*words, "sol"]
        draw.shuffle(liked)
        margin = draw.choice([None, 0.5])
        found.append(Preference(asked(f"mi {number}"), " ".join(liked), " ".join(draw.choices(WORDS, k=3)), margin))
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    write_preferences(path, found)
    return path


def trainer(base, path, folder, *overrides, ranks=None):
    config = load(
        RewardConfig,
        "configs/demo/reward.toml",
        [
            f"run={folder}", f"init={base}", f"data.paths=['{path}']", "data.validation=0.3", "epochs=0",
            "train.steps=60", "train.batch_size=8", "train.precision=float32", "train.compile=off", "train.threads=1",
            "train.log_every=1", "train.evaluate_every=0", "train.save_every=2", "schedule.warmup=2",
            "optimizer.lr=0.003", *overrides,
        ],
    )  # fmt: skip
    return build_trainer(config, ranks or Ranks())


# The head ------------------------------------------------------------------------------------------------------------


def scorer(**switches) -> Scorer:
    config = ModelConfig(**({"vocab_size": 61, "context": 48, "width": 24, "layers": 2, "heads": 3} | switches))
    model, generator = Scorer(config), torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    model.trunk.compute_dtype = torch.float64
    return model.double().eval()


@pytest.mark.parametrize("causal", [True, False])
def test_the_score_is_read_at_the_last_token_whatever_stands_behind(causal):
    model, ids = scorer(causal=causal), torch.randint(0, 61, (1, 9))
    expected = model.head(model.trunk(ids)[:, -1])[:, 0]
    documents = torch.tensor([[0] * 9 + [PADDING] * 4, [0] * 13])
    tokens = torch.cat([torch.cat([ids, torch.randint(0, 61, (1, 4))], 1), torch.randint(0, 61, (1, 13))])
    found = model(tokens, documents)
    assert found.shape == (2,) and found.dtype == torch.float64
    torch.testing.assert_close(found[:1], expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model(ids), expected, rtol=1e-12, atol=1e-12)
    tokens[0, 8] = (tokens[0, 8] + 1) % 61
    assert not torch.allclose(model(tokens, documents)[0], found[0])


def test_rows_without_any_token_are_finite_and_disturb_nobody():
    model, tokens = scorer(), torch.randint(0, 61, (2, 7))
    documents = torch.tensor([[0] * 7, [PADDING] * 7], dtype=torch.int32)
    found = model(tokens, documents)
    assert found.isfinite().all()
    torch.testing.assert_close(found[:1], model(tokens[:1]), rtol=1e-12, atol=1e-12)


# Losses and figures --------------------------------------------------------------------------------------------------


def test_the_loss_of_pairs_is_its_closed_form():
    given = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    margins = torch.rand(7, dtype=torch.float64)
    expected = [
        -math.log(1 / (1 + math.exp(-(c - j - m)))) + 0.3 * (c + j) ** 2
        for (c, j), m in zip(given.tolist(), margins.tolist())
    ]
    assert pair_rewards_loss(given, margins, 0.3).tolist() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: pair_rewards_loss(x, margins, 0.3), given)
    equal = torch.zeros(1, 2, dtype=torch.float64)
    assert float(pair_rewards_loss(equal, torch.zeros(1), 0.3)) == pytest.approx(math.log(2))


def test_the_loss_of_scores_is_the_square():
    assert score_loss(torch.tensor([[1.0], [-2.0]]), torch.tensor([0.5, 1.0])).tolist() == [0.25, 9.0]


def test_reliability_by_hand():
    """Confidences 0.9, 0.9, 0.9 (one wrong) and 0.5 (a tie): bins at the top but one and at the bottom."""
    nine = math.log(9) + 1e-9
    table = reliability(torch.tensor([nine, nine, -nine, 0.0], dtype=torch.float64))
    assert [row["pairs"] for row in table] == [1, 3]
    assert (
        table[0]["right"] == 0.5 and table[0]["confidence"] == 0.5 and (table[0]["from"], table[0]["to"]) == (0.5, 0.55)
    )
    assert table[1]["right"] == pytest.approx(2 / 3) and table[1]["confidence"] == pytest.approx(0.9)
    assert calibration_error(table) == pytest.approx(3 / 4 * (0.9 - 2 / 3))


def test_probabilities_that_are_true_have_no_calibration_error():
    generator = torch.Generator().manual_seed(0)
    p = 0.5 + 0.5 * torch.rand(20_000, generator=generator, dtype=torch.float64)
    sign = torch.where(torch.rand(20_000, generator=generator, dtype=torch.float64) < p, 1, -1)
    difference = sign * torch.logit(p)
    assert calibration_error(reliability(difference)) < 0.015 < 0.1 < calibration_error(reliability(5 * difference))


# Runs ----------------------------------------------------------------------------------------------------------------


def test_it_learns_what_is_liked_and_reports_it(base, pairs, small_tokenizer, tmp_path):
    run = trainer(base, pairs, tmp_path / "run")
    before = run.evaluate()
    run.fit()
    [after] = [record for record in read_metrics(tmp_path / "run") if record["kind"] == "evaluation"]
    assert after["accuracy"] > 0.9 > before["accuracy"] and after["loss"] < 0.5 * before["loss"]
    report = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    assert report["accuracy"] == after["accuracy"] and report["ece"] == after["ece"]
    assert sum(row["pairs"] for row in report["reliability"]) == report["pairs"] > 20
    loaded = load_run(tmp_path / "run", heads=["score"])
    texts = ("ka sol to", "sol ve", "ka to", "ren ve", "ve " * 60)
    said = [Conversation((*asked("mi 7"), Message("assistant", text))) for text in texts]
    found = rewards(loaded, said)
    assert sum(found[:2]) > sum(found[2:4]) and found[4] == -math.inf, "the last does not fit"
    assert rewards(loaded, said[2:3]) == pytest.approx(found[2:3], abs=1e-5)
    with pytest.raises(UserError, match="only an answer of the assistant"):
        rewards(loaded, [Conversation(asked("mi 7"))])
    with pytest.raises(UserError, match="holds a model with the head 'score'"):
        load_run(tmp_path / "run")


def test_adapters_and_the_head_learn_alone(base, pairs, tmp_path):
    run = trainer(base, pairs, tmp_path / "run", "lora.rank=8", "optimizer.lr=0.02")
    run.fit()
    assert run.evaluate()["accuracy"] > 0.9 and run.model.head.weight.requires_grad
    require_only_adapters_learnt(run.model, load_run(base).model)


def test_rewards_are_what_training_has_seen(base, pairs, tmp_path):
    """The ids of the rows are those of the conversations, and the score is read at `<end>`."""
    run = trainer(base, pairs, tmp_path / "run", "train.steps=1")
    loaded = LoadedModel(run.model, load_run(base).tokenizer, ChatFormat(), base)
    train, _ = divided(read_preferences(pairs), 0.3, "pairs")
    found = reward_table(run.model, run.rows, Ranks())
    assert rewards(loaded, train[0].answers) == pytest.approx(found[0].tolist(), abs=1e-5)
    [tokens] = run.rows.batch([0], [0]).tokens[0, :1].tolist()
    last = len(run.rows.groups[0][0]) - 2
    assert tokens[last] == loaded.tokenizer.end


def test_scores_are_learnt_too(base, tmp_path):
    draw, judged = random.Random(0), []
    for number in range(150):
        words = draw.choices([*WORDS, "sol", "sol"], k=4)
        judged.append(Labelled(asked(f"mi {number}"), " ".join(words), score=0.5 * words.count("sol") - 0.5))
    write_labelled(tmp_path / "scores.jsonl", judged)
    run = trainer(base, tmp_path / "scores.jsonl", tmp_path / "run", "train.steps=120")
    run.fit()
    after = run.evaluate()
    assert after["correlation"] > 0.8 and "accuracy" not in after


def test_margins_are_asked_for(base, pairs):
    found = read_preferences(pairs)
    wanted = [rated_rows(found, load_run(base), use)[1].tolist() for use in (True, False)]
    assert wanted == [[pair.margin or 0.0 for pair in found], [0.0] * len(found)]


def test_a_resumed_run_is_bit_identical(base, pairs, tmp_path):
    more = ["train.steps=4"]
    trainer(base, pairs, tmp_path / "whole", *more).fit()
    broken = trainer(base, pairs, tmp_path / "broken", *more)
    while broken.state.step < 2:
        broken.step()
    broken.save()
    broken.saver.finish()
    continued = trainer(base, pairs, tmp_path / "broken", *more)
    assert continued.state.step == 2
    continued.fit()
    one, other = (newest_intact(tmp_path / name)[1] for name in ("whole", "broken"))
    assert one["model.safetensors"] == other["model.safetensors"]
    assert one["optimizer.safetensors"] == other["optimizer.safetensors"]


def train_on(ranks: Ranks, base, pairs, folder) -> None:
    trainer(base, pairs, folder, "train.steps=3", "train.micro_batch=4", ranks=ranks).fit()


def test_two_ranks_equal_one(base, pairs, tmp_path):
    for world in (1, 2):
        on_ranks(world, train_on, str(base), str(pairs), str(tmp_path / f"run{world}"))
    one, two = (
        [
            {name: value for name, value in record.items() if name != "tokens_per_second"}
            for record in read_metrics(folder)
        ]
        for folder in (tmp_path / "run1", tmp_path / "run2")
    )
    assert len(one) == len(two) == 4
    for left, right in zip(one, two):
        assert right == pytest.approx(left, abs=1e-4)


def test_the_report_of_scores_and_of_pairs():
    objective = RewardObjective(torch.zeros(2), centring=0.0)
    pairs = report_of(objective, torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.zeros(2))
    assert pairs["accuracy"] == 0.75 and pairs["margin"] == 0.5 and pairs["mean"] == 0.25
    scores = report_of(objective, torch.tensor([[1.0], [3.0]]), torch.tensor([2.0, 8.0]))
    assert scores["correlation"] == pytest.approx(1) and scores["loss"] == 13
    assert report_of(objective, torch.tensor([[1.0], [1.0]]), torch.tensor([2.0, 8.0]))["correlation"] == 0


def test_wrong_input_is_one_sentence(base, pairs, tmp_path):
    write_labelled(tmp_path / "labels.jsonl", [Labelled(asked("q"), "a", label=True)])
    write_labelled(tmp_path / "scores.jsonl", [Labelled(asked("q"), "a", score=1.0)])
    with pytest.raises(UserError, match=r"labels\.jsonl:1: a label is no score"):
        trainer(base, tmp_path / "labels.jsonl", tmp_path / "run")
    with pytest.raises(UserError, match="rate in different ways"):
        trainer(base, f"{pairs}','{tmp_path / 'scores.jsonl'}", tmp_path / "run")
    assert not (tmp_path / "run").exists()
