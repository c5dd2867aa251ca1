"""Rounds at tiny size: the same twice, the same after any interruption, the same on two ranks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import train.rounds as rounds_module
from configs import ConfigError, UserError, dumps, load, run_main
from instruct.construct import construct
from instruct.curriculum import Course
from instruct.records import read_records
from instruct.teach import ON_REQUEST, OWN_PARTS, SHARES
from model.load import load_run
from tests.oracle import oracle_of, part_of
from tests.ranks import on_ranks
from tests.test_distributed import torchrun
from train.distributed import Ranks
from train.rounds import CHAT, RoundsConfig, arm_folder, lessons_for, main, prepare, run, sharing, train_base
from train.run import read_metrics

ROOT = Path(__file__).parent.parent
TINY = """
seed = 1
rounds = 2
exam = 6
vocab_size = 700
own_share = 0.4

[curriculum]
operations = ["reverse_list", "first", "sort_up", "sum", "largest", "double_each", "capital", "is_even"]
compositions = 8
held_out = 4
depth3 = 6
phrasings = 2
inputs = 6
composition_inputs = 6
closed = 3

[construct]
arm = "unverified"
inputs = 2

[construct.propose]
samples = 21
temperature = 0.7
new_tokens = 24
answer_tokens = 8

[model]
context = 160
width = 48
layers = 2
heads = 3

[optimizer]
kind = "muon"
lr = 0.01

[schedule]
warmup = 2

[base]
steps = 60
batch_size = 4
precision = "float32"
compile = "off"
save_every = 10
log_every = 1

