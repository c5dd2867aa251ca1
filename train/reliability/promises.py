"""The promises about training, each tried on real runs: a function that takes a laboratory and a count, and counts.

What is decided at random (whom to kill, and when) comes from the seed; the moment within a run is a moment of the
clock, so that every instant has its chance: reading the configuration, making the data, the middle of a save.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path

import torch

from configs import UserError
from model.load import WEIGHTS, load_run
from model.storage import decode_tensors, encode_tensors, list_checkpoints, newest_intact
from train import pretrain, sft
from train.distributed import setup, teardown
from train.reliability.trials import (
    KINDS,
    Laboratory,
    Outcome,
    Trial,
    difference,
    never_left,
    spawn,
    start_ranks,
    stop_with,
    wait,
    with_codes,
)
from train.run import OPTIMIZER, read_metrics

STAGES = [("causal", 1), ("masked", 1), ("sft", 1), ("causal", 2), ("masked", 2), ("sft", 2)]


def saving(run: Path) -> bool:
    """Whether a killed process has left a half-written checkpoint."""
    return any((run / "checkpoints").glob(".*.tmp"))


# Kill anything, lose nothing -----------------------------------------------------------------------------------------


def kills(laboratory: Laboratory, count: int) -> list[Outcome]:
    """SIGKILL at random moments, of a random rank or of all, then restart, several times in one run."""
    outcome = Outcome(
        "kill -9 at any instant loses nothing: restarted, the run ends with the same bits as one that was never "
        "interrupted (weights, optimizer, every logged figure)",
        "",
        "kills",
    )
    draw, moments, runs = random.Random(laboratory.seed), Counter(), 0
    while outcome.tried < count:
        kind, world = STAGES[runs % len(STAGES)]
        whole = laboratory.whole(kind, world)
        trial = laboratory.trial(f"kill-{runs}", kind, world)
        runs += 1
        done = 0
        for _ in range(min(draw.choice((1, 1, 2, 3)), count - outcome.tried)):
            done += kill_once(trial, draw, 1.1 * laboratory.seconds[kind, world], moments)
        problem = with_codes(trial.complete()) or difference(whole, trial)
        outcome.count(problem and f"{kind} on {world} ranks: {problem}", done)
    seen = ", ".join(f"{number} {moment}" for moment, number in sorted(moments.items()))
    outcome.how = (
        f"SIGKILL at random moments of the clock in {runs} runs (pretraining causal and masked, tuning; 1 and 2 ranks; "
        f"one rank or all; a checkpoint after every step), restarted until finished. Where the kills fell: {seen}"
    )
    return [outcome]


def kill_once(trial: Trial, draw: random.Random, seconds: float, moments: Counter) -> int:
    """Start, kill at a random moment; 0 when the run had ended before."""
    processes = trial.start()
    with never_left(processes):
        time.sleep(draw.uniform(0, seconds))
        chosen = processes if draw.random() < 0.5 else [draw.choice(processes)]
        for process in chosen:
            os.kill(process, signal.SIGKILL)
        codes = [wait(process, seconds=3) for process in processes]  # then they are killed, as torchrun would
    if -signal.SIGKILL not in codes:
        return 0
    begun = bool(list_checkpoints(trial.run))
    moments["during a save" if saving(trial.run) else "between saves" if begun else "before the first checkpoint"] += 1
    return 1


# A complete checkpoint always exists ---------------------------------------------------------------------------------


def saves(laboratory: Laboratory, count: int) -> list[Outcome]:
    """Save after every step while another process looks for the newest intact checkpoint without a pause."""
    small = ["model.context=16", "model.width=16", "model.layers=1", f"train.steps={count}", "train.log_every=100"]
    trial = laboratory.trial("saves", "causal", 1, *small, f"train.evaluate_every={max(1, count // 10)}")
    trial.folder.mkdir()
    memory, looks = trial.folder / "memory.txt", trial.folder / "looks.json"
    trainer = spawn(lambda: train_and_weigh(trial, memory), trial.log)
    watcher = spawn(lambda: look(trial.run, looks), trial.folder / "looks.log")
    with never_left([trainer, watcher]):
        code = wait(trainer, 3600)
        os.kill(watcher, signal.SIGTERM)
        wait(watcher)
    state = trial.state()
    left = [int(folder.name[5:]) for folder in list_checkpoints(trial.run)]
    expected = sorted({state.best_step, *range(count - trial.config().train.keep + 1, count + 1)})
    saved = Outcome(
        "checkpoints saved and pruned beside the training: at the end the newest N and the best are left, nothing else",
        "one after every step, asynchronously; what is in the folder at the end is listed",
    )
    others = [path.name for path in (trial.run / "checkpoints").iterdir() if not path.name.startswith("step-")]
    problem = f"exit code {code}, left {left}, not {expected}, and {others}"
    saved.count(None if code == 0 and left == expected and not others else problem, count)
    complete = Outcome(
        "at every moment a complete, verified newest checkpoint exists",
        "a second process looks for it, checking every hash, again and again while those are saved and pruned",
    )
    report = json.loads(looks.read_text("utf-8"))
    complete.count(None, report["found"])
    for problem in report["problems"]:
        complete.count(problem)
    weights = [int(line) for line in memory.read_text("utf-8").split()]
    growth = max(weights[len(weights) // 2 :]) - max(weights[len(weights) // 10 : len(weights) // 2])
    steady = Outcome(
        "memory does not grow with the number of saves",
        f"the largest resident memory of the second half of {count} saves exceeds that of the first (without its "
        "first tenth) by less than 1 %",
    )
    steady.count(None if growth < 0.01 * max(weights) else f"it grew by {growth / 2**20:.1f} MiB")
    return [saved, complete, steady]


def train_and_weigh(trial: Trial, memory: Path) -> None:
    """Train, and write down this process's resident memory at each save."""
    trainer = pretrain.build_trainer(trial.config(), setup("cpu", 1))
    save, page = trainer.save, os.sysconf("SC_PAGE_SIZE")
    with open(memory, "w", encoding="utf-8") as file:

        def save_and_weigh() -> None:
            save()
            resident = int(Path("/proc/self/statm").read_text("utf-8").split()[1]) * page
            file.write(f"{resident}\n")

        trainer.save = save_and_weigh
        trainer.fit()


