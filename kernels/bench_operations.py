"""The benchmark of the other fused operations: python -m kernels.bench_operations [--json FILE]

Each operation is timed forward and backward in its forms, in interleaved rounds (one sample of each form per round,
in a new order), beside the plain eager one: the plain function compiled, and for the cross entropy our own chunked
operator and, where this PyTorch has it, `torch.nn.functional.linear_cross_entropy`. Before that its result and
gradients are compared with float64. A form that does not win has no business in the library: the table is the reason
for what stands in `kernels.fused` and `kernels.loss`.

Columns: median milliseconds and the middle three fifths of the samples, ratio to the plain eager form and to the
compiled one (above 1 is faster), the most memory that one call holds beyond its inputs, the error against float64
relative to that of the plain form in the same dtype, and the seconds of the first call.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch._inductor.utils
import torch.nn.functional as F
from torch import Tensor

from configs import UserError, run_main
from kernels.accuracy import ROUNDINGS
from kernels.bench_machine import FOREIGN_LIMIT, busy_seconds, describe_machine, foreign_share, gemm_peak, peak_bytes
from kernels.fused import add_rms_norm, norm_rotary, rotary_tables, squared_relu, swiglu
from kernels.loss import linear_cross_entropy, linear_cross_entropy_reference


@dataclass
class Form:
    """One way to compute an operation: tensors -> tensors."""

    name: str
    function: Callable[..., Tensor | tuple[Tensor, ...]]
    samples: list[float] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)


@dataclass
class Operation:
    """An operation with its inputs (those that get gradients, and others) and its forms; the first form is the plain
    one.
    """

    name: str
    inputs: tuple[Tensor, ...]
    others: tuple
    forms: list[Form]

    def run(self, form: Form, inputs: tuple[Tensor, ...], others: tuple | None = None) -> tuple[Tensor, ...]:
        """Outputs and gradients of one call."""
        out = form.function(*inputs, *(self.others if others is None else others))
        outputs = out if isinstance(out, tuple) else (out,)
        return *outputs, *torch.autograd.grad(outputs, inputs, [torch.ones_like(o) for o in outputs])


def operations(dtype: torch.dtype, device: str) -> list[Operation]:
    """The operations at the sizes of a small model: B 4, T 1,024, C 512, H 8, D 64; cross entropy N 2,048, C 256, V
    32,000.
    """
    make = torch.Generator(device).manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        wide = torch.randn(*shape, generator=make, device=device) * scale
        return wide.to(dtype).requires_grad_()

    x, residual, wide, gate = normal(4, 1024, 512), normal(4, 1024, 512), normal(4, 1024, 2048), normal(4, 1024, 2048)
    q, k, weight, head = normal(4, 8, 1024, 64), normal(4, 8, 1024, 64), normal(512), normal(64)
    cos, sin = rotary_tables(torch.arange(1024, device=device), 64)
    hidden, matrix = normal(2048, 256), normal(32000, 256, scale=0.05)
    targets = torch.randint(32000, (2048,), generator=make, device=device)

    def plain_and_compiled(function: Callable) -> list[Form]:
        return [Form("plain", function), Form("compiled", torch.compile(function, fullgraph=True, dynamic=False))]

    def norm_and_rotate(q: Tensor, k: Tensor, head: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        return norm_rotary(q, k, cos, sin, head, head)

    loss = [*plain_and_compiled(linear_cross_entropy_reference), Form("ours", linear_cross_entropy)]
    if hasattr(F, "linear_cross_entropy"):
        loss.append(Form("torch", lambda h, w, t: F.linear_cross_entropy(h, w, t, reduction="sum").float()))
    return [
        Operation("linear_cross_entropy", (hidden, matrix), (targets,), loss),
        Operation("norm_rotary", (q, k, head), (cos, sin), plain_and_compiled(norm_and_rotate)),
        Operation("add_rms_norm", (x, residual, weight), (), plain_and_compiled(add_rms_norm)),
        Operation("swiglu", (gate, wide), (), plain_and_compiled(swiglu)),
        Operation("squared_relu", (wide,), (), plain_and_compiled(squared_relu)),
    ]


def measure(operation: Operation, repeats: int, device: str) -> list[dict]:
    """A row for each form: correctness, memory, first call, then interleaved samples."""
    exact_inputs = tuple(t.detach().double().requires_grad_() for t in operation.inputs)
    exact = operation.run(Form("exact", operation.forms[0].function), exact_inputs)
    rows, plain_errors = [], None
    for form in operation.forms:
        started = time.perf_counter()
        results = operation.run(form, operation.inputs)
        first = time.perf_counter() - started
        errors = [_distance(r.detach().double(), e.detach()) for r, e in zip(results, exact)]
        plain_errors = plain_errors or errors
        ratios = [
            error / (plain + _roundings(operation, r) / 2) for error, plain, r in zip(errors, plain_errors, results)
        ]
        extra = peak_bytes(lambda form=form: operation.run(form, operation.inputs), device)
        row = {"operation": operation.name, "impl": form.name, "dtype": str(operation.inputs[0].dtype)[6:]}
        rows.append(row | {"shape": [list(t.shape) for t in operation.inputs], "extra_bytes": extra})
        rows[-1] |= {
            "error": max(errors),
            "error_ratio": round(max(ratios), 3),
            "first_call_seconds": round(first, 2),
        }
    order = random.Random(0)
    for _ in range(3 * repeats):
        if all(len(form.samples) >= repeats for form in operation.forms):
            break
        for form in order.sample(operation.forms, len(operation.forms)):
            _sample(operation, form, device)
    for row, form in zip(rows, operation.forms):
        enough = len(form.samples) >= repeats
        times = sorted(form.samples if enough else form.samples + form.disturbed)
        row |= {"ms": round(statistics.median(times) * 1e3, 3), "status": "ok" if enough else "disturbed"}
        row["ms_low"], row["ms_high"] = (round(times[len(times) * n // 5] * 1e3, 3) for n in (1, 4))
        row["status"] = "wrong" if row["error_ratio"] > 2 else row["status"]
    for row in rows:
        row["ratio_to_plain"] = round(rows[0]["ms"] / row["ms"], 3)
        row["ratio_to_compiled"] = round(rows[1]["ms"] / row["ms"], 3)
    return rows


def _roundings(operation: Operation, result: Tensor) -> float:
    """What is granted beside the plain form's error: as in `kernels.accuracy`, more for sums over many rows."""
    rows = operation.inputs[0].numel() // operation.inputs[0].shape[-1]
    return ROUNDINGS * torch.finfo(operation.inputs[0].dtype).eps * (rows**0.5 if result.ndim == 1 else 1.0)