[train]
steps = 6
batch_size = 4
precision = "float32"
compile = "off"
save_every = 2
log_every = 1
threads = 1
"""


def tiny(folder: Path, *overrides: str) -> RoundsConfig:
    path = folder / "rounds.toml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(TINY, "utf-8")
    return load(RoundsConfig, path, [f"run={folder / 'run'}", *overrides])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> RoundsConfig:
    """A run in one go."""
    config = tiny(tmp_path_factory.mktemp("whole"))
    run(config, Ranks())
    return config


@pytest.fixture(scope="module")
def course(whole) -> Course:
    return Course(whole.curriculum, whole.seed)


def files_of(config: RoundsConfig) -> dict[str, object]:
    """Everything that a run writes, by name: bytes; of metrics, what does not depend on the clock."""
    folder, found = Path(config.run), {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "metrics.jsonl":
            found[name] = [(record["kind"], record["step"], record.get("loss")) for record in read_metrics(path.parent)]
        elif path.is_file() and path.name not in ("config.toml", "state.json", "manifest.json"):
            found[name] = path.read_bytes()
    return found


def copied(config: RoundsConfig, folder: Path, *parts: str) -> RoundsConfig:
    """The same run in another folder, of which only these files and folders are there."""
    other = tiny(folder)
    for part in parts:
        source, target = Path(config.run) / part, Path(other.run) / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
    return other


# One run -------------------------------------------------------------------------------------------------------------


def test_a_run_leaves_seeds_records_models_and_marks(whole):
    folder = Path(whole.run)
    assert {path.name for path in folder.iterdir()} == {"seeds.jsonl", "tokenizer.model", "base", "unverified"}
    assert [r["step"] for r in read_metrics(folder / "base") if r["kind"] == "train"][-1] == 60
    for number in (1, 2):
        stage = arm_folder(whole) / f"round{number}"
        records = list(read_records(stage / "records.jsonl"))
        assert len(records) == 21 and {record.origin.round for record in records} == {number}
        assert all(record.decision for record in records)
        marks = json.loads((stage / "exam.json").read_text("utf-8"))
        assert marks.keys() == {"inputs", "phrasings", "open", "compositions", "depth3"}
        assert load_run(stage / "train").tokenizer.model_bytes == (folder / "tokenizer.model").read_bytes()
    assert sum(record.kept for number in (1, 2) for record in records_of(whole, number)) > 0, "or nothing is tested"


def records_of(config: RoundsConfig, number: int) -> list:
    return list(read_records(arm_folder(config) / f"round{number}" / "records.jsonl"))


@pytest.mark.slow
def test_the_same_run_twice_is_the_same(whole, tmp_path):
    again = tiny(tmp_path)
    run(again, Ranks())
    assert files_of(again) == files_of(whole)


class Stopped(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["write_records", "construct", "grade", "load_run", "lessons_for"])
def test_interrupted_anywhere_it_goes_on_to_the_same_end(stage, whole, tmp_path, monkeypatch):
    """The stage fails in its second call, and again in the second of what is then left, until nothing is left."""
    stopped = copied(whole, tmp_path, "seeds.jsonl", "tokenizer.model")
    function, calls, attempts = getattr(rounds_module, stage), [], 0

    def second_time_not(*arguments, **named):
        calls.append(stage)
        if len(calls) == 2:
            raise Stopped
        return function(*arguments, **named)

    while True:
        attempts += 1
        calls.clear()
        monkeypatch.setattr(rounds_module, stage, second_time_not if attempts <= 3 else function)
        try:
            run(stopped, Ranks())
        except Stopped:
            continue
        break
    assert attempts > 1
    assert files_of(stopped) == files_of(whole)


@pytest.mark.parametrize("part", [pytest.param("base", marks=pytest.mark.slow), "round1"])
def test_interrupted_in_training_it_goes_on_to_the_same_end(part, whole, tmp_path, monkeypatch):
    stopped = copied(whole, tmp_path, "seeds.jsonl", "tokenizer.model", *([] if part == "base" else ["base"]))
    trainer, steps = rounds_module.Trainer, []

    class Dying(trainer):
        def launch(self):
            steps.append(part)
            if len(steps) == 5:
                raise Stopped
            super().launch()

    monkeypatch.setattr(rounds_module, "Trainer", Dying)
    with pytest.raises(Stopped):
        run(stopped, Ranks())
    monkeypatch.setattr(rounds_module, "Trainer", trainer)
    run(stopped, Ranks())
    assert files_of(stopped) == files_of(whole)


def test_what_is_finished_is_not_done_again(whole, monkeypatch, capsys):
    before = files_of(whole)
    for name in ("construct", "grade", "write_records"):
        monkeypatch.setattr(rounds_module, name, lambda *arguments, **named: pytest.fail("done again"))
    run(whole, Ranks())
    assert files_of(whole) == before
    assert "round 2" in capsys.readouterr().out


def test_another_arm_and_more_rounds_start_from_what_is_there(whole, tmp_path):
    shared = copied(whole, tmp_path, "seeds.jsonl", "tokenizer.model", "base", "unverified/round1")
    more = tiny(tmp_path, "rounds=1", "construct.arm=seeds")
    run(more, Ranks())
    assert {path.name for path in (arm_folder(more) / "round1").iterdir()} == {"train", "exam.json"}
    run(shared, Ranks())
    found = {name: raw for name, raw in files_of(shared).items() if not name.startswith("seeds/")}
    assert found == files_of(whole), "a round more after the first, which is as it was"


def test_what_was_made_with_other_settings_is_refused(whole):
    for override in ("curriculum.inputs=7", "exam=7", "model.width=24", "construct.inputs=3", "seed=2"):
        other = tiny(Path(whole.run).parent, override)
        with pytest.raises(UserError, match=f"{override.split('=')[0]} was "):
            run(other, Ranks())


def test_records_are_not_trained_on_with_other_settings(whole, tmp_path, monkeypatch):
    stopped = copied(whole, tmp_path, "seeds.jsonl", "tokenizer.model", "base")

    def stop(*_, **__):
        raise Stopped

    monkeypatch.setattr(rounds_module, "lessons_for", stop)
    with pytest.raises(Stopped):
        run(stopped, Ranks())
    assert (arm_folder(stopped) / "round1" / "records.jsonl").exists()
    with pytest.raises(UserError, match=r"construct\.inputs was "):
        run(replace(stopped, construct=replace(stopped.construct, inputs=3)), Ranks())


def test_fresh_starts_anew_and_deletes_no_other_folder(whole, tmp_path, monkeypatch):
    config = copied(whole, tmp_path / "a", "seeds.jsonl", "base")
    monkeypatch.setattr(rounds_module, "prepare", lambda *arguments: (_ for _ in ()).throw(Stopped))
    with pytest.raises(Stopped):
        run(config, Ranks(), fresh=False)
    assert (Path(config.run) / "base").exists()
    with pytest.raises(Stopped):
        run(config, Ranks(), fresh=True)
    assert not Path(config.run).exists()
    other = tiny(tmp_path / "b")
    Path(other.run).mkdir()
    (Path(other.run) / "letter.txt").write_text("mine", "utf-8")
    with pytest.raises(UserError, match="is not deleted"):
        run(other, Ranks(), fresh=True)
    assert (Path(other.run) / "letter.txt").exists()


# Lessons -------------------------------------------------------------------------------------------------------------


def test_a_round_has_lessons_for_all_its_steps_in_the_wanted_shares(whole, course, monkeypatch):
    """As many tokens with own items as without; what is own plays the model's own parts only."""
    seeds, tokenizer = prepare(whole, course, Ranks())
    own = [replace(r, instruction=f"own: {r.instruction}", behaviour=f"own {r.behaviour}") for r in seeds]
    few = [record for record in own if record.program == "sum"]
    drawn = []

    def remember(conversations, *arguments):
        drawn.append(list(conversations))
        return lesson_rows(conversations, *arguments)

    lesson_rows = rounds_module.lesson_rows
    monkeypatch.setattr(rounds_module, "lesson_rows", remember)
    longer = tiny(Path(whole.run).parent, "train.steps=40")
    rows = [lessons_for(longer, longer.train, seeds, items, tokenizer, salt=1) for items in ((), own, few)]
    for each in rows:
        assert len(each) >= 40 * 4, "no lesson is seen twice in a round"
        assert len(each) < 1.6 * 40 * 4
    assert abs(len(rows[0]) - len(rows[1])) < 0.15 * len(rows[0])
    shares = [
        sum(any("own: " in m.content for m in each.messages) for each in lessons) / len(lessons) for lessons in drawn
    ]
    assert shares[0] == 0 and 0.25 < shares[1] < 0.6, "as configured"
    assert 0 < shares[2] < 2 / len({record.behaviour for record in seeds}), "one meaning among as many as there are"
    tail = drawn[1][-20:]
    assert {part_of(lesson)[0] for lesson in tail} <= {*OWN_PARTS}
    assert drawn[0] != drawn[1] and len(drawn) == 3


