"""Instruction tuning end to end at tiny size: data in, loss down, held-out answers, resume, wrong input."""

from __future__ import annotations

import json

import pytest

from configs import UserError, load
from model.load import load_run
from model.storage import newest_intact
from tests.test_trainer import trainer_of
from train.answers import Answer, Asked, accuracies, answer_all
from train.distributed import Ranks
from train.run import read_metrics
from train.sft import InstructionData, SftConfig, build_trainer, questions_of, read_instructions

ANSWERS = {"color": "red", "number": "seven", "animal": "horse", "fruit": "plum"}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    trainer_of(folder, "model.context=64", "train.steps=4").fit()
    return folder / "run"


@pytest.fixture
def chats(tmp_path):
    rows = [
        {"instruction": f"Name a {key} for case {i}.", "output": value}
        for i in range(40)
        for key, value in ANSWERS.items()
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def sft_trainer(pretrained, chats, folder, *overrides):
    config = load(
        SftConfig,
        "configs/demo/sft.toml",
        [
            f"run={folder}", f"init={pretrained}", f"data.paths=['{chats}']", "data.validation=0.2", "answer_tokens=8",
            "train.steps=240", "train.batch_size=4", "train.precision=float32", "train.compile=off", "train.threads=1",
            "train.log_every=1", "train.evaluate_every=0", "train.save_every=20", "optimizer.lr=0.01", *overrides,
        ],
    )  # fmt: skip
    return build_trainer(config, Ranks())


def test_tuning_teaches_to_answer_and_to_stop(pretrained, chats, tmp_path):
    trainer = sft_trainer(pretrained, chats, tmp_path / "sft")
    before = trainer.evaluate()
    trainer.fit()
    [after] = [r for r in read_metrics(tmp_path / "sft") if r["kind"] == "evaluation"]
    assert before["accuracy"] == 0
    assert after["accuracy"] > 0.9, "four answers to unseen case numbers are easy"
    assert after["loss"] < 0.2 * before["loss"]
    loaded = load_run(tmp_path / "sft")
    _, held_out = read_instructions(InstructionData((str(chats),), 0.2), 0)
    for answer in answer_all(loaded.model, loaded.tokenizer, loaded.chat, held_out[:9], 8):
        assert answer.written.split() == answer.expected.split(), "stops after the answer"


def test_resumed_tuning_is_bit_identical(pretrained, chats, tmp_path):
    sft_trainer(pretrained, chats, tmp_path / "whole").fit()
    broken = sft_trainer(pretrained, chats, tmp_path / "broken")
    while broken.state.step < 20:
        broken.step()
    broken.save()
    broken.saver.finish()
    continued = sft_trainer(pretrained, chats, tmp_path / "broken")
    assert continued.state.step == 20
    continued.fit()
    one, other = (newest_intact(tmp_path / name)[1] for name in ("whole", "broken"))
    assert one["model.safetensors"] == other["model.safetensors"]
    assert one["optimizer.safetensors"] == other["optimizer.safetensors"]


def test_epochs_decide_the_steps(pretrained, chats, tmp_path):
    trainer = sft_trainer(pretrained, chats, tmp_path / "sft", "epochs=2")
    assert trainer.config.steps == -(-2 * len(trainer.rows) // 4)


def test_held_out_conversations_are_never_trained_on(chats):
    train, held_out = read_instructions(InstructionData((str(chats),), 0.3), 0)
    said = {conversation.messages[0].content for conversation in train}
    assert held_out and not said & {asked.conversation.messages[0].content for asked in held_out}
    assert len(train) + len(held_out) == 160


def test_rows_that_a_file_marks_as_held_out_are_left_out(tmp_path):
    path = tmp_path / "marked.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}], "split": split}
        for i in range(30)
        for split in ("train", "heldout")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    train, held_out = read_instructions(InstructionData((str(path),), 0.3), 0)
    assert len(train) + len(held_out) == 30


def test_built_in_instructions_come_with_their_tasks():
    train, held_out = read_instructions(InstructionData(train_per_task=20, heldout_per_task=5), 0)
    assert len({asked.task for asked in held_out}) >= 8
    assert len(train) > 100 and len(questions_of(held_out)) == len(held_out)


def test_accuracies_count_by_task():
    answers = [Answer("a", "q", "x y", "x  y"), Answer("a", "q", "x", "z"), Answer("b", "q", "1", "1")]
    assert accuracies(answers) == {"a": (1, 2), "all": (2, 3), "b": (1, 1)}


def test_answers_do_not_depend_on_the_batch(pretrained, chats):
    loaded = load_run(pretrained)
    _, held_out = read_instructions(InstructionData((str(chats),), 0.2), 0)
    held_out = [*held_out[:5], Asked("all", held_out[5].conversation)]
    together = answer_all(loaded.model, loaded.tokenizer, loaded.chat, held_out, 6)
    alone = [answer_all(loaded.model, loaded.tokenizer, loaded.chat, [asked], 6)[0] for asked in held_out]
    assert together == alone


def test_wrong_input_is_one_sentence(pretrained, chats, tmp_path):
    with pytest.raises(UserError, match="there is no checkpoint in"):
        sft_trainer(tmp_path / "nothing", chats, tmp_path / "sft")
    with pytest.raises(UserError, match=r"missing\.jsonl"):
        sft_trainer(pretrained, tmp_path / "missing.jsonl", tmp_path / "sft")
    with pytest.raises(UserError, match=r"both are needed|to hold out"):
        one = tmp_path / "one.jsonl"
        one.write_text('{"instruction": "a", "output": "b"}\n', "utf-8")
        sft_trainer(pretrained, one, tmp_path / "sft")
    lines = chats.read_text("utf-8").splitlines() * 20
    lines[1233] = '{"instruction": "broken'
    chats.write_text("\n".join(lines), "utf-8")
    with pytest.raises(UserError, match=r"1234"):
        sft_trainer(pretrained, chats, tmp_path / "sft")
    assert not (tmp_path / "sft").exists(), "nothing is written before the input is known to be good"
