"""Checkpoints of a run: written beside the training, kept sparingly, looked at from the command line.

    python -m train.checkpoint list RUN              every checkpoint: step, size, intact or not
    python -m train.checkpoint verify RUN            check every hash; exit code 1 when one is damaged
    python -m train.checkpoint show RUN [--step N]   what is in one: state, model, tensors
    python -m train.checkpoint prune RUN --keep N    delete all but the newest N (and the best)

`Saver` takes the bytes of a checkpoint, which are a copy of that moment, and writes them in a thread, so that the
next step does not wait for the disk. A save that fails (a full disk, say) is tried again, then reported, and training
goes on with the older checkpoints; only the last save of a run must succeed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from configs import UserError, run_main
from model.load import DESCRIPTION, WEIGHTS
from model.storage import checkpoint_folder, decode_tensors, list_checkpoints, read_folder, write_folder
from train.faults import Faults
from train.run import OPTIMIZER, STATE, TrainState

ATTEMPTS = 3
PAUSE_SECONDS = 0.5  # between attempts


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def prune(run: str | Path, keep: int, best_step: int = 0) -> list[Path]:
    """Delete all but the newest `keep` checkpoints and that of `best_step`; 0 keeps all. Returns what was deleted."""
    if not keep:
        return []
    surplus = [folder for folder in list_checkpoints(run)[:-keep] if step_of(folder) != best_step]
    for folder in surplus:
        shutil.rmtree(folder, ignore_errors=True)
    return surplus


class Saver:
    """Writes checkpoints of one run, one at a time, in a thread."""

    def __init__(self, run: Path, keep: int, faults: Faults):
        self.run, self.keep, self.faults = run, keep, faults
        self._thread: threading.Thread | None = None
        self._error: UserError | None = None

    def save(self, step: int, files: Mapping[str, bytes], best_step: int = 0) -> None:
        """Begin to write; waits first for the write before, whose failure is only reported."""
        self._join()
        self._report()
        self._thread = threading.Thread(target=self._write, args=(step, files, best_step), name="saver")
        self._thread.start()

    def finish(self) -> None:
        """Wait for the last write. Raises UserError when it failed."""
        self._join()
        if self._error:
            raise self._error

    def _join(self) -> None:
        if self._thread:
            self._thread.join()
            self._thread = None

    def _report(self) -> None:
        if self._error:
            print(f"warning: {self._error}; training goes on with the older checkpoints", file=sys.stderr)
            self._error = None

    def _write(self, step: int, files: Mapping[str, bytes], best_step: int) -> None:
        for attempt in range(ATTEMPTS):
            try:
                self.faults.on_write(step)
                write_folder(checkpoint_folder(self.run, step), files)
                self.faults.after_write(checkpoint_folder(self.run, step), step)
                self._error = None
                prune(self.run, self.keep, best_step)
                return
            except (UserError, OSError) as error:
                self._error = error if isinstance(error, UserError) else UserError(f"cannot save step {step}: {error}")
                if attempt + 1 < ATTEMPTS:
                    time.sleep(PAUSE_SECONDS)


# The command ---------------------------------------------------------------------------------------------------------


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None when every hash is right."""
    try:
        read_folder(folder)
    except UserError as error:
        return str(error)
    return None


def _folders(run: str) -> list[Path]:
    folders = list_checkpoints(run)
    if not folders:
        raise UserError(f"there is no checkpoint in {run}; give the folder of a run that has trained")
    return folders


def list_command(run: str) -> int:
    """A line for each checkpoint; 1 when one is damaged."""
    damaged = 0
    for folder in _folders(run):
        size = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
        problem = damage(folder)
        damaged += problem is not None
        print(f"{folder.name}  {size:9.1f} MiB  {problem or 'intact'}")
    return int(damaged > 0)


def show_command(run: str, step: int | None) -> None:
    """State, model and tensors of one checkpoint (the newest)."""
    folders = _folders(run)
    chosen = [folder for folder in folders if step in (None, step_of(folder))]
    if not chosen:
        raise UserError(f"{run} has no checkpoint of step {step}; it has {', '.join(str(step_of(f)) for f in folders)}")
    files = read_folder(chosen[-1])
    state = vars(TrainState.from_json(files[STATE]))
    print(chosen[-1])
    print("\n".join(f"  {key} = {value}" for key, value in state.items() if key != "guard"))
    print(json.dumps(json.loads(files[DESCRIPTION]), indent=1))
    for name in (WEIGHTS, OPTIMIZER):
        tensors = decode_tensors(files[name], name)
        print(f"{name}: {len(tensors)} tensors, {sum(t.numel() for t in tensors.values()):,} numbers")
        for key, tensor in sorted(tensors.items()):
            print(f"  {key:60}{tuple(tensor.shape)!s:>16}  {str(tensor.dtype).removeprefix('torch.')}")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.checkpoint", description="Look at the checkpoints of a run.")
    parser.add_argument("command", choices=("list", "verify", "show", "prune"))
    parser.add_argument("run", help="run folder")
    parser.add_argument("--step", type=int, help="show: which checkpoint (the newest)")
    parser.add_argument("--keep", type=int, help="prune: how many of the newest stay")
    arguments = parser.parse_args(argv)
    if arguments.command == "show":
        show_command(arguments.run, arguments.step)
        return 0
    if arguments.command in ("list", "verify"):
        return list_command(arguments.run)
    if arguments.keep is None or arguments.keep < 1:
        raise UserError("prune needs --keep N with N of at least 1")
    newest = read_folder(_folders(arguments.run)[-1], [STATE])
    for folder in prune(arguments.run, arguments.keep, TrainState.from_json(newest[STATE]).best_step):
        print(f"deleted {folder}")
    return 0


if __name__ == "__main__":
    run_main(main)
