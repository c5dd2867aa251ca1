"""Learning by trying end to end at tiny size: the reward rises, a resumed run repeats itself, two ranks equal one."""

from __future__ import annotations

import json

import pytest
import torch

from configs import ConfigError, UserError, load
from data.chat import ChatFormat, Conversation, Message
from model import LanguageModel, ModelConfig
from model.complete import complete
from model.load import load_run, model_files
from model.storage import checkpoint_folder, decode_tensors, newest_intact, write_folder
from tests.oracle import OPERATIONS, untaught
from tests.ranks import on_ranks
from tests.small import require_only_adapters_learnt
from train.advantages import METHODS
from train.distributed import Ranks
from train.reinforce import ReinforceConfig, build_trainer, main, reinforce
from train.run import read_metrics

WANTED = "ka"


def share_of_wanted(prompt: str, answer: str, expected: str) -> float:
    """The toy task: say WANTED, whatever is asked."""
    return answer.count(WANTED) * len(WANTED) / max(len(answer), 8)


def never(prompt: str, answer: str, expected: str) -> float:
    return 0.0


@pytest.fixture(scope="module")
def base(tmp_path_factory, small_tokenizer):
    return untaught(tmp_path_factory.mktemp("base") / "run", small_tokenizer)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    rows = [{"instruction": f"mi {i}", "output": "ka"} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def tiny(base, questions, folder, *overrides) -> ReinforceConfig:
    names = ", ".join(f'"{name}"' for name in OPERATIONS)
    settings = [
        f"run={folder}", f"init={base}", f"data.paths=['{questions}']", "data.validation=0.3", "group=6",
        "answer_tokens=6", "asked=8", "reward.kind=function", "reward.function=tests.test_reinforce:share_of_wanted",
        f"data.curriculum.operations=[{names}]", "data.curriculum.compositions=12", "data.curriculum.held_out=5",
        "data.curriculum.depth3=12", "health.unfinished=0", "optimizer.lr=0.01", "train.steps=6", "train.batch_size=4",
        "train.save_every=2", "train.log_every=1", "train.threads=1", "schedule.warmup=0",
        "schedule.kind=constant", "optimizer.kind=adamw", "loss.rehearsal=0", *overrides,
    ]  # fmt: skip
    return load(ReinforceConfig, "configs/demo/reinforce.toml", settings)


def rehearsing(weight: float, path) -> list[str]:
    return [f"loss.rehearsal={weight}", f"data.lessons=['{path}']", "data.execution=false"]


def weights_of(folder) -> dict[str, torch.Tensor]:
    return decode_tensors(newest_intact(folder)[1]["model.safetensors"])


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_the_reward_rises(base, questions, tmp_path, method):
    config = tiny(base, questions, tmp_path / "run", "train.steps=40", "train.save_every=0", f"loss.method={method}")
    reinforce(config, Ranks())
    records = read_metrics(tmp_path / "run")
    rewards = [record["reward"] for record in records if record["kind"] == "rollouts"]
    assert len(rewards) == 40 and sum(rewards[:5]) / 5 < 0.15
    assert sum(rewards[-5:]) / 5 > 0.5
    [evaluated] = [record for record in records if record["kind"] == "evaluation"]
    assert evaluated["held_out"] > 0.5
    figures = next(record for record in records if record["kind"] == "rollouts")
    assert {"reward", "kl", "entropy", "length", "repetition", "unfinished", "silent"} <= figures.keys()
    assert "right" not in figures and "held_out_right" not in evaluated, "of files no program knows what is right"
    assert figures["kl"] == 0, "the first rollouts are of the reference itself"


def test_adapters_learn_alone_and_the_reference_is_the_base(base, questions, tmp_path):
    run = build_trainer(tiny(base, questions, tmp_path / "run", "lora.rank=8", "train.save_every=0"), Ranks())
    run.fit()
    divergences = [record["kl"] for record in read_metrics(tmp_path / "run") if record["kind"] == "rollouts"]
    assert divergences[0] == 0 < divergences[-1], "what is sampled and what is trained is the model with adapters"
    require_only_adapters_learnt(run.model, load_run(base).model)


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_is_bit_identical(base, questions, tmp_path, method):
    changes = [f"loss.method={method}", "loss.kl=0.01", "loss.good=0.1", "train.steps=4"]
    changes += rehearsing(0.5, questions)
    reinforce(tiny(base, questions, tmp_path / "whole", *changes), Ranks())
    broken = build_trainer(tiny(base, questions, tmp_path / "broken", *changes), Ranks())
    while broken.state.step < 3:
        broken.step()
        if broken.state.step == 2:
            broken.save()
    broken.saver.finish()
    reinforce(tiny(base, questions, tmp_path / "broken", *changes), Ranks())
    one, other = (newest_intact(tmp_path / name)[1] for name in ("whole", "broken"))
    assert one["model.safetensors"] == other["model.safetensors"]
    assert one["optimizer.safetensors"] == other["optimizer.safetensors"]
    lines = [[r for r in read_metrics(tmp_path / name) if r["kind"] == "rollouts"] for name in ("whole", "broken")]
    assert lines[0] == lines[1] and [r["step"] for r in lines[0]] == [1, 2, 3, 4]
    before, after = decode_tensors(newest_intact(base)[1]["model.safetensors"]), weights_of(tmp_path / "whole")
    assert any(not torch.equal(before[name], after[name]) for name in before), "something was learnt"
    assert load_run(tmp_path / "whole").model.head_name == "language"


def train_on(ranks: Ranks, base: str, questions: str, folder: str) -> None:
    changes = ["train.steps=3", "loss.kl=0.1", "train.micro_batch=1", "optimizer.kind=adamw", "optimizer.eps=1e-4"]
    changes += rehearsing(0.5, questions)
    reinforce(tiny(base, questions, folder, *changes), ranks)


def test_two_ranks_equal_one(base, questions, tmp_path):
    for world in (1, 2):
        on_ranks(world, train_on, str(base), str(questions), str(tmp_path / f"run{world}"))
    one, two = (weights_of(tmp_path / f"run{world}") for world in (1, 2))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-4)
    figures = [[r for r in read_metrics(tmp_path / f"run{world}") if r["kind"] == "rollouts"] for world in (1, 2)]
    assert len(figures[0]) == len(figures[1]) > 0
    for mine, theirs in zip(*figures):
        assert mine.pop("kind") == theirs.pop("kind")
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-4)


