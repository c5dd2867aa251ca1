"""Checkpoints of a run: written beside the training, kept sparingly, looked at from the command line.

    python -m train.checkpoint list RUN              every checkpoint: step, size, intact or not
    python -m train.checkpoint verify RUN            check every hash; exit code 1 when one is damaged
    python -m train.checkpoint show RUN [--step N]   what is in one: state, model, tensors
    python -m train.checkpoint prune RUN --keep N    delete all but the newest N (and the best)

`Saver` takes the bytes of a checkpoint, which are a copy of that moment, and writes them in a thread, so that the
next step does not wait for the disk. A save that fails (a full disk, say) is tried again, then reported, and training
goes on with the older checkpoints; only the last save of a run must succeed.

In a sharded run each rank has files to write. They go to one temporary folder; the main rank waits until all have said
that theirs are on the disk, with their hashes, and only then writes the manifest and renames the folder. So the run
folder must lie on a file system that all machines see, and a checkpoint is whole for all ranks or for none.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from configs import UserError, run_main
from data.files import whole_folder
from model.load import DESCRIPTION, WEIGHTS
from model.storage import (
    checkpoint_folder,
    decode_tensors,
    list_checkpoints,
    read_folder,
    read_manifest,
    write_files,
    write_folder,
    write_manifest,
)
from train.distributed import Post, Ranks
from train.faults import Faults
from train.pieces import optimizer_files, whole_state
from train.run import STATE, TrainState

ATTEMPTS = 3
PAUSE_SECONDS = 0.5  # between attempts
WRITTEN = "written"


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


def newest_for_all(run: str | Path, ranks: Ranks, sharded: bool) -> tuple[Path, dict[str, bytes]] | None:
    """The newest checkpoint of a run that every rank finds intact, and the files that this rank needs.

    These are all files; in a sharded run, whose ranks read only their rows of the optimizer's state (`train.pieces`),
    each rank checks every so many of its files. None when the run has no checkpoint. Damaged ones are named on stderr.
    Raises UserError when every one is damaged.
    """
    names = ranks.from_main([folder.name for folder in list_checkpoints(run)])
    for name in reversed(names):
        folder, files = Path(run) / "checkpoints" / name, {}
        try:
            wanted = list(read_manifest(folder))
            if sharded:
                others = set(optimizer_files(wanted)) - set(optimizer_files(wanted)[ranks.rank :: ranks.world])
                wanted = [file for file in wanted if file not in others]
            files = read_folder(folder, wanted)
        except UserError as error:
            print(f"warning: {error}", file=sys.stderr)
        if not ranks.any(not files):
            return folder, files
    if names:
        raise UserError(f"none of the {len(names)} checkpoints in {run} is intact; start the run anew")
    return None


class Saver:
    """Writes checkpoints of one run, one at a time, in a thread. post: to the other ranks, where all of them write."""

    def __init__(self, run: Path, keep: int, faults: Faults, post: Post | None = None):
        self.run, self.keep, self.faults, self.post = run, keep, faults, post
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
            if self.post is None or self.post.is_main:
                print(f"warning: {self._error}; training goes on with the older checkpoints", file=sys.stderr)
            self._error = None

    def _write(self, step: int, files: Mapping[str, bytes], best_step: int) -> None:
        for attempt in range(ATTEMPTS):
            try:
                self._write_once(step, files, f"{step}/{attempt}")
                self._error = None
                if self.post is None or self.post.is_main:
                    prune(self.run, self.keep, best_step)
                return
            except (UserError, OSError) as error:
                self._error = error if isinstance(error, UserError) else UserError(f"cannot save step {step}: {error}")
                if attempt + 1 < ATTEMPTS:
                    time.sleep(PAUSE_SECONDS)

    def _write_once(self, step: int, files: Mapping[str, bytes], topic: str) -> None:
        folder = checkpoint_folder(self.run, step)
        if self.post is None:
            self.faults.on_write(step)
            write_folder(folder, files)
        else:
            write_together(folder, files, self.post, topic, lambda: self.faults.on_write(step))
        if self.post is None or self.post.is_main:
            self.faults.after_write(folder, step)


def write_together(
    folder: Path, files: Mapping[str, bytes], post: Post, topic: str, before: Callable[[], None] = lambda: None
) -> None:
    """Write a checkpoint of which every rank has some files; it appears complete or not at all.

    All ranks call it, with the same `topic`, which must be new. before: called first, and may raise.
    Raises UserError on all ranks when one of them could not write its files.
    """
    if not post.is_main:
        _write_part(files, post, topic, before)
        return
    result, begun = WRITTEN, False
    try:
        with whole_folder(folder) as new:
            post.say(f"{topic}/folder", str(new))
            begun = True
            before()
            manifest = write_files(new, files)
            for rank in range(1, post.world):
                part = json.loads(post.hear(f"{topic}/part", rank))
                if "error" in part:
                    raise UserError(f"rank {rank} cannot write to {folder}: {part['error']}")
                manifest |= part
            write_manifest(new, manifest)
    except (UserError, OSError) as error:
        result = str(error)
        raise
    finally:
        if not begun:
            post.say(f"{topic}/folder", "none")
        post.say(f"{topic}/result", result)


def _write_part(files: Mapping[str, bytes], post: Post, topic: str, before: Callable[[], None]) -> None:
    """What a rank that is not the main one does in `write_together`."""
    folder = post.hear(f"{topic}/folder", 0)
    if folder != "none":
        try:
            before()
            part = write_files(Path(folder), files)
        except OSError as error:
            part = {"error": str(error.strerror)}
        post.say(f"{topic}/part", json.dumps(part))
    result = post.hear(f"{topic}/result", 0)
    if result != WRITTEN:
        raise UserError(result)


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
    optimizer = optimizer_files(files)
    state = whole_state(files, chosen[-1])
    shown = {WEIGHTS: decode_tensors(files[WEIGHTS], WEIGHTS), " + ".join(optimizer): state}
    for name, tensors in shown.items():
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
