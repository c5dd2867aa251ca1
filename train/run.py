"""The run folder: what a stage writes, and what the next stage, a resumed run and a reader find there.

    config.toml         the resolved configuration; `load` of it starts an identical run
    metrics.jsonl       one object a line: {"kind": "train" | "evaluation", "step", ...}
    checkpoints/        step-00000100/ and so on: model, optimizer, state, tokenizer (see `model.storage`)

Starting a run whose folder exists continues it: from the newest intact checkpoint, if the configuration is the same.
What `metrics.jsonl` says about steps after that checkpoint is removed, so that no step appears twice.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs import UserError, dumps, read_toml, to_dict
from data.files import whole_file

OPTIMIZER, STATE = "optimizer.safetensors", "state.json"
# Settings that change how a run is watched and executed, not what it computes: a continued run may change them.
FREE = {
    "run",
    "device",
    "micro_batch",
    "parallel",
    "activation_checkpointing",
    "threads",
    "log_every",
    "evaluate_every",
    "save_every",
    "keep",
    "stall_seconds",
    "faults",
    "norms",
    "track",
}


@dataclass
class TrainState:
    """Where a run is; with the weights and the optimizer's tensors it is all that a resumed run needs.

    Data order, masking and dropout are pure functions of (seed, samples_seen) and (seed, step): no generator is saved.
    """

    step: int = 0
    samples_seen: int = 0
    targets_seen: int = 0
    seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    world: int = 1
    finished: bool = False
    best_loss: float = math.inf
    best_step: int = 0
    guard: list[list[float]] = field(default_factory=list)

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self), indent=1).encode()

    def require_finished(self, run: str | Path) -> None:
        """Raises UserError where training was interrupted: what comes next is to be done with the whole run."""
        if not self.finished:
            raise UserError(f"{run}: interrupted at step {self.step}; the same command goes on")

    @classmethod
    def from_json(cls, raw: bytes) -> TrainState:
        """Raises UserError when `raw` is not a state of this version."""
        try:
            values = json.loads(raw)
            state = cls(**values)
            wrong = [f.name for f in dataclasses.fields(cls) if not _is_like(getattr(state, f.name), f)]
            wrong += [name for name in ("step", "samples_seen") if name not in values]
            if wrong:
                raise ValueError(f"see {', '.join(wrong)}")
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"the training state of the checkpoint is not of this version ({error})") from None
        return state


def _is_like(value: Any, field: dataclasses.Field) -> bool:
    """Whether a stored value can be that of a field: numbers not below zero, flags, pairs of numbers."""
    if field.name == "guard":
        pairs = isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)
        return pairs and all(type(number) in (int, float) for pair in value for number in pair)
    if type(field.default) is bool:
        return type(value) is bool
    kinds = (int, float) if type(field.default) is float else (int,)
    return type(value) in kinds and (value >= 0 or field.name == "best_loss")


class RunFolder:
    """A run on disk. Only the main rank writes."""

    def __init__(self, path: str | Path, is_main: bool = True):
        self.path, self.is_main = Path(path), is_main
        self.tracker = None  # a `train.track.Tracker`, when the run has one
        self._metrics = None

    def check(self, config: Any, fresh: bool = False) -> None:
        """Raise UserError when the folder holds a run of another configuration (naming the first differences), or,
        with `fresh`, something that is no run. Nothing is written. The main rank checks for all.
        """
        if not self.is_main:
            return
        stored = self.path / "config.toml"
        if fresh:
            if self.path.exists() and not stored.exists() and any(self.path.iterdir()):
                raise UserError(f"{self.path} is not a run folder, it is not deleted; choose another run=FOLDER")
        elif stored.exists():
            before, now = flatten(read_toml(stored)), flatten(to_dict(config))
            changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
            changed = [key for key in changed if key.rpartition(".")[2] not in FREE]
            if changed:
                named = ", ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in changed[:4])
                raise UserError(
                    f"{self.path} holds a run with other settings ({named}); "
                    "add --fresh to replace it, or choose run=FOLDER"
                )

    def open(self, config: Any, fresh: bool = False) -> None:
        """Create the folder and write `config.toml`; with `fresh`, what was there is deleted first."""
        self.check(config, fresh)
        if self.is_main:
            if fresh:
                shutil.rmtree(self.path, ignore_errors=True)
            write_text(self.path / "config.toml", dumps(config))

    def log(self, record: dict[str, Any]) -> None:
        """Append one record to `metrics.jsonl`."""
        if not self.is_main:
            return
        if self._metrics is None:
            self._metrics = open(self.path / "metrics.jsonl", "a", encoding="utf-8", buffering=1)
        self._metrics.write(json.dumps(record) + "\n")
        if self.tracker is not None:
            self.tracker.log(record)

    def forget_after(self, step: int) -> None:
        """Remove records of later steps, and a last line that a crash cut off."""
        path = self.path / "metrics.jsonl"
        if self.is_main and path.exists():
            kept = [json.dumps(record) + "\n" for record in read_metrics(self.path) if record["step"] <= step]
            write_text(path, "".join(kept))


def read_metrics(run: str | Path) -> list[dict[str, Any]]:
    """The records of a run; lines that a crash left incomplete are passed over."""
    records = []
    for line in (Path(run) / "metrics.jsonl").read_text("utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def refuse_others(
    folder: Path, files: Mapping[str, bytes], ours: Mapping[str, bytes], unlike: Collection[str] = ()
) -> None:
    """Raise UserError when a checkpoint lacks one of our files, or has another one (but for those in `unlike`).

    The same settings give another tokenizer when the corpus has changed; what was learnt with the old one would be
    read with the new one.
    """
    for name, raw in ours.items():
        if name not in files:
            raise UserError(f"the checkpoint {folder} has no {name}; delete it, then an older one is used")
        if name not in unlike and files[name] != raw:
            raise UserError(
                f"{folder}/{name} is not that of this run: its data or its model have changed since; restore them, "
                "or add --fresh to start anew"
            )


def write_text(path: Path, text: str) -> None:
    """Write a file that appears complete or not at all."""
    with whole_file(path) as file:
        file.write(text.encode())


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