def look(run: Path, result: Path) -> None:
    """Find the newest intact checkpoint until SIGTERM comes; from the first one on there is always one, never older."""
    found, last, problems, stopped = 0, -1, [], []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    while not stopped:
        try:
            newest = newest_intact(run)
            step = -1 if newest is None else int(newest[0].name[5:])
            problem = f"step {step} after step {last}" if step < last else None
        except UserError as error:
            step, problem = -1, str(error)
        if problem:
            problems.append(problem)
        found += step >= 0 and not problem
        last = max(last, step)
    result.write_text(json.dumps({"found": found, "problems": problems}), "utf-8")


# Elastic, and the same numbers whatever the split --------------------------------------------------------------------


def elastic(laboratory: Laboratory, count: int) -> list[Outcome]:
    """Another number of ranks, from the start or in the middle."""
    outcome = Outcome(
        "1, 2 and 4 ranks with the same global batch give the same losses, to 1e-4 in float32 over 24 steps; a run "
        "started on one number of ranks continues on another",
        "each of the objectives without dropout: the losses of every step compared with those of one rank; the run "
        "is stopped half way by SIGTERM and continued on another number of ranks",
    )
    changes = [(kind, worlds) for worlds in ((2, 2), (4, 1), (2, 4), (1, 2)) for kind in KINDS]
    for number, (kind, (first, second)) in enumerate(changes[:count]):
        quiet = [*no_dropout(laboratory, kind), "train.evaluate_every=0"]
        whole = laboratory.whole(kind, 1, *quiet)
        trial = laboratory.trial(f"elastic-{number}", kind, first, *quiet)
        if first != second:
            stop_with(trial, signal.SIGTERM, after=8)
            trial = laboratory.trial(f"elastic-{number}", kind, second, *quiet)
        outcome.count(with_codes(trial.complete()) or apart(whole, trial, 1e-4))
    return [outcome]


def apart(one: Trial, other: Trial, tolerance: float) -> str | None:
    """The first step at which the losses of two runs are further apart than `tolerance`."""
    losses = [{r["step"]: r["loss"] for r in read_metrics(t.run) if r["kind"] == "train"} for t in (one, other)]
    if losses[0].keys() != losses[1].keys():
        return f"{len(losses[0])} and {len(losses[1])} steps"
    far = [step for step in losses[0] if abs(losses[0][step] - losses[1][step]) > tolerance]
    return f"the loss of step {far[0]} is another" if far else None