def _distance(ours: Tensor, exact: Tensor) -> float:
    return float((ours - exact).norm() / exact.norm().clamp(min=1e-30))


def _sample(operation: Operation, form: Form, device: str) -> None:
    before, started = busy_seconds(), time.perf_counter()
    operation.run(form, operation.inputs)
    if device == "cuda":
        torch.cuda.synchronize()
    elapsed = time.perf_counter() - started
    foreign = foreign_share(before, busy_seconds(), elapsed)
    (form.samples if foreign <= FOREIGN_LIMIT else form.disturbed).append(elapsed)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m kernels.bench_operations", description="Time the fused operations."
    )
    parser.add_argument("--dtypes", default="float32,bfloat16", help="joined by commas")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=9, help="samples for each form (9)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows and the machine")
    options = parser.parse_args(argv)
    names = options.dtypes.split(",")
    for name in names:
        if name not in ("float32", "bfloat16"):
            raise UserError(f"--dtypes: unknown {name!r}; choose float32, bfloat16 or both")
    if options.repeats < 1:
        raise UserError("--repeats must be 1 or more")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no CUDA device; use --device cpu")
    machine = describe_machine(options.device, {name: gemm_peak(name, options.device) for name in names})
    rows = []
    with torch._inductor.utils.fresh_cache():
        for name in names:
            for operation in operations(getattr(torch, name), options.device):
                rows += measure(operation, options.repeats, options.device)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {options.json}")


def table(rows: list[dict]) -> str:
    titles = ("operation", "dtype", "form", "ms", "/plain", "/compiled", "MiB", "error")
    titles = ("operation", "dtype", "form", "ms", "/plain", "/compiled", "MiB", "error")
    lines = ["{:22}{:10}{:10}{:>9}{:>8}{:>10}{:>8}{:>7}  status".format(*titles)]
    for row in rows:
        lines.append(
            f"{row['operation']:22}{row['dtype']:10}{row['impl']:10}{row['ms']:9.2f}{row['ratio_to_plain']:8.2f}"
            f"{row['ratio_to_compiled']:10.2f}{row['extra_bytes'] / 2**20:8.1f}{row['error_ratio']:7.2f}"
            f"  {row['status']}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(main)
