"""Which implementation is fastest where: the table behind `impl="auto"`, in one place.

A key names device, dtype, kind of mask and pass; its rules are read in order, the first with T below its limit holds
(None: no limit). `plain` masks are those that SDPA knows by a flag: Full, and Causal with T = S; `documents` those
that `kernels.segments` takes apart; `masked` all others.

The built-in rules come from the measurement in results/ (CPU) and, for CUDA, from published ones, see the notes there.
`python -m kernels.bench --calibrate` measures the user's own machine and writes its rules to `calibration_file()`; they
take precedence while machine and PyTorch version are the ones they were measured on. Delete the file to be rid of it.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

import torch

from configs.machine import cpu_name

Rules = tuple[tuple[int | None, str], ...]

BUILT_IN: dict[str, Rules] = {
    "cpu/bfloat16/plain/forward": ((512, "reference"), (None, "blocked")),
    "cpu/bfloat16/plain/train": ((768, "reference"), (None, "blocked")),
    "cpu/bfloat16/masked/forward": ((768, "reference"), (None, "blocked")),
    "cpu/bfloat16/masked/train": ((768, "reference"), (None, "blocked")),
    "cpu/bfloat16/plain/decode": ((None, "decode"),),
    "cpu/bfloat16/masked/decode": ((None, "decode"),),
    "cpu/bfloat16/plain/decode/ungrouped": ((None, "decode"),),
    "cpu/bfloat16/masked/decode/ungrouped": ((None, "decode"),),
    "cpu/bfloat16/documents/forward": ((256, "reference"), (None, "segments")),
    "cpu/bfloat16/documents/train": ((512, "reference"), (2048, "blocked"), (None, "segments")),
    "cpu/float32/masked/forward": ((512, "sdpa"), (None, "blocked")),
    "cpu/float32/masked/train": ((512, "sdpa"), (None, "blocked")),
    "cpu/float32/documents/forward": ((None, "segments"),),
    "cpu/float32/documents/train": ((None, "segments"),),
    "cpu/float32/documents/decode": ((None, "decode"),),
    "cpu/bfloat16/documents/decode": ((None, "decode"),),
    "cpu/float32/plain/decode": ((None, "decode"),),
    "cpu/float32/masked/decode": ((None, "decode"),),
    "cuda/bfloat16/masked/forward": ((1024, "sdpa"), (None, "flex")),
    "cuda/bfloat16/masked/train": ((1024, "sdpa"), (None, "flex")),
    "cuda/float16/masked/forward": ((1024, "sdpa"), (None, "flex")),
    "cuda/float16/masked/train": ((1024, "sdpa"), (None, "flex")),
}
ELSEWHERE: Rules = ((None, "sdpa"),)


@torch.compiler.assume_constant_result
def rules(key: str) -> Rules:
    """The rules of a key: measured on this machine, else built in, else SDPA."""
    return _calibrated().get(key) or BUILT_IN.get(key, ELSEWHERE)


@torch.compiler.assume_constant_result
def source() -> str:
    """Where the rules come from, as the beginning of a sentence."""
    return "Fastest as measured on this machine" if _calibrated() else "Fastest by the built-in table"


def machine() -> dict[str, str | int]:
    """What a calibration holds for."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"cpu": cpu_name(), "threads": torch.get_num_threads(), "gpu": gpu, "torch": torch.__version__}


def calibration_file() -> Path:
    """In the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "zhiling" / "kernels.json"


def write_calibration(table: dict[str, Rules]) -> Path:
    """Store measured rules for this machine; used from the next call of `rules` on."""
    path = calibration_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"machine": machine(), "table": table}, indent=1), encoding="utf-8")
    temporary.replace(path)
    _calibrated.cache_clear()
    return path


@functools.cache
def _calibrated() -> dict[str, Rules]:
    try:
        stored = json.loads(calibration_file().read_text(encoding="utf-8"))
        if stored["machine"] != machine():
            return {}
        return {key: tuple((limit, impl) for limit, impl in rows) for key, rows in stored["table"].items()}
    except (OSError, ValueError, KeyError, TypeError):  # none, or not ours: the built-in table is always right
        return {}
