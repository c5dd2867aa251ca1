"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from configs import UserError


@contextlib.contextmanager
def full_disk_explained(path: str | Path) -> Iterator[None]:
    """Turn the `OSError` of a full disk, while `path` is written, into a `UserError` with a remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"no space left to write {path} ({error.strerror}); free some, or choose a folder on another disk"
        ) from None


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a binary file for writing under a temporary name beside `path`; it gets its name when the block ends well.

    An error removes the temporary file and leaves what stood at `path` before; a full disk is a `UserError`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with full_disk_explained(path), temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: str | Path, replace: bool = True) -> Iterator[Path]:
    """Give a new folder to fill; it is synced and gets the name `path` when the block ends well.

    replace: a folder of that name gives way, and what a killed process left of an earlier attempt is removed. With
    False the folder that is there first stays and the new one is dropped: of several processes that make the same
    thing at the same time, on whichever machines, the first one wins.
    An error removes the new folder and leaves what stood at `path`; a full disk is a `UserError`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp") if replace else ():
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with full_disk_explained(path):
            temporary.mkdir()
            yield temporary
            for written in (*temporary.iterdir(), temporary):
                _sync(written)
            _publish(temporary, path, replace)
            _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: Path, path: Path, replace: bool) -> None:
    """Rename, which never overwrites a folder that holds something: an older one is moved aside before."""
    aside = temporary.with_suffix(".old")
    if replace and path.is_dir():
        path.rename(aside)
    try:
        temporary.rename(path)
    except BaseException as error:
        if aside.exists():
            aside.rename(path)
        was_second = isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST)
        if replace or not was_second:
            raise
    shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
