"""Malformed input: good files, damaged at random but by rule, given to every reader, each of which must refuse it.

A reader keeps its promise when the damaged input ends the command with exit code 2 and one sentence on stderr: no
traceback, no crash of the process, no waiting, no acceptance. What counts as malformed is decided by how the damage
was made, never by what the reader says of it: a letter changed inside a text leaves the file valid and is not tried;
every rule in `train.reliability.damage` makes an input that no correct reader can take for what was written.

Damages are made and tried in a forked process, batch after batch: one that dies (a library may abort) costs the case
at hand, which is counted as not held.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from configs import UserError, dumps, load, run_main
from data.formats import read_conversations
from data.prepare import prepare
from data.tokenizer import Tokenizer
from model.load import CHAT, DESCRIPTION, TOKENIZER, WEIGHTS, load_run
from model.storage import MANIFEST, encode_tensors, list_checkpoints, read_folder
from train.distributed import Ranks
from train.pretrain import PretrainConfig, build_trainer
from train.reliability import damage, forgery, tokenizers
from train.reliability.trials import Laboratory, Outcome, Trial, spawn, wait
from train.trainer import Trainer

SECONDS = 20  # that a reader may take for one small input
LONGEST = 1500  # characters of a sentence


@dataclass(frozen=True)
class Reader:
    """make(folder): write good input. read(folder): what a command does with it. rules: what the damage breaks."""

    name: str
    rules: str
    make: Callable[[Path], Any]
    read: Callable[[Path], Any]
    damages: tuple[damage.Damage, ...]


def malformed(laboratory: Laboratory, count: int) -> list[Outcome]:
    """`count` damaged inputs to each reader."""
    return [
        try_reader(reader, laboratory.folder / "malformed", count, laboratory.seed) for reader in readers(laboratory)
    ]


def readers(laboratory: Laboratory) -> list[Reader]:
    run = laboratory.folder / "start"
    config = laboratory.trial("start", "causal", 1, "train.steps=4", "train.evaluate_every=0").config()

    def resume(folder: Path) -> None:
        load_run(folder / "run")
        build_trainer(replace(config, run=str(folder / "run")), Ranks())

    def copy_run(folder: Path) -> None:
        (folder / "run").mkdir(parents=True)
        newest = max((run / "run" / "checkpoints").iterdir())
        shutil.copytree(newest, folder / "run" / "checkpoints" / newest.name)

    def copy_shards(folder: Path) -> None:
        shutil.copytree(run / "data", folder / "data")

    def copy_tokenizer(folder: Path) -> None:
        folder.mkdir(parents=True)
        shutil.copy(next((run / "data").rglob("tokenizer.model")), folder / "tokenizer.model")

    def prepare_from(folder: Path) -> None:
        prepare(replace(config.data, folder=str(folder / "data")))

    def write_config(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text(dumps(config), "utf-8")

    return [
        Reader("conversations (JSON, JSON lines, gzip)", damage.ROWS_RULES, damage.write_rows_of_all_kinds,
               lambda folder: list(read_conversations(damage.only_file(folder))), damage.ROWS),
        Reader("configuration (TOML and arguments)", damage.CONFIG_RULES, write_config,
               lambda folder: load(PretrainConfig, folder / "config.toml", damage.arguments_of(folder)), damage.CONFIG),
        Reader("checkpoint folder", forgery.CHECKPOINT_RULES, copy_run, resume, forgery.CHECKPOINT),
        Reader("tokenizer file", tokenizers.TOKENIZER_RULES, copy_tokenizer,
               lambda folder: Tokenizer.load(folder / "tokenizer.model"), tokenizers.TOKENIZER),
        Reader("token shards", forgery.SHARDS_RULES, copy_shards, prepare_from, forgery.SHARDS),
    ]  # fmt: skip


def try_reader(reader: Reader, below: Path, count: int, seed: int) -> Outcome:
    """Give a reader `count` damaged copies of its good input."""
    folder = below / reader.name.split(" ")[0]
    reader.make(folder / "good")
    results, log = folder / "results.jsonl", folder / "log"
    if wait(spawn(lambda: reader.read(folder / "good") and None, log)):
        raise RuntimeError(f"{reader.name}: the good input is refused:\n{log.read_text('utf-8')}")
    results.touch()
    tried: list[dict] = []
    kinds: Counter[str] = Counter()
    outcome = Outcome(f"malformed input is refused in one sentence: {reader.name}", "")
    while len(tried) < count:
        left = range(len(tried), count)
        code = wait(spawn(partial(try_cases, reader, folder, left, seed), log), 3600)
        tried = [json.loads(line) for line in results.read_text("utf-8").splitlines()]
        if tried and tried[-1]["problem"] == "begun":
            tried[-1]["problem"] = f"the process ended with {code}"
            results.write_text("".join(json.dumps(case) + "\n" for case in tried), "utf-8")
        elif code:
            raise RuntimeError(f"{reader.name}: the trial itself failed:\n{log.read_text('utf-8')[-2000:]}")
    for case in tried:
        kinds[case["damage"]] += 1
        outcome.count(case["problem"] and f"{case['damage']} (case {case['case']}): {case['problem']}")
    outcome.how = f"{len(kinds)} kinds of damage, seeded; {reader.rules}"
    return outcome


def try_cases(reader: Reader, folder: Path, cases: range, seed: int) -> None:
    """In the forked process: make, read, note. What is noted as begun when the process dies was the death of it."""
    results, done = folder / "results.jsonl", (folder / "results.jsonl").read_text("utf-8")
    for case in cases:
        draw = random.Random(f"{seed} {reader.name} {case}")
        copy = folder / "case"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder / "good", copy)
        chosen = reader.damages[case % len(reader.damages)]
        chosen(copy, draw)
        note = {"case": case, "damage": chosen.__name__.replace("_", " ").strip()}
        results.write_text(done + json.dumps({**note, "problem": "begun"}) + "\n", "utf-8")
        signal.alarm(SECONDS)
        problem = problem_with(lambda copy=copy: reader.read(copy))
        signal.alarm(0)
        done += json.dumps({**note, "problem": problem}) + "\n"
        results.write_text(done, "utf-8")


def problem_with(read: Callable[[], Any]) -> str | None:
    """What is wrong with how bad input was taken; None when it was refused in one sentence with exit code 2."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            run_main(lambda argv: read() and 0)
    except SystemExit as ended:
        if ended.code != 2:
            return "accepted" if ended.code == 0 else f"exit code {ended.code}"
    except BaseException as error:
        return f"a traceback: {type(error).__name__}: {str(error)[:200]}"
    lines = [line for line in said.getvalue().splitlines() if not line.startswith("warning: ")]
    if len(lines) != 1 or not lines[0].startswith("error: ") or len(lines[0]) > LONGEST:
        return f"not one sentence but {len(lines)} lines: {said.getvalue()[:200]!r}"
    return None


