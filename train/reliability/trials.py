"""Tiny real runs in processes of their own: what the promises about reliability are tried on (`train.reliability`).

A run here is what a command line starts, `run_main` included, but forked from this process, which has imported
PyTorch already: it takes a third of a second instead of four, so that a promise can be tried fifty times. Two ranks
are two such processes that meet through the environment variables of `torchrun`. Nothing is simulated: the processes
are killed, signalled and compared from outside, through exit codes, files and what they print.

What it leaves out: systems without `fork`, and GPUs, whose context does not survive one.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs import dumps, load, run_main
from data.formats import write_rows
from model.load import WEIGHTS
from model.storage import newest_intact
from train import pretrain, sft
from train.compare import content
from train.run import OPTIMIZER, STATE, TrainState, read_metrics

STAGES: dict[str, Callable[[list[str]], Any]] = {"pretrain": pretrain.main, "sft": sft.main}
KINDS = ("causal", "masked", "infill", "sft")
PATIENCE = 120.0  # seconds after which a process that should have ended is taken for stuck
WORDS = (
    "the", "of", "to", "is", "that", "for", "with", "not", "all", "return", "value", "list", "string", "object", "file",
    "name", "type", "function", "指令", "模型", "语言",
)  # fmt: skip
TRAINING = [
    "train.steps=24", "train.batch_size=4", "train.precision=float32", "train.compile=off", "train.device=cpu",
    "train.threads=1", "train.log_every=1", "train.evaluate_every=6", "train.save_every=1", "schedule.warmup=2",
]  # fmt: skip
MODEL = ["model.context=32", "model.width=32", "model.layers=2", "model.heads=2", "model.dropout=0.1"]
OBJECTIVES = {
    "causal": ["optimizer.kind=muon"],
    "masked": ["objective=masked", "model.causal=false"],
    "infill": ["objective=infill", "packing=best_fit"],
}


# Processes -----------------------------------------------------------------------------------------------------------


def spawn(work: Callable[[], Any], log: Path, environment: dict[str, str] | None = None) -> int:
    """Fork a process that does `work`, prints to `log` and ends as a command would; returns its id."""
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
        os.environ.update(environment or {})
        run_main(lambda argv: work())
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # as the interpreter would: the traceback, and exit code 1
        sys.excepthook(*sys.exc_info())
    finally:
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()  # as the interpreter does
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(code)


def wait(process: int, seconds: float = PATIENCE) -> int | None:
    """The exit code (minus the signal that ended it); None, after SIGKILL, for one that did not end in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start_ranks(work: Callable[[], Any], world: int, log: Path) -> list[int]:
    """Fork `world` processes that find each other as those of torchrun do."""
    if world == 1:
        return [spawn(work, log)]
    shared = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    shared["MASTER_PORT"] = free_port()
    return [spawn(work, log, {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(world)]


# Runs ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """One run below `folder`: what it trains, on how many ranks. Starting it again continues it."""

    folder: Path
    kind: str
    world: int = 1
    overrides: tuple[str, ...] = ()
    base: Path = field(default=Path())  # the laboratory: corpus, conversations, a pretrained model

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def config(self) -> Any:
        """The configuration, data folder and run folder included."""
        if self.kind == "sft":
            options = [
                f"init={self.base / 'start' / 'run'}", f"data.paths=['{self.base / 'chats.jsonl'}']",
                "data.validation=0.2", "asked=2", "answer_tokens=4",
            ]  # fmt: skip
            return load(sft.SftConfig, None, [f"run={self.run}", *options, *TRAINING, *self.overrides])
        options = [
            f"data.corpus.paths=['{self.base / 'corpus'}']", f"data.folder={self.folder / 'data'}",
            "data.tokenizer.vocab_size=400", "data.split.validation=0.1", *MODEL, *OBJECTIVES[self.kind],
        ]  # fmt: skip
        return load(pretrain.PretrainConfig, None, [f"run={self.run}", *options, *TRAINING, *self.overrides])

    def arguments(self) -> list[str]:
        """The command line, after writing the configuration file that it names."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "trial.toml"
        path.write_text(dumps(self.config()), "utf-8")
        return [str(path)]

    def start(self) -> list[int]:
        arguments, main = self.arguments(), STAGES["sft" if self.kind == "sft" else "pretrain"]
        return start_ranks(lambda: main(arguments), self.world, self.log)

    def complete(self) -> list[int | None]:
        """Start and wait: the exit codes of all ranks."""
        return [wait(process) for process in self.start()]

    def torchrun(self, *options: str) -> subprocess.Popen:
        """The same under torchrun."""
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.world}"]
        module = "train.sft" if self.kind == "sft" else "train.pretrain"
        arguments = self.arguments()
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [*command, *options, "-m", module, *arguments],
                stdout=log, stderr=log, cwd=Path(__file__).parents[2],
            )  # fmt: skip

    def said(self) -> str:
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def state(self) -> TrainState:
        return TrainState.from_json(newest_intact(self.run, [STATE])[1][STATE])

    def steps_logged(self) -> int:
        path = self.run / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0


@dataclass
class Laboratory:
    """What all trials share, below `folder`: a corpus, conversations of unequal length, and a model to tune."""

    folder: Path
    seed: int = 0

    def __post_init__(self) -> None:
        draw = random.Random(self.seed)
        corpus = self.folder / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        for number in range(120):
            text = " ".join(draw.choices(WORDS, k=draw.randint(5, 60)))
            (corpus / f"{number:04d}.txt").write_text(text + ".\n", "utf-8")
        rows = [{"instruction": f"Name {i}.", "output": "value " * draw.randint(1, 7)} for i in range(60)]
        write_rows(self.folder / "chats.jsonl", rows)
        started = self.trial("start", "causal", 1, "train.steps=4", "train.evaluate_every=0")
        if any(started.complete()):
            raise RuntimeError(f"the pretrained model of the trials could not be made:\n{started.said()}")
        self._whole: dict[tuple, Trial] = {}
        self.seconds: dict[tuple, float] = {}

    def trial(self, name: str, kind: str, world: int = 1, *overrides: str) -> Trial:
        return Trial(self.folder / name, kind, world, overrides, self.folder)

    def whole(self, kind: str, world: int, *overrides: str) -> Trial:
        """The uninterrupted run of that kind; made once. `seconds` then knows how long it took."""
        key = (kind, world, *overrides)
        if key not in self._whole:
            trial = self.trial(f"whole-{len(self._whole)}", kind, world, *overrides)
            started = time.monotonic()
            if any(trial.complete()):
                raise RuntimeError(f"the uninterrupted run {key} failed:\n{trial.said()}")
            self.seconds[key] = time.monotonic() - started
            self._whole[key] = trial
        return self._whole[key]


# Comparison ----------------------------------------------------------------------------------------------------------


def difference(one: Trial, other: Trial) -> str | None:
    """In what two finished runs differ: weights or optimizer in one bit, state, logged figures; None for nothing."""
    folders, files = zip(*(newest_intact(trial.run) for trial in (one, other)))
    if folders[0].name != folders[1].name:
        return f"one ends with {folders[0].name}, the other with {folders[1].name}"
    for name in (WEIGHTS, OPTIMIZER):
        if files[0][name] != files[1][name]:
            return f"{name} differs"
    states = [vars(TrainState.from_json(found[STATE])) | {"seconds": 0.0} for found in files]
    if states[0] != states[1]:
        return f"{[name for name in states[0] if states[0][name] != states[1][name]]} of the state differ"
    records = [[(r["kind"], r["step"], content(r)) for r in read_metrics(trial.run)] for trial in (one, other)]
    if records[0] != records[1]:
        parted = next((a for a, b in zip(*records) if a != b), "the number of records")
        return f"metrics.jsonl differs: {parted}"
    return None


def stop_with(trial: Trial, number: int, after: int, everyone: bool = True) -> tuple[list[int | None], int]:
    """Start, wait until so many steps are logged, signal all ranks or the last; the exit codes, and steps logged."""
    processes = trial.start()
    with never_left(processes):
        deadline = time.monotonic() + 60
        while trial.steps_logged() < after and time.monotonic() < deadline:
            time.sleep(0.001)
        for process in processes if everyone else processes[-1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
        return [wait(process) for process in processes], trial.steps_logged()


# Results -------------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """A promise, how it was tried, how often, and how often it held. `failures` says what happened instead.

    key: names the promise where peers were tried too (`peers`).
    """

    promise: str
    how: str
    key: str = ""
    tried: int = 0
    held: int = 0
    failures: list[str] = field(default_factory=list)

    def count(self, problem: str | None, times: int = 1) -> None:
        """Count a trial: `problem` is None when the promise held."""
        self.tried += times
        if problem is None:
            self.held += times
        else:
            self.failures.append(problem)

    @property
    def kept(self) -> bool:
        return self.tried > 0 and self.held == self.tried


def with_codes(codes: Sequence[int | None], expected: int = 0) -> str | None:
    """What is wrong with the exit codes of a job."""
    return None if all(code == expected for code in codes) else f"exit codes {list(codes)}, not {expected}"


@contextlib.contextmanager
def never_left(processes: list[int]) -> Iterator[None]:
    """Kill what is still there of these processes when the block ends."""
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(ChildProcessError):  # it was waited for: its number may be another's now
                if os.waitpid(process, os.WNOHANG) == (0, 0):
                    os.kill(process, signal.SIGKILL)
                    os.waitpid(process, 0)
