"""The demo at tiny size, and the commands of the README: what is printed is what works."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.oracle import OPERATIONS
from tests.tiny import tiny_overrides
from train import demo
from train.plots import can_plot
from train.run import flatten

ROOT = Path(__file__).parent.parent


TINY_ROUNDS = """
run = "{run}"
rounds = 1
exam = 4
execution = true
vocab_size = 700
curriculum = {{ operations = {operations}, compositions = 6, held_out = 4, depth3 = 6, phrasings = 2, inputs = 5 }}
construct = {{ inputs = 2, propose = {{ samples = 8, votes = 2 }} }}
model = {{ context = 256, width = 32, layers = 2, heads = 2 }}
base = {{ steps = 3, batch_size = 2, compile = "off" }}
train = {{ steps = 2, batch_size = 2, compile = "off", threads = 1 }}
""".replace("{operations}", json.dumps(OPERATIONS))


def tiny_demo_configs(folder: Path) -> Path:
    """The demo's three configurations, with few steps and small models, below `folder`."""
    changes = dict(override.split("=", 1) for override in tiny_overrides(folder))
    del changes["data.corpus.paths"]
    changes |= {
        "data.tokenizer.vocab_size": "1000",
        "model.context": "256",
        "train.steps": "3",
        "run": str(folder / "pretrain"),
    }
    configs = folder / "configs"
    configs.mkdir()
    (configs / "pretrain.toml").write_text(as_toml(changes), "utf-8")
    changes = {key: value for key, value in changes.items() if key.startswith(("train.", "schedule."))}
    changes |= {
        "run": str(folder / "sft"), "init": str(folder / "pretrain"), "data.train_per_task": "8",
        "data.heldout_per_task": "2", "answer_tokens": "6", "asked": "4", "train.evaluate_every": "2",
    }  # fmt: skip
    (configs / "sft.toml").write_text(as_toml(changes), "utf-8")
    (configs / "rounds.toml").write_text(TINY_ROUNDS.format(run=folder / "rounds"), "utf-8")
    return configs


def as_toml(changes: dict[str, str]) -> str:
    bare = re.compile(r"-?[0-9.]+|true|false|\[.*")
    return "".join(f"{k} = {v if bare.fullmatch(v) else json.dumps(v)}\n" for k, v in sorted(changes.items()))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    configs = tiny_demo_configs(folder)
    demo.main(["--configs", str(configs), "--out", str(folder / "out")])
    return folder


def test_the_report_holds_what_it_promises(ran):
    report = json.loads((ran / "out" / "report.json").read_text("utf-8"))
    flat = flatten(report)
    for key in (
        "tokenizer.vocab_size", "pretrain.bits_per_byte", "pretrain.ngram_bits_per_byte", "pretrain.tokens_per_second",
        "pretrain.seconds", "sft.heldout_accuracy", "sft.seconds", "construct.funnel.raw",
    ):  # fmt: skip
        assert isinstance(flat[key], (int, float)), key
    assert 1.5 < report["pretrain"]["ngram_bits_per_byte"] < 2.5
    assert report["pretrain"]["bits_per_byte"] > report["pretrain"]["ngram_bits_per_byte"], "three steps cannot win"
    assert {sample["kind"] for sample in report["samples"]} == {"continuation", "dialogue"}
    assert report["sft"]["heldout_asked"] == len((ran / "out" / "answers.jsonl").read_text("utf-8").splitlines())


def test_the_accuracy_can_be_counted_again_from_the_answers(ran):
    report = json.loads((ran / "out" / "report.json").read_text("utf-8"))
    answers = [json.loads(line) for line in (ran / "out" / "answers.jsonl").read_text("utf-8").splitlines()]
    right = [answer["written"].split() == answer["expected"].split() for answer in answers]
    assert report["sft"]["heldout_accuracy"] == pytest.approx(sum(right) / len(right))


def test_the_report_ends_with_a_dialogue_and_how_often_such_answers_are_right(ran):
    report = json.loads((ran / "out" / "report.json").read_text("utf-8"))
    page = (ran / "out" / "report.md").read_text("utf-8")
    last = report["construct"]["answering"]
    assert [turn["question"] for turn in last["dialogue"]] == ["What is the capital of France?", "法国的首都是哪里？"]
    end = page[page.rindex("\n## ") :]
    assert all(turn["trace"].splitlines()[0] in end for turn in last["dialogue"])
    assert end.count("wrong, expected: `") == 2
    assert last["facts"].keys() == {"capital"}, "the only relation of this world"
    assert last["asked"] == sum(cell["asked"] for cell in last["facts"]["capital"].values()) > 100
    assert f"of {last['asked']} such questions right" in page


def test_the_page_names_pictures_that_exist(ran):
    page = (ran / "out" / "report.md").read_text("utf-8")
    named = re.findall(r"!\[[^]]*\]\(([^)]+)\)", page)
    assert len(named) == (3 if can_plot() else 0)
    assert all((ran / "out" / name).stat().st_size > 5000 for name in named)
    assert "bits per byte" in page and page.count("~~~~text") * 2 == page.count("~~~~")


def test_a_second_demo_trains_nothing_again(ran, capsys):
    before = {path: path.stat().st_mtime_ns for path in ran.rglob("model.safetensors")}
    demo.main(["--configs", str(ran / "configs"), "--out", str(ran / "out")])
    assert before == {path: path.stat().st_mtime_ns for path in ran.rglob("model.safetensors")}
    assert capsys.readouterr().out.count("finished") == 2, "rounds with all their marks are not even begun"


def readme_commands() -> list[list[str]]:
    """Every command of the README's code blocks that starts Python, as arguments after `python -m`."""
    text = (ROOT / "README.md").read_text("utf-8")
    lines = [line.strip() for block in re.findall(r"```bash\n(.*?)```", text, re.S) for line in block.splitlines()]
    commands = []
    for line in lines:
        words = shlex.split(line.split("  #")[0])
        if "-m" in words:
            commands.append(words[words.index("-m") + 1 :])
    return commands


def test_the_readme_shows_the_commands_of_every_stage():
    modules = {command[0] for command in readme_commands()}
    assert modules >= {
        "train.pretrain",
        "train.sft",
        "model.generate",
        "model.chat",
        "data.tokenizer",
        "instruct.documentation",
    }


@pytest.mark.parametrize("command", readme_commands(), ids=lambda words: " ".join(words)[:60])
def test_readme_commands_name_modules_and_files_that_exist(command):
    module, *arguments = command
    path = ROOT / module.replace(".", "/")
    assert path.with_suffix(".py").exists() or (path / "__main__.py").exists()
    for argument in arguments:
        if argument.startswith("configs/"):
            assert (ROOT / argument).exists(), argument