# Corrupted checkpoints, beside intact ones ---------------------------------------------------------------------------


def corrupted(laboratory: Laboratory, count: int) -> list[Outcome]:
    """A run whose newest checkpoint, or newest two, are damaged: the newest intact one is used, and it is said."""
    outcome = Outcome(
        "a corrupted checkpoint is never accepted: the newest intact one is used instead, and it is said",
        f"{len(forgery.DAMAGES)} kinds of damage (every file and the manifest: flipped, cut, emptied, swapped, "
        "half deleted, edited, ...) to the newest checkpoint of a run with four, to the newest two every third time, "
        "with a temporary folder left over; offered to `load_run` and to the resuming trainer, whose weights must be "
        "those of the intact one",
        "corrupted",
    )
    trial = laboratory.trial("corrupted", "causal", 1, "train.keep=0", "train.save_every=6", "train.evaluate_every=0")
    if any(trial.complete()):
        raise RuntimeError(f"the run to corrupt failed:\n{trial.said()}")
    results = trial.folder / "results.jsonl"
    code = wait(spawn(lambda: corrupt_and_load(trial, count, laboratory.seed, results), trial.log), 3600)
    if code:
        raise RuntimeError(f"the trial itself failed:\n{trial.said()[-2000:]}")
    for line in results.read_text("utf-8").splitlines():
        outcome.count(json.loads(line))
    return [outcome]


