"""Tensors and checkpoints on disk: complete, verified, and never executed on load.

A tensor file has the layout of safetensors (8 bytes: length of the header; JSON header with dtype, shape and place of
each tensor; raw little-endian numbers), so other tools can read it; this is our own reader and writer, with no
dependency and no pickle. A file may hold pieces of tensors (of a sharded run, each rank writes its own); then the
header's remarks say where in the whole each piece lies, and `join_pieces` puts them together.

A checkpoint is a folder `RUN/checkpoints/step-00000100/` of such files, JSON and the tokenizer, with a
`manifest.json` that holds size and sha256 of each. It is written under a temporary name, synced, and renamed: what
has the final name is complete. On load every hash is checked; of several checkpoints the newest intact one is used.

What it leaves out: files are made and checked in memory, which must hold a checkpoint twice. How several processes
write one is in `train.checkpoint`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from configs import UserError
from data.files import whole_folder

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MANIFEST = "manifest.json"
PIECES = "pieces"  # the remark in a header that says what is a piece of what


class Piece(NamedTuple):
    """Where a stored tensor lies in the whole one: its first element's place, and the shape of the whole."""

    offsets: tuple[int, ...]
    whole: tuple[int, ...]


class Entry(NamedTuple):
    """What a header says of one tensor; its numbers are the bytes `start` to `end` of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int
    piece: Piece


def encode_tensors(tensors: Mapping[str, Tensor], pieces: Mapping[str, Piece] | None = None) -> bytes:
    """The bytes of a tensor file. The tensors may have any shape and the dtypes in `DTYPES`.

    pieces: which of the tensors are pieces of larger ones, and where they lie in these.
    """
    header: dict[str, Any] = {}
    if pieces:
        header["__metadata__"] = {PIECES: json.dumps(pieces)}  # the format wants text
    chunks, offset = [], 0
    for name, tensor in tensors.items():
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(raw)],
        }
        chunks.append(raw)
        offset += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *chunks])


def decode_tensors(raw: bytes, name: str = "tensor file") -> dict[str, Tensor]:
    """The tensors in the bytes of a tensor file, pieces as they are. Raises UserError when they are not one."""
    entries = read_header(raw, len(raw), name)
    data = memoryview(raw)
    return {key: tensor_of(entry, data[entry.start : entry.end]) for key, entry in entries.items()}


def read_header(raw: bytes, size: int, name: str = "tensor file") -> dict[str, Entry]:
    """What lies where in a tensor file of `size` bytes that begins with `raw` (at least 8 bytes and the header).

    Raises UserError when the header is damaged, or the tensors do not fill the file exactly.
    """
    try:
        length = int.from_bytes(raw[:8], "little")
        if not 2 <= length <= len(raw) - 8:
            raise ValueError("the length of its header is wrong")
        header = json.loads(raw[8 : 8 + length], object_pairs_hook=_unlike_names)
        remarks = header.pop("__metadata__", None) or {}  # other programs have remarks of their own
        pieces = json.loads(remarks.get(PIECES, "{}"))
        entries = {key: _entry(8 + length, pieces.get(key), **entry) for key, entry in header.items()}
        if any(entry.end > size for entry in entries.values()):
            raise ValueError("a tensor lies outside")
        if sum(entry.end - entry.start for entry in entries.values()) != size - 8 - length:
            raise ValueError("its length is wrong")
        places = sorted((entry.start, entry.end) for entry in entries.values())
        if any(end > start for (_, end), (start, _) in itertools.pairwise(places)):
            raise ValueError("two tensors share their numbers")
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
        raise UserError(f"{name} is not a tensor file or is damaged ({error}); use another checkpoint") from None
    return entries


def _unlike_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name is given twice")
    return dict(pairs)


def _entry(base: int, piece: Any, dtype: str, shape: list[int], data_offsets: list[int]) -> Entry:
    start, end = data_offsets
    if not 0 <= start <= end or end - start != math.prod(shape) * DTYPES[dtype].itemsize:
        raise ValueError("a tensor lies outside")
    offsets, whole = piece or ([0] * len(shape), shape)
    if any(not 0 <= o <= o + n <= w for o, n, w in zip(offsets, shape, whole, strict=True)):
        raise ValueError("a piece lies outside its tensor")
    place = Piece(torch.Size(offsets), torch.Size(whole))
    return Entry(DTYPES[dtype], torch.Size(shape), base + start, base + end, place)


def tensor_of(entry: Entry, raw: bytes | memoryview) -> Tensor:
    """The tensor whose bytes these are, in memory of its own."""
    if not raw:
        return torch.empty(entry.shape, dtype=entry.dtype)
    return torch.frombuffer(bytearray(raw), dtype=entry.dtype).reshape(entry.shape)


def join_pieces(files: Iterable[bytes], name: str = "tensor file") -> dict[str, Tensor]:
    """The whole tensors whose pieces lie in these tensor files. Raises UserError when something is missing."""
    wholes: dict[str, Tensor] = {}
    found: dict[str, int] = {}
    for raw in files:
        for key, entry in read_header(raw, len(raw), name).items():
            whole = wholes.setdefault(key, torch.empty(entry.piece.whole, dtype=entry.dtype))
            place = tuple(slice(o, o + n) for o, n in zip(entry.piece.offsets, entry.shape))
            whole[place] = tensor_of(entry, memoryview(raw)[entry.start : entry.end])
            found[key] = found.get(key, 0) + math.prod(entry.shape)
    for key, whole in wholes.items():
        if found[key] != whole.numel():
            raise UserError(f"{name} has {found[key]} of the {whole.numel()} numbers of {key}; use another checkpoint")
    return wholes


# Folders -------------------------------------------------------------------------------------------------------------


def write_folder(folder: str | Path, files: Mapping[str, bytes]) -> None:
    """Write `files` as a folder that appears complete or not at all; a folder of that name is replaced.

    Raises UserError when the disk is full, after removing what was written.
    """
    with whole_folder(folder) as new:
        write_manifest(new, write_files(new, files))


def write_files(folder: Path, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Write the files into a folder, down to the disk; their part of the manifest."""
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
        with (folder / name).open("rb+") as file:
            os.fsync(file.fileno())
    return {name: {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()} for name, raw in files.items()}


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")