def splits(laboratory: Laboratory, count: int) -> list[Outcome]:
    """The gradient of one step in float64: 8 rows as 1 x 8, 2 x 4 and 4 x 2 ranks x micro-batches, and whole."""
    outcome = Outcome(
        "the gradient is that of the whole batch, however its rows are split over micro-batches and ranks",
        "float64, ragged rows, every objective; 8 rows on 1, 2 and 4 ranks in 8, 4 and 2 micro-batches: every "
        "gradient after normalising and clipping, and the loss, within 1e-10 of the batch done at once",
    )
    for kind in KINDS:
        references: dict[str, torch.Tensor] = {}
        for world, micro in ((1, 8), (1, 1), (2, 1), (4, 1))[: 1 + count]:
            rows = ["train.batch_size=8", f"train.micro_batch={micro}", *no_dropout(laboratory, kind)]
            trial = laboratory.trial(f"split-{kind}-{world}-{micro}", kind, world, *rows)
            trial.folder.mkdir()
            result = trial.folder / "gradients"
            codes = [wait(p) for p in start_ranks(lambda t=trial, r=result: step_in_float64(t, r), world, trial.log)]
            problem = with_codes(codes)
            found = {} if problem else decode_tensors(result.read_bytes())
            if not references:
                references = found
                continue
            problem = problem or unlike(references, found, 1e-10)
            outcome.count(problem and f"{kind} on {world} ranks: {problem}")
    return [outcome]


def unlike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float) -> str | None:
    """The tensor that differs most, when that is more than `tolerance`."""
    apart = {name: (other[name] - one[name]).abs().max().item() for name in one}
    worst = max(apart, key=apart.get)
    return None if apart[worst] < tolerance else f"{worst} differs by {apart[worst]:.2g}"


def no_dropout(laboratory: Laboratory, kind: str) -> list[str]:
    """Overrides for a run without dropout, which draws other numbers on other ranks."""
    if kind != "sft":
        return ["model.dropout=0"]
    return [f"init={laboratory.whole('causal', 1, 'model.dropout=0', 'train.evaluate_every=0').run}"]


def step_in_float64(trial: Trial, result: Path) -> None:
    """One step with every parameter, activation and gradient in float64; the first rank writes what came out."""
    torch.set_default_dtype(torch.float64)
    ranks = setup("cpu", 1)
    if trial.kind == "sft":
        sft.load_run = partial(load_run, dtype=torch.float64)
    build = sft.build_trainer if trial.kind == "sft" else pretrain.build_trainer
    trainer = build(trial.config(), ranks)
    trainer.model.trunk.compute_dtype = torch.float64
    trainer.launch()
    if ranks.is_main:
        gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
        result.write_bytes(encode_tensors({**gradients, "loss": trainer.pending[-1].figures[:2].clone()}))
    ranks.barrier()
    teardown()


# No poisoned step ----------------------------------------------------------------------------------------------------


def poisoned(laboratory: Laboratory, count: int) -> list[Outcome]:
    """A bad step is refused on every rank alike, counted and named, and the optimizer's counter does not move."""
    outcome = Outcome(
        "a step with a NaN loss, a NaN gradient or a spike is applied on no rank; it is counted and logged with its "
        "samples, and the optimizer's counter stays",
        "one fault on one of two ranks in a random step: whatever the fault and the rank, the runs must end with the "
        "same bits, one step skipped, its number and four samples logged, and the counter one behind",
        "poisoned",
    )
    draw = random.Random(laboratory.seed + 1)
    guarded = ("train.guard.spike=500", "train.guard.window=8", "train.evaluate_every=0")
    done, group = 0, 0
    while done < count:
        step, kind, first = draw.randint(9, 23), KINDS[group % len(KINDS)], None
        for fault in [f"{name}:rank{rank}:step{step}" for name in ("nan_loss", "nan_grad", "spike") for rank in (0, 1)]:
            if done == count:
                break
            trial = laboratory.trial(f"poison-{done}", kind, 2, *guarded, f"train.faults=['{fault}']")
            problem = with_codes(trial.complete()) or refused(trial, step)
            first = first or trial
            problem = problem or ("other bits" if difference_of_files(first, trial) else None)
            outcome.count(problem and f"{fault}: {problem}")
            done += 1
        group += 1
    return [outcome]


def refused(trial: Trial, step: int) -> str | None:
    """What is wrong with a run in which this one step should have been refused."""
    records = [r for r in read_metrics(trial.run) if r["kind"] == "skipped"]
    if [(r["step"], len(r["samples"])) for r in records] != [(step, 4)] or trial.state().skipped != 1:
        return f"skipped {[r['step'] for r in records]}, not [{step}]"
    tensors = decode_tensors(newest_intact(trial.run)[1][OPTIMIZER])
    counters = {float(value) for name, value in tensors.items() if name.endswith("/step")}
    expected = {trial.config().train.steps - 1.0}
    return None if counters == expected else f"the optimizer counts {counters}"


def difference_of_files(one: Trial, other: Trial) -> bool:
    a, b = (newest_intact(trial.run)[1] for trial in (one, other))
    return a[WEIGHTS] != b[WEIGHTS] or a[OPTIMIZER] != b[OPTIMIZER]