def test_questions_of_the_world(base, tmp_path, questions, monkeypatch):
    """All of it, without files: practice, the verifier, lessons, and held-out chains."""
    monkeypatch.setattr("train.reinforce.LESSONS", 50)
    changes = [
        "data.paths=[]", "data.count=12", "data.depths=[1, 3]", "data.measured=['depth3', 'inputs']",
        "reward.function=", "reward.kind=verifier", "train.steps=1", "health.silent=0", "loss.rehearsal=1",
    ]  # fmt: skip
    with pytest.raises(UserError, match="leaves room for 188 tokens"):
        build_trainer(tiny(base, questions, tmp_path / "run", *changes, "answer_tokens=188"), Ranks())
    reinforce(tiny(base, questions, tmp_path / "run", *changes), Ranks())
    [evaluated] = [record for record in read_metrics(tmp_path / "run") if record["kind"] == "evaluation"]
    assert 0 <= evaluated["depth3"] <= 1 and 0 <= evaluated["inputs"] <= 1
    [taken] = [record for record in read_metrics(tmp_path / "run") if record["kind"] == "rollouts"]
    assert taken["lessons"] > 0 and "right" not in taken, "the verifier is the reward"


def test_a_reward_that_is_outwitted_stops_the_run(base, questions, tmp_path, monkeypatch):
    """What is right becomes rarer while the reward rises: here, as if that were what is wanted instead of it."""
    monkeypatch.setattr("instruct.rewards.is_right", lambda question, text, verifier: WANTED not in text)
    changes = [
        "data.paths=[]", "data.count=12", "data.measured=['depth3']", "train.steps=40", "health.silent=0",
        "health.patience=2", "health.window=3",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"right is .* the reward is being outwitted"):
        reinforce(tiny(base, questions, tmp_path / "run", *changes), Ranks())
    taken = [record for record in read_metrics(tmp_path / "run") if record["kind"] == "rollouts"]
    right, reward = (
        [sum(record[name] for record in part) / 3 for part in (taken[:3], taken[-3:])] for name in ("right", "reward")
    )
    assert right[1] < 0.75 * right[0] and reward[1] > reward[0]