def test_the_primer_carries_out_single_operations_only_and_the_base_begins_with_it(course, tmp_path, monkeypatch):
    drawn, lesson_rows = [], rounds_module.lesson_rows
    monkeypatch.setattr(
        rounds_module, "lesson_rows", lambda found, *rest: drawn.append(found) or lesson_rows(found, *rest)
    )
    config = tiny(tmp_path, "primer=3", "base.steps=1", "optimizer.lr=1e-9", "rounds=0")
    seeds, tokenizer = prepare(config, course, Ranks())
    single = {record.instruction for record in seeds if " | " not in record.program}
    folder, state = train_base(config, seeds, tokenizer, Ranks())
    before = tmp_path / "run" / "primer"
    steps = [each["step"] for each in read_metrics(before) if each["kind"] == "train"]
    assert state.finished and steps == [1, 2, 3]
    primer, base = drawn
    assert {lesson.messages[0].content.partition("\n")[0] for lesson in primer} <= single
    assert {part_of(lesson)[0] for lesson in primer} == {"execute"} < {part_of(lesson)[0] for lesson in base}
    weights = [dict(load_run(each).model.named_parameters()) for each in (folder, before)]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], atol=1e-6, rtol=0, msg=name)


def test_with_execution_the_seeds_teach_to_answer_by_chains(course, tmp_path, monkeypatch):
    """In the base, in rounds, and before the eyes of the tokenizer; the model's own items do not."""
    texts, drawn = [], []
    train_tokenizer, lesson_rows = rounds_module.Tokenizer.train, rounds_module.lesson_rows
    monkeypatch.setattr(
        rounds_module.Tokenizer, "train", lambda seen, config: texts.append(seen) or train_tokenizer(seen, config)
    )
    monkeypatch.setattr(
        rounds_module, "lesson_rows", lambda found, *rest: drawn.append(found) or lesson_rows(found, *rest)
    )
    parts = []
    for execution in ("false", "true"):
        config = tiny(tmp_path / execution, f"execution={execution}", "train.steps=30")
        seeds, tokenizer = prepare(config, course, Ranks())
        own = [replace(record, instruction=f"own: {record.instruction}") for record in seeds]
        for items in ((), own):
            lessons_for(config, config.train, seeds, items, tokenizer, salt=1)
            parts.append({part_of(lesson)[0] for lesson in drawn[-1] if "own: " not in lesson.messages[-2].content})
    assert not {"construct", "sentence"} & (parts[0] | parts[1])
    assert parts[2] >= {"construct", "sentence"} <= parts[3]
    assert [" construct English" in seen for seen in texts] == [False, True]
    assert config.parts == (*SHARES, *ON_REQUEST)


