"""The benchmark of attention: python -m kernels.bench

What it does. For every cell (mask, dtype, sizes, forward or forward+backward) it takes each implementation through
  1. the first call, timed apart: there a compiler compiles (into an empty cache);
  2. correctness: output and gradients against float64; more than twice the plain formula's error is "wrong", and what
     is wrong is shown but never ranked (for T above 1,024 the check runs on 2 heads, to spare memory);
  3. peak extra memory, and at least 7 timed samples, in rounds: each round takes every implementation once, in a new
     order, so that drift of the machine hits all alike. Samples taken while other processes used more than 8 % of
     the processors are thrown away; a cell where too few stay is marked "disturbed".
A silent fall-back of torch.compile to eager after too many recompilations fails the run.

    python -m kernels.bench                                        the default grid, a few minutes on 2 cores
    python -m kernels.bench --masks window:256 --tokens 4096 --impls auto,sdpa,sdpa-chunked --json out.json
    python -m kernels.bench --plot out.png                         pictures (needs the extra [plot])
    python -m kernels.bench --calibrate                            measure this machine, and let impl="auto" use it
    python -m kernels.bench --device cuda --dtypes bfloat16 --tokens 1024,4096,16384 --head-dim 64,128

How to read it. GFLOP/s counts visible pairs only: 4 D per pair and head forward, 3.5 times that with backward. "peak"
is the share of what a large matrix product reached on this machine at the start of this run. "ratio" is the time of
`sdpa` (PyTorch's, with a dense mask where the mask needs one) over the time of this implementation: above 1 is faster.
`sdpa-chunked` and `sdpa-documents` are what a careful user of SDPA would write; quote them too. `auto` is
`attention(impl="auto")`, compiled where what it chooses is plain PyTorch, as it is inside a compiled model.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch._inductor.utils
from torch import Tensor
from tqdm import tqdm

from configs import UserError, run_main
from kernels import IMPLEMENTATIONS, attention, explain
from kernels.accuracy import Budget
from kernels.bench_machine import FOREIGN_LIMIT, busy_seconds, describe_machine, foreign_share, gemm_peak, peak_bytes
from kernels.bench_report import plot, print_table, rules_from
from kernels.cases import (
    NAMES,
    chunked_obstacle,
    document_borders,
    documents_obstacle,
    parse_mask,
    sdpa_chunked,
    sdpa_documents,
)
from kernels.dispatch import _describe, why_not
from kernels.masks import Mask
from kernels.table import write_calibration

FUSED = ("reference", "online", "decode")  # plain PyTorch: compiled here, as in a compiled model
BASELINES = ("sdpa-chunked", "sdpa-documents", "sdpa-flash", "sdpa-cudnn")
IMPLS = ("auto", *IMPLEMENTATIONS, *BASELINES)
DEFAULT_IMPLS = {"cpu": "auto,sdpa,blocked,segments,reference,flex,decode,sdpa-chunked,sdpa-documents"}
DEFAULT_IMPLS["cuda"] = "auto,sdpa-flash,sdpa-cudnn,sdpa,flex,triton,decode,sdpa-chunked,sdpa-documents"
SAMPLE_SECONDS = 0.06  # a sample repeats the call until it lasts this long: the kernel counts time in ticks of 0.01


@dataclass(frozen=True)
class Cell:
    """One row of the grid: everything but the implementation."""

    mask: str
    dtype: str
    passes: str  # "fwd" or "fwd+bwd"
    B: int
    H: int
    K: int
    T: int
    S: int
    D: int

    def inputs(self, device: str, heads: int | None = None) -> tuple[Tensor, Tensor, Tensor, Mask]:
        """q, k, v (which require gradients when the pass needs them) and the mask."""
        H, K = (heads, max(1, self.K * heads // self.H)) if heads else (self.H, self.K)
        generator = torch.Generator().manual_seed(0)
        make = lambda n, t: torch.randn(self.B, n, t, self.D, generator=generator).to(
            device, getattr(torch, self.dtype)
        )
        tensors = make(H, self.T), make(K, self.S), make(K, self.S)
        mask = parse_mask(self.mask, self.B, self.T, self.S, device)
        return *(x.requires_grad_(self.passes != "fwd") for x in tensors), mask


def obstacle(impl: str, cell: Cell, device: str, sparing: bool = False) -> str | None:
    """Why a cell is skipped for an implementation; None when it can run. sparing: also where it would take long."""
    small = dataclasses.replace(cell, D=1)
    q, k, v, mask = small.inputs(device)
    if impl == "sdpa-chunked":
        return chunked_obstacle(mask, cell.T, cell.S)
    if impl == "sdpa-documents":
        return documents_obstacle(mask, cell.T, cell.S)
    if impl in ("sdpa-flash", "sdpa-cudnn"):
        plain = cell.mask == "full" or (cell.mask == "causal" and cell.T == cell.S)
        return None if device == "cuda" and plain else "a CUDA backend for full and causal"
    if impl == "decode" and (cell.T > 8 or cell.passes != "fwd"):
        return "decode is for a few queries, forward"
    if sparing and device == "cpu" and impl == "reference" and cell.T > 1024:
        return "it holds all scores and takes long"
    if sparing and device == "cpu" and impl == "flex" and cell.T != 4096:
        return "each length is compiled anew"
    return None if impl == "auto" else why_not(impl, _describe(q, k, v, mask, None, None, None, False))


def implementation(impl: str, cell: Cell, device: str) -> Callable:
    """function(q, k, v, mask), compiled where that is how it is meant to be used."""
    if impl == "sdpa-chunked":
        return sdpa_chunked
    if impl == "sdpa-documents":
        return sdpa_documents(document_borders(cell.inputs(device)[3]))
    if impl in ("sdpa-flash", "sdpa-cudnn"):
        return _with_backend(impl)
    if impl == "auto":
        chosen, function = explain(*cell.inputs(device)).impl, functools.partial(attention, impl="auto")
    else:
        chosen, function = impl, IMPLEMENTATIONS[impl]
    return torch.compile(function, fullgraph=True, dynamic=False) if chosen in FUSED else function


def _with_backend(impl: str) -> Callable:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backend = SDPBackend.FLASH_ATTENTION if impl == "sdpa-flash" else SDPBackend.CUDNN_ATTENTION

    def run(q: Tensor, k: Tensor, v: Tensor, mask: Mask, **options) -> Tensor:
        with sdpa_kernel(backend):
            return IMPLEMENTATIONS["sdpa"](q, k, v, mask)

    return run


class Runner:
    """One implementation in one cell: its call, its samples, its row of the result."""

    def __init__(self, impl: str, cell: Cell, device: str):
        self.impl, self.cell, self.device = impl, cell, device
        self.row = {"impl": impl, **{f.name: getattr(cell, f.name) for f in dataclasses.fields(cell)}}
        self.row["pass"] = self.row.pop("passes")
        self.samples: list[float] = []
        self.disturbed: list[float] = []
        self.function = implementation(impl, cell, device)

    def call(self) -> None:
        q, k, v, mask = self.tensors
        if self.cell.passes == "fwd":
            with torch.no_grad():
                self.function(q, k, v, mask)
        else:
            torch.autograd.grad(self.function(q, k, v, mask), (q, k, v), self.gradient)
        if self.device == "cuda":
            torch.cuda.synchronize()

    def prepare(self, tensors: tuple, gradient: Tensor, budget: Budget) -> None:
        """First call (compilation), correctness, memory, and how many calls make one sample."""
        self.tensors, self.gradient = tensors, gradient
        first = self.seconds(1)
        self.row["error_ratio"] = round(max(budget.ratios(self.function).values()), 3)
        self.call()
        once = self.seconds(1)
        self.row["compile_seconds"] = round(max(0.0, first - once), 3)
        self.row["extra_bytes"] = peak_bytes(self.call, self.device)
        self.calls = max(1, math.ceil(SAMPLE_SECONDS / max(once, 1e-6)))

    def seconds(self, calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            self.call()
        return (time.perf_counter() - start) / calls

    def sample(self) -> None:
        before, start = busy_seconds(), time.perf_counter()
        seconds = self.seconds(self.calls)
        share = foreign_share(before, busy_seconds(), time.perf_counter() - start)
        (self.samples if share <= FOREIGN_LIMIT else self.disturbed).append(seconds)

    def finish(self, repeats: int, pairs: float, peak: float) -> dict:
        enough = len(self.samples) >= repeats
        times = sorted(self.samples if enough else self.samples + self.disturbed)
        seconds = statistics.median(times)
        flops = pairs * 4 * self.cell.D * self.cell.H * (1.0 if self.cell.passes == "fwd" else 3.5)
        self.row["ms"] = round(seconds * 1e3, 4)
        self.row["ms_low"], self.row["ms_high"] = (round(times[len(times) * n // 5] * 1e3, 4) for n in (1, 4))
        self.row["gflops"] = round(flops / seconds / 1e9, 2)
        self.row["peak_share"] = round(flops / seconds / peak, 4)
        self.row["status"] = "wrong" if self.row["error_ratio"] > 2 else "ok" if enough else "disturbed"
        return self.row


def measure(cell: Cell, impls: list[str], device: str, repeats: int, peak: float, sparing: bool = False) -> list[dict]:
    """All implementations in one cell, correct ones ranked against `sdpa`."""
    torch.compiler.reset()
    runners, failed = [], []
    tensors = cell.inputs(device)
    gradient = torch.randn_like(tensors[0])
    budget = _budget(cell, device)
    for impl in impls:
        if obstacle(impl, cell, device, sparing):
            continue
        runner = Runner(impl, cell, device)
        try:
            runner.prepare(tensors, gradient, budget)
            runners.append(runner)
        except torch._dynamo.exc.FailOnRecompileLimitHit:
            raise
        except Exception as error:  # one implementation may fail without taking the others down; it is shown
            first_line = (str(error).splitlines() or [""])[0]
            failed.append(runner.row | {"status": f"failed: {type(error).__name__}: {first_line[:200]}"})
    take_samples(runners, repeats)
    visible = tensors[3].dense(cell.B, cell.T, cell.S, device)
    pairs = visible.sum().item() * cell.B / visible.shape[0]
    return ranked([runner.finish(repeats, pairs, peak) for runner in runners] + failed)


def take_samples(runners: list[Runner], repeats: int) -> None:
    """Rounds over all of them until each has enough undisturbed samples, or three times as many were tried."""
    order = random.Random(0)
    for _ in range(3 * repeats):
        if all(len(runner.samples) >= repeats for runner in runners):
            return
        for runner in order.sample(runners, len(runners)):
            runner.sample()


def ranked(rows: list[dict]) -> list[dict]:
    """With "ratio_to_sdpa" in each row; None for what is wrong or failed. A wrong sdpa still says how long it takes."""
    base = next((row["ms"] for row in rows if row["impl"] == "sdpa" and "ms" in row), None)
    for row in rows:
        right = base and "ms" in row and row["status"] != "wrong"
        row["ratio_to_sdpa"] = round(base / row["ms"], 3) if right else None
    return rows


def _budget(cell: Cell, device: str) -> Budget:
    few = cell.T * cell.S > 1024 * 1024 and cell.H > 2
    q, k, v, mask = cell.inputs(device, 2 if few else None)
    return Budget(q, k, v, mask, getattr(torch, cell.dtype), gradients=cell.passes != "fwd")


def grid(options: argparse.Namespace) -> list[Cell]:
    """The cells, in the order in which they are measured."""
    cells = []
    for dtype, mask, T, K, D in itertools.product(
        options.dtypes, options.masks, options.tokens, options.kv_heads, options.head_dim
    ):
        if options.heads % K:
            raise UserError(f"--heads {options.heads} must be a multiple of --kv-heads {K}.")
        for passes in options.passes:
            cells.append(Cell(mask, dtype, passes, options.batch, options.heads, K, T, options.keys or T, D))
    if options.default:  # what the axes do not reach: grouped queries, and one query against a long cache
        for dtype in options.dtypes:
            cells += [Cell("causal", dtype, p, 1, 8, 2, 2048, 2048, 64) for p in options.passes]
            cells.append(Cell("causal", dtype, "fwd", 4, 32, 8, 1, 4096, 128))
    return cells


def arguments(argv: list[str]) -> argparse.Namespace:
    def names(allowed: tuple[str, ...] | None = None) -> Callable:
        def split(text: str) -> list[str]:
            chosen = [part.strip() for part in text.split(",") if part.strip()]
            for part in chosen:
                if allowed and part not in allowed:
                    raise argparse.ArgumentTypeError(f"unknown {part!r}; choose from {', '.join(allowed)}")
            return chosen

        return split

    def numbers(text: str) -> list[int]:
        try:
            values = [int(part) for part in text.split(",")]
        except ValueError:
            values = [0]
        if min(values) < 1:
            raise argparse.ArgumentTypeError(f"{text!r} must be whole numbers of 1 or more, joined by commas")
        return values

    parser = argparse.ArgumentParser(
        prog="python -m kernels.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--masks", type=names(), help=f"default causal,window:256,document:8; from {', '.join(NAMES)}, joined by +")
    add("--impls", type=names(IMPLS), help=f"from {', '.join(IMPLS)}")
    add("--dtypes", type=names(("float32", "bfloat16", "float16", "float64")), help="default float32,bfloat16 on a CPU")
    add("--passes", type=names(("fwd", "fwd+bwd")), default=["fwd", "fwd+bwd"], help="default both")
    add("--tokens", type=numbers, help="T; default 256,512,1024,2048,4096")
    add("--keys", type=int, help="S; default as many as tokens")
    add("--batch", type=int, default=1)
    add("--heads", type=int, default=8)
    add("--kv-heads", type=numbers, help="default as many as heads")
    add("--head-dim", type=numbers, default=[64])
    add("--device", default="cpu", choices=("cpu", "cuda"))
    add("--repeats", type=int, default=7, help="samples for each implementation (default 7)")
    add("--json", type=Path, metavar="FILE", help="write all rows and the machine")
    add("--plot", type=Path, metavar="FILE", help="write pictures: time and GFLOP/s over T, and a roofline")
    add("--calibrate", action="store_true", help="measure this machine and let impl='auto' use the result")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no CUDA device; use --device cpu.")
    if min(options.batch, options.heads, options.repeats, options.keys or 1) < 1:
        raise UserError("--batch, --heads, --keys and --repeats must be 1 or more.")
    options.default = not (options.masks or options.tokens or options.kv_heads)
    options.masks = options.masks or ["causal", "window:256", "document:8"]
    options.tokens = options.tokens or [256, 512, 1024, 2048, 4096]
    options.kv_heads = options.kv_heads or [options.heads]
    options.dtypes = options.dtypes or (["float32", "bfloat16"] if options.device == "cpu" else ["bfloat16"])
    options.sparing = options.impls is None
    options.impls = options.impls or DEFAULT_IMPLS[options.device].split(",")
    if options.calibrate:
        options.impls = [
            "sdpa",
            "blocked",
            "segments",
            "reference",
            "decode",
            *(["flex", "triton"] if options.device == "cuda" else []),
        ]
    for mask in options.masks:
        parse_mask(mask, 1, min(options.tokens), min(options.tokens))
    return options


def main(argv: list[str]) -> None:
    options = arguments(argv)
    peaks = {dtype: gemm_peak(dtype, options.device) for dtype in options.dtypes}
    machine = describe_machine(options.device, peaks)
    cells, rows = grid(options), []
    limit = torch._dynamo.config.patch(fail_on_recompile_limit_hit=True, recompile_limit=64)
    with limit, torch._inductor.utils.fresh_cache(), tqdm(cells, unit="cell", dynamic_ncols=True) as bar:
        for cell in bar:
            bar.set_description(f"{cell.dtype} {cell.mask} {cell.passes} T={cell.T}")
            peak = peaks[cell.dtype]
            rows += measure(cell, options.impls, options.device, options.repeats, peak, options.sparing)
    print_table(rows, machine)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {options.json}")
    if options.plot:
        print(f"wrote {plot(rows, machine, options.plot)}")
    if options.calibrate:
        rules = rules_from(rows, options.device)
        print(f"wrote {write_calibration(rules)}; delete it to return to the built-in table:")
        print(json.dumps(rules, indent=1))


if __name__ == "__main__":
    run_main(main)
