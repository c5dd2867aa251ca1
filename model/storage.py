"""Tensors and checkpoints on disk: complete, verified, and never executed on load.

A tensor file has the layout of safetensors (8 bytes: length of the header; JSON header with dtype, shape and place of
each tensor; raw little-endian numbers), so other tools can read it; this is our own reader and writer, with no
dependency and no pickle.

A checkpoint is a folder `RUN/checkpoints/step-00000100/` of such files, JSON and the tokenizer, with a
`manifest.json` that holds size and sha256 of each. It is written under a temporary name, synced, and renamed: what
has the final name is complete. On load every hash is checked; of several checkpoints the newest intact one is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from configs import UserError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MANIFEST = "manifest.json"
LONGEST_HEADER = 100 << 20


def encode_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of a tensor file."""
    header, chunks, offset = {}, [], 0
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        raw = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
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
        if not 2 <= size <= min(len(raw) - 8, LONGEST_HEADER):
            raise ValueError("length of the header")
        header = json.loads(raw[8 : 8 + size])
        return {key: _tensor(raw, 8 + size, entry) for key, entry in header.items() if key != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{name} is not a tensor file or is damaged ({error}); use another checkpoint") from None


def _tensor(raw: bytes, base: int, entry: dict) -> Tensor:
    dtype, shape, (start, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    count = int(np.prod(shape, dtype=np.int64))
    if not 0 <= start <= end <= len(raw) - base or min(shape, default=0) < 0 or end - start != count * dtype.itemsize:
        raise ValueError("place of a tensor")
    data = np.frombuffer(raw, np.uint8, end - start, base + start).copy()
    return torch.from_numpy(data).view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)


# Folders -------------------------------------------------------------------------------------------------------------


def write_folder(folder: str | Path, files: Mapping[str, bytes]) -> None:
    """Write `files` as a folder that appears complete or not at all; a folder of that name is replaced.

    Raises UserError when the disk is full, after removing what was written.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        manifest = {name: {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()} for name, raw in files.items()}
        for name, raw in {**files, MANIFEST: json.dumps(manifest, indent=1).encode()}.items():
            with open(temporary / name, "wb") as handle:
                handle.write(raw)
                handle.flush()
                os.fsync(handle.fileno())
        _sync_folder(temporary)
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(temporary, folder)
        _sync_folder(folder.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f"cannot write {folder} ({error.strerror}); free some space or choose another folder") from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_folder(folder: str | Path, names: list[str] | None = None) -> dict[str, bytes]:
    """The files of a checkpoint folder (all, or `names`), each compared with its hash in the manifest.

    Raises UserError for a folder that is missing, incomplete or damaged.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest.items()}
    except FileNotFoundError:
        raise UserError(f"{folder} is not a checkpoint (it has no {MANIFEST})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{folder}/{MANIFEST} is damaged; use another checkpoint") from None
    files = {}
    for name in expected if names is None else names:
        if name not in expected or "/" in name:
            raise UserError(f"the checkpoint {folder} has no {name}")
        try:
            raw = (folder / name).read_bytes()
        except FileNotFoundError:
            raise UserError(f"{folder}/{name} is missing; use another checkpoint") from None
        if (len(raw), hashlib.sha256(raw).hexdigest()) != expected[name]:
            raise UserError(f"{folder}/{name} is damaged: its hash is not that of the manifest; use another checkpoint")
        files[name] = raw
    return files


def checkpoint_folder(run: str | Path, step: int) -> Path:
    return Path(run) / "checkpoints" / f"step-{step:08d}"


def list_checkpoints(run: str | Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first."""
    return sorted((Path(run) / "checkpoints").glob("step-*"))


def newest_intact(run: str | Path, names: list[str] | None = None) -> tuple[Path, dict[str, bytes]] | None:
    """The newest checkpoint of a run that is complete and undamaged, with its files; None when the run has none at all.

    Damaged ones are named on stderr. Raises UserError when there are checkpoints and every one is damaged.
    """
    folders = list_checkpoints(run)
    for folder in reversed(folders):
        try:
            return folder, read_folder(folder, names)
        except UserError as error:
            print(f"warning: {error}; looking for an older one", file=sys.stderr)
    if folders:
        raise UserError(f"none of the {len(folders)} checkpoints in {run} is intact; start the run anew")
    return None
