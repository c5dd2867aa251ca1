"""Faults on order: what the promises about reliability are tested with.

A fault is a word of the configuration, `train.faults='["kill:rank1:step37"]'`: what, on which rank, in which step. It
strikes once, in the first life of a job: what torchrun has restarted is left alone.

    kill         SIGKILL of this process, before the step
    hang         this process sleeps for ever, before the forward pass
    slow         this process sleeps for half a second, before the forward pass
    nan_loss     the loss becomes NaN
    nan_grad     the gradients of this rank become NaN before ranks are summed; the loss does not
    spike        the loss is multiplied by 1,000
    enospc       the checkpoint of the step meets a full disk
    torn_write   the checkpoint of the step loses the second half of its weights after it was written
    bit_flip     one bit of the checkpoint of the step changes after it was written

Outside tests the list is empty and nothing here runs.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.load import WEIGHTS

KINDS = ("kill", "hang", "slow", "nan_loss", "nan_grad", "spike", "enospc", "torn_write", "bit_flip")
SLOW_SECONDS = 0.5


@dataclass(frozen=True)
class Fault:
    kind: str
    rank: int
    step: int


def parse(text: str) -> Fault | None:
    """The fault that `kind:rankR:stepS` names; None when the text is none."""
    match = re.fullmatch(r"(\w+):rank(\d+):step(\d+)", text)
    return Fault(match[1], int(match[2]), int(match[3])) if match and match[1] in KINDS else None


def problems(texts: Sequence[str]) -> list[str]:
    """What is wrong with a list of faults."""
    return [
        f"faults: {text!r} is not KIND:rankR:stepS with KIND one of {', '.join(KINDS)}"
        for text in texts
        if parse(text) is None
    ]


class Faults:
    """The faults of one rank. `now(kind, step)` tells whether one strikes; the other methods carry it out."""

    def __init__(self, texts: Sequence[str], rank: int):
        restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
        self.own = set() if restarted else {(f.kind, f.step) for f in map(parse, texts) if f and f.rank == rank}

    def now(self, kind: str, step: int) -> bool:
        return bool(self.own) and (kind, step) in self.own

    def before_step(self, step: int) -> None:
        if self.now("kill", step):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.now("slow", step):
            time.sleep(SLOW_SECONDS)
        while self.now("hang", step):
            time.sleep(3600)

    def on_loss(self, total: Tensor, step: int) -> Tensor:
        if self.now("nan_loss", step):
            return total * torch.nan
        if self.now("nan_grad", step):
            total.register_hook(lambda gradient: gradient * torch.nan)
        return total * 1000 if self.now("spike", step) else total

    def on_write(self, step: int) -> None:
        if self.now("enospc", step):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def after_write(self, folder: Path, step: int) -> None:
        path = folder / WEIGHTS
        if self.now("torn_write", step):
            os.truncate(path, path.stat().st_size // 2)
        if self.now("bit_flip", step):
            raw = bytearray(path.read_bytes())
            raw[len(raw) // 2] ^= 1
            path.write_bytes(raw)