def corrupt_and_load(trial: Trial, count: int, seed: int, results: Path) -> None:
    """In a forked process: damage copies of the run and load them."""
    original, copy, problems = trial.run, trial.folder / "copy", []
    config = replace(trial.config(), run=str(copy))
    for case in range(count):
        draw = random.Random(f"{seed} corrupted {case}")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(original, copy)
        (copy / "config.toml").unlink()
        newest = list_checkpoints(copy)[::-1]
        shutil.copytree(newest[0], newest[0].with_name(".step-00000030.0.tmp"))
        chosen = forgery.DAMAGES[case % len(forgery.DAMAGES)]
        broken = newest[: 1 + (case % 3 == 2)]
        for folder in broken:
            chosen(folder, draw)
        intact, said = newest[len(broken)], io.StringIO()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                loaded, trainer = load_run(copy).folder, build_trainer(config, Ranks())
            problem = used(trainer, intact, loaded, said.getvalue(), broken)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        problems.append(problem and f"{chosen.__name__} (case {case}): {problem}")
    results.write_text("".join(json.dumps(problem) + "\n" for problem in problems), "utf-8")


def used(trainer: Trainer, intact: Path, loaded: Path, said: str, broken: list[Path]) -> str | None:
    """What is wrong when `intact` should have been used. `load_run` may use one whose damage it need not read."""
    ours = encode_tensors(dict(trainer.model.named_parameters()))
    if trainer.state.step != int(intact.name[5:]) or ours != (intact / WEIGHTS).read_bytes():
        return f"the trainer continues with step {trainer.state.step}, not with {intact.name}"
    if loaded != intact and any(damaged_for_loading(folder) for folder in broken if folder == loaded):
        return f"load_run gave {loaded.name}"
    unsaid = [folder.name for folder in broken if folder.name not in said]
    return f"nothing was said of {unsaid}" if unsaid else None


def damaged_for_loading(folder: Path) -> bool:
    try:
        read_folder(folder, [WEIGHTS, DESCRIPTION, TOKENIZER, CHAT])
    except UserError:
        return True
    return False


# Nothing is executed -------------------------------------------------------------------------------------------------


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def pickles(laboratory: Laboratory, count: int) -> list[Outcome]:
    """A pickle that would make a folder, in the place of each file that is ever read, with the right hash."""
    outcome = Outcome(
        "nothing is executed on load: a malicious checkpoint, tokenizer, shard or data file is refused",
        "a pickle (protocols 0 to 5) and an archive of torch.save, each of which makes a folder when it is unpickled "
        "(this is checked), in the place of every file of every reader, manifests sealed anew",
        "pickles",
    )
    trap = laboratory.folder / "sprung"
    torch.save({"weight": Trap(trap)}, laboratory.folder / "trap.pt")
    bombs = [pickle.dumps(Trap(trap), protocol) for protocol in range(6)]
    bombs.append((laboratory.folder / "trap.pt").read_bytes())
    cases = [
        (reader, path.relative_to(good), bomb)
        for bomb in bombs
        for reader in readers(laboratory)
        for good in [made(reader, laboratory.folder / "pickles" / reader.name.split(" ")[0])]
        for path in sorted(good.rglob("*"))
        if path.is_file()
    ]
    for reader, place, bomb in random.Random(laboratory.seed).sample(cases, min(count, len(cases))):
        outcome.count(bomb_in(reader, laboratory.folder / "pickles", place, bomb, trap))
    pickle.loads(bombs[0])
    if not trap.exists():
        outcome.count("the trap does not work")
    return [outcome]


def made(reader: Reader, folder: Path) -> Path:
    if not folder.exists():
        reader.make(folder)
    return folder


def bomb_in(reader: Reader, below: Path, place: Path, bomb: bytes, trap: Path) -> str | None:
    copy, log = below / "case", below / "log"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(below / reader.name.split(" ")[0], copy)
    (copy / place).write_bytes(bomb)
    if reader.damages is forgery.CHECKPOINT and place.name != MANIFEST:
        forgery.reseal(copy)
    code = wait(spawn(lambda: reader.read(copy) and None, log))
    if trap.exists():
        trap.rmdir()
        return f"{reader.name}: {place.name} was executed"
    return None if code == 2 else f"{reader.name}: {place.name} ended with {code}"
