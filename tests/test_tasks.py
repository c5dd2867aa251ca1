"""Tasks of the world: what is held out is not taught, the world judges, and tuning on each of them is measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from configs import ConfigError, UserError, load
from data.chat import ChatFormat
from data.tokenizer import Tokenizer, TokenizerConfig
from instruct.lessons import split_request
from instruct.tasks import FAMILIES, belongs, course_of, is_right, task
from instruct.world.program import Program
from model import LanguageModel, ModelConfig
from model.load import model_files
from model.storage import write_folder
from train.answers import Answer
from train.distributed import Ranks
from train.run import read_metrics
from train.sft import InstructionData, SftConfig, build_trainer, read_instructions

CONFIGS = {"questions": "question_answering", "plans": "planning", "writing": "writing"}


@pytest.fixture(scope="module")
def taught():
    return {name: task(name, 300, 30) for name in FAMILIES}


def test_what_is_held_out_is_not_taught(taught):
    for name, (lessons, items) in taught.items():
        said = {lesson.messages[0].content for lesson in lessons}
        instructions = {split_request(text)[0] for text in said}
        assert len(lessons) == 300 and len(items) >= 20
        for item in items:
            assert belongs(name, item.program)
            if item.split == "phrasings":
                assert item.instruction not in instructions, item.instruction
            else:
                assert f"{item.instruction}\n{item.input}" not in said


def test_helpers_alone_are_no_task_and_writing_comes_last():
    for name, text, fits in (
        ("plans", "reverse_list | first", False), ("plans", "route | first", True),
        ("writing", "odd_above", True), ("writing", "double | odd_above", True),
    ):  # fmt: skip
        world = course_of(name, 0).world
        steps = {single.steps[0].name: single.steps[0] for single in world.singles()}
        program = Program(tuple(steps[each] for each in text.split(" | ")))
        assert belongs(name, program) == fits, text


def test_the_world_judges(taught):
    for name, (_, items) in taught.items():
        assert all(is_right(name, item, item.output) for item in items)
        assert not any(is_right(name, item, said) for item in items[:9] for said in ("", "zxq"))
    _, held_out = read_instructions(InstructionData(world="writing", lessons=9, asked=30), 0)
    several = [asked for asked in held_out if "words" in str(asked.conversation) and asked.expected.count(" ") > 0]
    other = next(asked for asked in several if asked.accepts(" ".join(reversed(asked.expected.split()))))
    assert other.expected.split() != other.expected.split()[::-1], "another right answer than the expected one"
    assert Answer("t", "q", "a b", "b a", accepted=True).right and not Answer("t", "q", "a b", "b a").right
    with pytest.raises(UserError, match="no task 'cooking'"):
        task("cooking", 1, 1)
    with pytest.raises(ConfigError, match="leave out one of them"):
        InstructionData(("a.jsonl",), world="plans")


@pytest.fixture(scope="module")
def base(taught, tmp_path_factory) -> Path:
    """An untrained model whose tokenizer knows the words."""
    texts = [m.content for lessons, _ in taught.values() for lesson in lessons for m in lesson.messages]
    tokenizer = Tokenizer.train(texts, TokenizerConfig(vocab_size=1100, character_coverage=1.0))
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(vocab_size=tokenizer.vocab_size, context=96, width=48, layers=2, heads=2))
    folder = tmp_path_factory.mktemp("base") / "checkpoint"
    write_folder(folder, model_files(model, tokenizer, ChatFormat()))
    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_each_task_trains_and_is_measured(name, base, tmp_path):
    settings = [
        f"run={tmp_path / name}", f"init={base}", "data.lessons=300", "data.asked=8", "answer_tokens=12",
        "train.steps=25", "train.batch_size=8", "train.precision=float32", "train.compile=off", "train.threads=1",
        "train.save_every=0", "train.evaluate_every=0", "optimizer.lr=0.01", "optimizer.kind=muon",
    ]  # fmt: skip
    trainer = build_trainer(load(SftConfig, f"configs/tasks/{CONFIGS[name]}.toml", settings), Ranks())
    before = trainer.evaluate()["loss"]
    trainer.fit()
    [after] = [r for r in read_metrics(tmp_path / name) if r["kind"] == "evaluation"]
    assert after["loss"] < 0.85 * before
    assert 0 <= after["accuracy"] <= 1