def read_manifest(folder: str | Path) -> dict[str, tuple[int, str]]:
    """Size and hash of each file of a checkpoint.

    Raises UserError for a folder that is none, or damaged; also where a file lies that the manifest does not tell of:
    without its entry the optimizer's state would be missing without a word.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
        entries = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest.items()}
        found = {file.name for file in path.parent.iterdir() if not file.name.startswith(".")}
        if found - entries.keys() - {MANIFEST}:
            raise ValueError
        return entries
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} is not a checkpoint (it has no {MANIFEST})") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path} is damaged; use another checkpoint") from None


def read_folder(folder: str | Path, names: Sequence[str] | None = None) -> dict[str, bytes]:
    """The files of a checkpoint folder (all, or `names`), each compared with its hash in the manifest.

    Raises UserError for a folder that is missing, incomplete or damaged.
    """
    folder, expected = Path(folder), read_manifest(folder)
    files = {}
    for name in expected if names is None else names:
        if name not in expected or Path(name).name != name:
            raise UserError(f"the checkpoint {folder} has no {name}; use another checkpoint")
        try:
            raw = (folder / name).read_bytes()
        except OSError as error:
            raise UserError(f"{folder}/{name} cannot be read ({error.strerror}); use another checkpoint") from None
        if (len(raw), hashlib.sha256(raw).hexdigest()) != expected[name]:
            raise UserError(f"{folder}/{name} is damaged: its hash is not that of the manifest; use another checkpoint")
        files[name] = raw
    return files


def checkpoint_folder(run: str | Path, step: int) -> Path:
    return Path(run) / "checkpoints" / f"step-{step:08d}"


def list_checkpoints(run: str | Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first."""
    folders = (path for path in (Path(run) / "checkpoints").glob("step-*") if path.name[5:].isdecimal())
    return sorted(folders, key=lambda folder: (len(folder.name), folder.name))  # 100,000,000 has a digit more


def files_of_run(path: str | Path, names: Sequence[str]) -> tuple[Path, dict[str, bytes]]:
    """These files of a checkpoint folder, or of the newest intact checkpoint of a run folder, and which that is.

    Raises UserError when there is none, or it lacks one of the files.
    """
    if (Path(path) / MANIFEST).exists():
        return Path(path), read_folder(Path(path), names)
    found = newest_intact(path, names)
    if found is None:
        raise UserError(f"there is no checkpoint in {path}; give the folder of a run that has trained")
    return found


def newest_intact(run: str | Path, names: Sequence[str] | None = None) -> tuple[Path, dict[str, bytes]] | None:
    """The newest checkpoint of a run that is complete and undamaged, and its files (all, or `names`).

    None when the run has no checkpoint. Damaged ones are named on stderr. Raises UserError when every one is damaged.
    """
    while folders := list_checkpoints(run):
        for folder in reversed(folders):
            try:
                return folder, read_folder(folder, names)
            except UserError as error:
                if list_checkpoints(run)[-1:] != folders[-1:]:
                    break  # the run trains: it has deleted this one, and has newer ones
                print(f"warning: {error}", file=sys.stderr)
        else:
            raise UserError(f"none of the {len(folders)} checkpoints in {run} is intact; start the run anew")
    return None
