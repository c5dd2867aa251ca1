"""The promises about how a run ends: asked to, stuck, dead, restarted, without room (see `promises`)."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

from train.reliability.promises import STAGES
from train.reliability.trials import (
    KINDS,
    Laboratory,
    Outcome,
    Trial,
    difference,
    never_left,
    stop_with,
    wait,
    with_codes,
)

STALL = 3.0  # seconds without progress that end a job
MARGIN = 20.0  # seconds that a job may take to end after that, on a busy machine
JOB_SECONDS = 300.0  # after which a job under torchrun, which starts slowly, is taken for stuck


# Signals -------------------------------------------------------------------------------------------------------------


def signals(laboratory: Laboratory, count: int) -> list[Outcome]:
    """SIGTERM and SIGINT save and exit 0; the same command then ends with the same bits. A second SIGINT stops."""
    outcome = Outcome(
        "SIGTERM and SIGINT save the step at hand and exit 0; the same command continues to the same bits",
        "sent to all ranks, or to one of two, after a random number of steps; 1 and 2 ranks, all stages",
        "signals",
    )
    draw = random.Random(laboratory.seed + 2)
    quiet = ("train.save_every=0", "train.steps=80", "train.evaluate_every=0")
    for number in range(count):
        kind, world = STAGES[number % len(STAGES)]
        whole, trial = laboratory.whole(kind, world, *quiet), laboratory.trial(f"signal-{number}", kind, world, *quiet)
        chosen = (signal.SIGTERM, signal.SIGINT)[number // len(STAGES) % 2]
        codes, _ = stop_with(trial, chosen, draw.randint(1, 40), draw.random() < 0.5)
        problem = with_codes(codes)
        if problem is None:
            stopped = trial.state().step
            problem = f"saved step {stopped} of 80: it came too late" if stopped >= 80 else None
        problem = problem or with_codes(trial.complete()) or difference(whole, trial)
        outcome.count(problem and f"{chosen.name}, {kind} on {world} ranks: {problem}")
    twice = Outcome(
        "a second SIGINT stops at once", "the process sleeps for ever in a step; two SIGINTs; it must end within 5 s"
    )
    for number in range(max(1, count // 6)):
        trial = laboratory.trial(f"twice-{number}", "causal", 1, f"train.faults=['hang:rank0:step{number + 3}']")
        twice.count(second_signal(trial, number + 2))
    return [outcome, twice]


def second_signal(trial: Trial, after: int) -> str | None:
    [process] = trial.start()
    with never_left([process]):
        deadline = time.monotonic() + 60
        while trial.steps_logged() < after and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.3)
        os.kill(process, signal.SIGINT)
        time.sleep(0.3)
        if os.waitpid(process, os.WNOHANG)[0]:
            return "the first one ended it already"
        os.kill(process, signal.SIGINT)
        code = wait(process, 5)
    return None if code == 130 else f"exit code {code}"


# No hang -------------------------------------------------------------------------------------------------------------


def hangs(laboratory: Laboratory, count: int) -> list[Outcome]:
    """A stuck or a dead rank ends the whole job in time, and the job says which rank, in which step."""
    draw = random.Random(laboratory.seed + 3)
    stuck = Outcome(
        "a stuck rank ends the whole job within train.stall_seconds and 20 s, and is named with its step",
        f"one of two ranks sleeps for ever in a random step; train.stall_seconds={STALL:g}",
    )
    dead = Outcome(
        "a dead rank ends the whole job within 40 s, and is named with the step",
        "SIGKILL of one of two ranks in a random step, under torchrun: the time from then on, no process left, the "
        "rank named by torchrun, the step by the other rank",
    )
    for number in range(count):
        rank, step = draw.randrange(2), draw.randint(2, 20)
        kind = KINDS[number % len(KINDS)]
        trial = laboratory.trial(
            f"stuck-{number}", kind, 2, f"train.stall_seconds={STALL}", f"train.faults=['hang:rank{rank}:step{step}']"
        )
        processes = trial.start()
        with never_left(processes):
            while trial.steps_logged() < step - 1:
                time.sleep(0.01)
            codes = [wait(process, STALL + MARGIN) for process in processes]
        named = f"rank {rank} in step {step}" in trial.said()
        stuck.count(None if None not in codes and 0 not in codes and named else f"exit codes {codes}, named: {named}")
        trial = laboratory.trial(f"dead-{number}", kind, 2, f"train.faults=['kill:rank{rank}:step{step}']")
        job = trial.torchrun()
        dead.count(ended_and_named(trial, job, rank, step))
    return [stuck, dead]


def ended_and_named(trial: Trial, job: subprocess.Popen, rank: int, step: int) -> str | None:
    """Wait for the death of the rank, then for the end of the job."""
    while trial.steps_logged() < step - 1 and job.poll() is None:
        time.sleep(0.01)
    try:
        code = job.wait(40)
    except subprocess.TimeoutExpired:
        kill_job(trial, job)
        return "the job did not end"
    said = trial.said()
    missing = [word for word in (f"in step {step}", f"rank      : {rank} ", "-9") if word not in said]
    if code == 0 or missing:
        return f"exit code {code}, not said: {missing}"
    return "processes are left" if job_processes(trial) else None


def job_processes(trial: Trial) -> list[int]:
    """Processes whose command line names the configuration of the trial: torchrun gives each rank its own session."""
    name, found = str(trial.folder / "trial.toml").encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if name in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def kill_job(trial: Trial, job: subprocess.Popen) -> None:
    for process in job_processes(trial):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    job.wait()


def restarts(laboratory: Laboratory, count: int) -> list[Outcome]:
    """torchrun --max-restarts brings a job back by itself."""
    outcome = Outcome(
        "torchrun --max-restarts=N resumes by itself after a rank was killed, and ends with the same bits",
        "two ranks; every second time a rank is killed in a given step, else a random rank at a random moment",
    )
    draw = random.Random(laboratory.seed + 4)
    for number in range(count):
        kind = ("causal", "masked", "sft")[number % 3]
        whole = laboratory.whole(kind, 2)
        fault = [] if number % 2 else [f"train.faults=['kill:rank{draw.randrange(2)}:step{draw.randint(2, 20)}']"]
        trial = laboratory.trial(f"restart-{number}", kind, 2, *fault)
        job = trial.torchrun("--max-restarts=2")
        try:
            if not fault:
                while trial.steps_logged() < draw.randint(1, 18) and job.poll() is None:
                    time.sleep(0.01)
                ranks = [process for process in job_processes(trial) if process != job.pid]
                os.kill(draw.choice(ranks), signal.SIGKILL)
            code = job.wait(JOB_SECONDS)
            outcome.count(with_codes([code]) or difference(whole, trial) or not_restarted(trial))
        except subprocess.TimeoutExpired:
            outcome.count("the job did not end")
        finally:
            kill_job(trial, job)
    return [outcome]


def not_restarted(trial: Trial) -> str | None:
    return None if "continuing at step" in trial.said() or "exitcode: -9" in trial.said() else "nothing was restarted"


# Full disk -----------------------------------------------------------------------------------------------------------


def full_disks(laboratory: Laboratory, count: int) -> list[Outcome]:
    """ENOSPC in one save, or in the last."""
    during = Outcome(
        "a full disk costs a checkpoint, not the run: it is said, training goes on, the end has the same bits",
        "ENOSPC at every attempt to write the checkpoint of one random step",
    )
    final = Outcome(
        "where the last checkpoint cannot be written, the command says so, exits 2, and leaves the older ones intact",
        "ENOSPC at every attempt to write the checkpoint of the last step; then the same command finishes the run",
    )
    draw = random.Random(laboratory.seed + 5)
    for number in range(count):
        kind, world = STAGES[number % len(STAGES)]
        whole = laboratory.whole(kind, world)
        step = draw.randint(2, 22)
        trial = laboratory.trial(f"full-{number}", kind, world, f"train.faults=['enospc:rank0:step{step}']")
        problem = with_codes(trial.complete()) or difference(whole, trial)
        during.count(problem or (None if "training goes on" in trial.said() else "nothing was said"))
        fault = "train.faults=['enospc:rank0:step24']"
        trial = laboratory.trial(f"last-{number}", kind, 1, fault)
        problem = with_codes(trial.complete(), 2)
        problem = problem or (None if "No space left" in trial.said() else "nothing was said")
        trial = laboratory.trial(f"last-{number}", kind, 1)
        final.count(problem or with_codes(trial.complete()) or difference(laboratory.whole(kind, 1), trial))
    return [during, final]