def test_the_verified_arm_trains_on_what_the_verifier_kept(whole, course, tmp_path, monkeypatch):
    """A scripted model writes: what it is then trained on is what was kept, and all of it."""
    config = tiny(tmp_path, "construct.arm=verified", "rounds=1", "construct.propose.samples=70")
    copied(whole, tmp_path, "seeds.jsonl", "tokenizer.model", "base")
    loaded, _ = oracle_of(course, monkeypatch, wrong=0.2, garbage=0.1)
    seen = []

    def remember(config, steps, seeds, own, tokenizer, salt):
        seen.append(own)
        return lessons_for(config, steps, seeds, own, tokenizer, salt)

    monkeypatch.setattr(rounds_module, "lessons_for", remember)
    monkeypatch.setattr(rounds_module, "construct", lambda model, *rest: construct(loaded, *rest))
    monkeypatch.setattr(rounds_module, "examine", lambda *arguments: {})
    run(config, Ranks())
    records = records_of(config, 1)
    kept = [record for record in records if record.kept]
    assert len(records) == 70 and kept and seen[-1] == kept
    assert all(instance.verified for record in kept for instance in record.instances)


# Ranks ---------------------------------------------------------------------------------------------------------------


def shares_work(ranks: Ranks, counts: tuple[int, ...]) -> list[tuple[list[int], int]]:
    """For each number of items, the results for all, and how many this rank has worked on."""
    done: list[int] = []

    def work(items):
        done.extend(items)
        return [item * item for item in items]

    found = []
    for count in counts:
        done.clear()
        found.append((sharing(ranks)(work, range(count)), len(done)))
    return found


@pytest.mark.parametrize("world", [1, 3])
def test_work_is_divided_and_put_together_in_order(world):
    found = on_ranks(world, shares_work, (0, 1, 7))
    for number, count in enumerate((0, 1, 7)):
        of_ranks = [results[number] for results in found]
        assert all(results == [i * i for i in range(count)] for results, _ in of_ranks)
        assert sum(done for _, done in of_ranks) == count
        assert max(done for _, done in of_ranks) <= -(-count // world)


@pytest.mark.slow
def test_two_ranks_write_the_same_records_as_one(whole, tmp_path):
    """From the same base; what they then train differs by rounding, as sums over ranks do."""
    config = copied(whole, tmp_path, "seeds.jsonl", "tokenizer.model", "base")
    (Path(config.run) / "base" / "exam.json").unlink()
    path = tmp_path / "two.toml"
    path.write_text(dumps(config), "utf-8")
    ended = subprocess.run(
        torchrun("-m", "train.rounds", str(path), "rounds=1"), cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    for name in ("base/exam.json", "unverified/round1/records.jsonl"):
        assert (Path(config.run) / name).read_bytes() == (Path(whole.run) / name).read_bytes(), name
    one, two = (read_metrics(arm_folder(each) / "round1" / "train") for each in (whole, config))
    losses = [[record["loss"] for record in records if record["kind"] == "train"] for records in (one, two)]
    assert losses[0][:2] == pytest.approx(losses[1][:2], rel=1e-5), "before rounding has grown through the updates"
    assert losses[0] == pytest.approx(losses[1], rel=1e-2) and len(losses[0]) == 6
    assert (arm_folder(config) / "round1" / "exam.json").exists()


# Settings ------------------------------------------------------------------------------------------------------------


def test_wrong_settings_are_named_together(tmp_path):
    with pytest.raises(ConfigError) as raised:
        tiny(tmp_path, "own_share=1", "rounds=-1", "exam=0", "model.causal=false", "base.threads=7")
    named = (
        "own_share must lie",
        "rounds must not be negative",
        "exam must be positive",
        "model.causal",
        "base.threads",
    )
    for part in named:
        assert part in str(raised.value)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["own_share=2"], "own_share must lie between 0 and 1"),
        (["construct.arms=seeds"], "did you mean 'arm'"),
        (["curriculum.operations=['fly']"], "there is no operation fly"),
        (["curriculum.operations=['sum']"], "give the world more operations"),
        (["construct.arm=guess"], "construct.arm"),
        (["vocab_size=50"], "vocab_size"),
        (["model.context=60"], "larger context"),
    ],
)
def test_wrong_input_is_one_sentence(overrides, message, tmp_path, monkeypatch, capsys):
    config = tmp_path / "rounds.toml"
    config.write_text(TINY, "utf-8")
    fast = ["base.steps=1", "train.steps=1"]
    monkeypatch.setattr(sys, "argv", ["rounds", str(config), f"run={tmp_path / 'run'}", *fast, *overrides])
    with pytest.raises(SystemExit) as raised:
        run_main(main)
    said = [line for line in capsys.readouterr().err.splitlines() if "step/s" not in line and line.strip()]
    assert raised.value.code == 2 and message in said[-1] and said[-1].startswith("error: ") and len(said) == 1


def test_the_chat_format_of_a_run_is_that_of_its_lessons(whole):
    assert load_run(Path(whole.run) / "base").chat == CHAT