def test_what_is_rehearsed_stays(base, questions, tmp_path):
    """The lessons' answer wins where the reward says nothing."""
    path = tmp_path / "lessons.jsonl"
    path.write_text(json.dumps({"instruction": "mi 3", "output": "to"}) + "\n", "utf-8")
    changes = ["reward.function=tests.test_reinforce:never", "health.silent=0", "train.steps=60"]
    reinforce(tiny(base, questions, tmp_path / "run", *changes, *rehearsing(1, path)), Ranks())
    asked = Conversation((Message("user", "mi 3"),))
    assert [said.text for said in complete(load_run(tmp_path / "run"), [asked], 6)] == ["to"]
    assert [said.text for said in complete(load_run(base), [asked], 6)] != ["to"]


def test_a_run_that_is_ill_stops_and_says_why(base, questions, tmp_path):
    changes = ["reward.function=tests.test_reinforce:never", "health.patience=3"]
    for _ in range(2):  # the same command stops at the same place, because its memory is in its records
        with pytest.raises(
            UserError, match=r"step 3 was not taken: silent is 1, .* for 3 checks in a row: groups give"
        ):
            reinforce(tiny(base, questions, tmp_path / "run", *changes), Ranks())
    assert [r["step"] for r in read_metrics(tmp_path / "run") if r["kind"] == "rollouts"] == [1, 2, 3]
    assert newest_intact(tmp_path / "run")[0].name == "step-00000002"


def test_wrong_input_is_one_sentence(base, questions, tmp_path):
    def refused(sentence, *changes, error=UserError):
        with pytest.raises(error, match=sentence):
            build_trainer(tiny(base, questions, tmp_path / "run", *changes), Ranks())

    refused("there is no checkpoint in", f"init={tmp_path / 'nothing'}")
    refused(r"missing\.jsonl", f"data.paths=['{tmp_path / 'missing.jsonl'}']")
    refused("cannot be imported", "reward.function=no_such_module:f")
    refused("answer_tokens must be below", "answer_tokens=192")
    refused("group must be at least 2", "group=1", error=ConfigError)
    refused("train.parallel must be ddp", "train.parallel=fsdp", error=ConfigError)
    refused("name data.lessons to rehearse", "loss.rehearsal=1", error=ConfigError)
    refused("not read while loss.rehearsal is 0", f"data.lessons=['{questions}']", error=ConfigError)
    refused("execution is about lessons of the world", *rehearsing(1, questions)[:2], error=ConfigError)
    refused("unknown kind 'all'", "data.measured=['all']", error=ConfigError)
    refused("function must be given", "reward.function=", error=ConfigError)
    assert not (tmp_path / "run").exists(), "nothing is written before the input is known to be good"


def test_the_command_line(base, questions, tmp_path):
    config = tiny(base, questions, tmp_path / "run", "train.steps=1")
    reinforce(config, Ranks())
    main([str(tmp_path / "run" / "config.toml")])  # a finished run: nothing to do
    with pytest.raises(UserError, match="other settings"):
        main([str(tmp_path / "run" / "config.toml"), "group=4"])


def test_dropout_is_off(small_tokenizer, questions, tmp_path):
    settings = {"vocab_size": small_tokenizer.vocab_size, "context": 40, "width": 32, "layers": 1, "heads": 2}
    model = LanguageModel(ModelConfig(**settings, dropout=0.5))
    write_folder(checkpoint_folder(tmp_path / "base", 1), model_files(model, small_tokenizer, ChatFormat()))
    trainer = build_trainer(tiny(tmp_path / "base", questions, tmp_path / "run"), Ranks())
    trainer.model.train()
    tokens = torch.arange(9).view(1, 9)
    torch.testing.assert_close(trainer.model(tokens), trainer.model(tokens), rtol=0, atol=0)
