"""What the benchmark must know of the machine: its ceilings, who else uses it, and how much memory a call holds."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from kernels.table import machine

FOREIGN_LIMIT = 0.08  # share of the processors that others may use during a sample


def describe_machine(device: str, peaks: dict[str, float]) -> dict:
    """Where and with what the numbers were made. Peaks in GFLOP/s, copying in GB/s (read plus written)."""
    size = 2**26 if device == "cpu" else 2**29
    source = torch.ones(size // 4, device=device)
    target, best = torch.empty_like(source), math.inf
    for _ in range(6):
        start = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return machine() | {
        "device": device,
        "python": platform.python_version(),
        "system": platform.system(),
        "gemm_gflops": {dtype: round(peak / 1e9, 1) for dtype, peak in peaks.items()},
        "copy_gbytes": round(2 * size / best / 1e9, 1),
    }


def gemm_peak(dtype: str, device: str) -> float:
    """FLOP/s of the best of a few large matrix products."""
    n = 1536 if device == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device).to(getattr(torch, dtype)) for _ in range(2))
    best = math.inf
    for _ in range(8):
        start = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


def busy_seconds() -> tuple[float, float]:
    """Processor seconds used by all processes so far (0 where the system does not tell), and by this one."""
    try:
        fields = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]
        everyone = sum(int(x) for x in (*fields[:3], *fields[5:8])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        everyone = 0.0
    return everyone, time.process_time()


def foreign_share(before: tuple[float, float], after: tuple[float, float], elapsed: float) -> float:
    """Share of the processors that other processes used; the kernel's clock tick is given to them for free."""
    tick = 1 / os.sysconf("SC_CLK_TCK")
    foreign = (after[0] - before[0]) - (after[1] - before[1]) - tick
    return max(0.0, foreign) / (elapsed * (os.cpu_count() or 1))


def peak_bytes(call: Callable, device: str) -> int:
    """The most memory that one call holds beyond what was there before."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with quiet(), torch.profiler.profile(profile_memory=True) as profile:
        call()
    events = profile.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(itertools.accumulate((size for _, size in changes), initial=0))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The profiler's own messages on standard error are not for people."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
