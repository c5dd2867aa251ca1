"""Tensors and checkpoints on disk: complete, verified, and never executed on load.

A tensor file has the layout of safetensors (8 bytes: length of the header; JSON header with dtype, shape and place of
each tensor; raw little-endian numbers), so other tools can read it; this is our own reader and writer, with no
dependency and no pickle.

A checkpoint is a folder `RUN/checkpoints/step-00000100/` of such files, JSON and the tokenizer, with a
`manifest.json` that holds size and sha256 of each. It is written under a temporary name, synced, and renamed: what
has the final name is complete. On load every hash is checked; of several checkpoints the newest intact one is used.

What it leaves out: files are made and checked in memory, which must hold a checkpoint twice; one process writes it.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

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


def encode_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of a tensor file. The tensors may have any shape and the dtypes in `DTYPES`."""
    header, chunks, offset = {}, [], 0
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
    """The tensors in the bytes of a tensor file. Raises UserError when they are not one."""
    try:
        size = int.from_bytes(raw[:8], "little")
        if not 2 <= size <= len(raw) - 8:
            raise ValueError("the length of its header is wrong")
        header = json.loads(raw[8 : 8 + size])
        header.pop("__metadata__", None)  # other programs' remarks
        data = memoryview(raw)[8 + size :]
        tensors = {key: _tensor(data, **entry) for key, entry in header.items()}
        if sum(tensor.nbytes for tensor in tensors.values()) != len(data):
            raise ValueError("its length is wrong")
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{name} is not a tensor file or is damaged ({error}); use another checkpoint") from None
    return tensors


def _tensor(data: memoryview, dtype: str, shape: list[int], data_offsets: list[int]) -> Tensor:
    start, end = data_offsets
    count = math.prod(shape)
    if not 0 <= start <= end <= len(data) or end - start != count * DTYPES[dtype].itemsize:
        raise ValueError("a tensor lies outside")
    if not count:
        return torch.empty(shape, dtype=DTYPES[dtype])
    return torch.frombuffer(bytearray(data[start:end]), dtype=DTYPES[dtype]).reshape(shape)


# Folders -------------------------------------------------------------------------------------------------------------


def write_folder(folder: str | Path, files: Mapping[str, bytes]) -> None:
    """Write `files` as a folder that appears complete or not at all; a folder of that name is replaced.

    Raises UserError when the disk is full, after removing what was written.
    """
    manifest = {name: {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()} for name, raw in files.items()}
    with whole_folder(folder) as new:
        for name, raw in files.items():
            (new / name).write_bytes(raw)
        (new / MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")


def read_folder(folder: str | Path, names: Sequence[str] | None = None) -> dict[str, bytes]:
    """The files of a checkpoint folder (all, or `names`), each compared with its hash in the manifest.

    Raises UserError for a folder that is missing, incomplete or damaged.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest.items()}
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} is not a checkpoint (it has no {MANIFEST})") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{folder}/{MANIFEST} is damaged; use another checkpoint") from None
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
    folders = (Path(run) / "checkpoints").glob("step-*")
    return sorted(folders, key=lambda folder: (len(folder.name), folder.name))  # 100,000,000 has a digit more


def newest_intact(run: str | Path, names: Sequence[str] | None = None) -> tuple[Path, dict[str, bytes]] | None:
    """The newest checkpoint of a run that is complete and undamaged, and its files (all, or `names`).

    None when the run has no checkpoint. Damaged ones are named on stderr. Raises UserError when every one is damaged.
    """
    folders = list_checkpoints(run)
    for folder in reversed(folders):
        try:
            return folder, read_folder(folder, names)
        except UserError as error:
            print(f"warning: {error}", file=sys.stderr)
    if folders:
        raise UserError(f"none of the {len(folders)} checkpoints in {run} is intact; start the run anew")
    return None
