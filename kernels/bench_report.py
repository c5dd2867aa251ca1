"""What the benchmark's rows become: a table for people, pictures, and the rules of a calibration."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from pathlib import Path

from configs import UserError
from kernels.table import Rules

CELL = ("mask", "dtype", "pass", "B", "H", "K", "T", "S", "D")


def print_table(rows: list[dict], facts: dict) -> None:
    """One block for each cell, fastest first; wrong and failed implementations last, without a rank."""
    peaks = ", ".join(f"{dtype} {peak:g} GFLOP/s" for dtype, peak in facts["gemm_gflops"].items())
    print(f"\n{facts['cpu'] if facts['device'] == 'cpu' else facts['gpu']}, {facts['threads']} threads, ", end="")
    print(f"torch {facts['torch']}; matrix product: {peaks}; copy {facts['copy_gbytes']:g} GB/s")
    for key, group in _cells(rows).items():
        mask, dtype, passes, B, H, K, T, S, D = key
        print(f"\n{mask}  {dtype}  {passes}  B={B} H={H}/{K} T={T} S={S} D={D}")
        print(
            f"  {'':16}{'ms':>10}{'20..80 %':>17}{'ratio':>8}{'GFLOP/s':>9}{'peak':>7}"
            f"{'MB':>8}{'error':>7}{'compile':>9}"
        )
        for row in sorted(group, key=_rank):
            if "ms" not in row:
                print(f"  {row['impl']:16}{row['status']}")
                continue
            ratio = f"{row['ratio_to_sdpa']:.2f}" if row["ratio_to_sdpa"] else "-"
            spread = f"{row['ms_low']:.2f}..{row['ms_high']:.2f}"
            mark = "" if row["status"] == "ok" else f"  {row['status']}"
            print(
                f"  {row['impl']:16}{row['ms']:10.3f}{spread:>17}{ratio:>8}{row['gflops']:9.1f}{row['peak_share']:7.0%}"
                f"{row['extra_bytes'] / 1e6:8.1f}{row['error_ratio']:7.2f}{row['compile_seconds']:8.1f}s{mark}"
            )


def _cells(rows: list[dict]) -> dict[tuple, list[dict]]:
    cells = defaultdict(list)
    for row in rows:
        cells[tuple(row[name] for name in CELL)].append(row)
    return cells


def _rank(row: dict) -> tuple:
    return ("ms" not in row, row["status"] == "wrong", row.get("ms", 0.0))


def rules_from(rows: list[dict], device: str) -> dict[str, Rules]:
    """The fastest implementation for each key of `kernels.table`, merged over T; masked keys by the mean over masks."""
    times: dict[str, dict[int, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in rows:
        if "ms" not in row or row["status"] == "wrong" or row["impl"] == "auto":
            continue
        plain = row["mask"] in ("full", "causal") and row["T"] in (row["S"], 1)
        alone = row["mask"].startswith("document") and "+" not in row["mask"] and row.get("K") == row.get("H")
        swept = "plain" if plain else "documents" if alone and device == "cpu" else "masked"
        few = row["T"] <= 8 and row["pass"] == "fwd"
        kind = "decode" if few else "forward" if row["pass"] == "fwd" else "train"
        for mask in ("plain", "masked") if kind == "decode" else (swept,):
            key = f"{device}/{row['dtype']}/{mask}/{kind}"
            times[key][row["T"]][row["impl"]].append(math.log(row["ms"]))
    rules = {}
    for key, by_length in times.items():
        winners = []
        for T in sorted(by_length):
            most = max(len(values) for values in by_length[T].values())
            complete = {impl: sum(values) for impl, values in by_length[T].items() if len(values) == most}
            winners.append((T, min(complete, key=complete.get)))
        limits = [(T, before) for (_, before), (T, after) in itertools.pairwise(winners) if before != after]
        rules[key] = (*limits, (None, winners[-1][1]))
    return rules


def plot(rows: list[dict], facts: dict, path: Path) -> Path:
    """A page of panels: a row for each mask and figure (time, GFLOP/s) over T, a column for each dtype and pass; below,
    a roofline for each dtype."""
    try:
        import matplotlib
    except ImportError:
        raise UserError("--plot needs matplotlib: pip install 'zhiling[plot]'.") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in rows if row.get("ms") and row["status"] != "wrong"]
    swept = [row for row in rows if row["T"] == row["S"] and row["K"] == row["H"]] or rows
    masks = list(dict.fromkeys(row["mask"] for row in swept))
    columns = list(dict.fromkeys((row["dtype"], row["pass"]) for row in swept))
    colours = {impl: f"C{i % 10}" for i, impl in enumerate(dict.fromkeys(row["impl"] for row in rows))}
    dtypes = list(facts["gemm_gflops"])
    height, width = 2 * len(masks) + 1, max(len(columns), len(dtypes))
    figure, axes = pyplot.subplots(
        height, width, figsize=(3.4 * width + 0.6, 2.6 * height + 0.8), squeeze=False, layout="constrained"
    )
    figures = [(mask, value) for mask in masks for value in ("ms", "gflops")]
    for (mask, value), line_of_axes in zip(figures, axes):
        for (dtype, passes), axis in zip(columns, line_of_axes):
            panel = [row for row in swept if (row["mask"], row["dtype"], row["pass"]) == (mask, dtype, passes)]
            _panel(axis, panel, value, colours)
            axis.set_title(f"{mask}, {dtype}, {passes}", fontsize=9)
    for axis, dtype in zip(axes[-1], dtypes):
        _roofline(axis, [row for row in rows if row["dtype"] == dtype], dtype, facts, colours)
    for axis in axes.flat:
        axis.tick_params(labelsize=7)
        if not axis.has_data():
            axis.axis("off")
    handles = [pyplot.Line2D([], [], color=colour, marker="o", ms=4, label=impl) for impl, colour in colours.items()]
    title = f"{facts['cpu'] if facts['device'] == 'cpu' else facts['gpu']}, torch {facts['torch']}"
    where = {"loc": "outside upper center", "ncols": len(handles), "frameon": False}
    figure.legend(handles=handles, title=title, fontsize=9, **where)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return path


def _panel(axis, rows: list[dict], value: str, colours: dict[str, str]) -> None:
    """One figure of every implementation over T."""
    from matplotlib.ticker import NullLocator

    lengths = sorted({row["T"] for row in rows})
    for impl, colour in colours.items():
        line = sorted((row["T"], row[value]) for row in rows if row["impl"] == impl)
        if line:
            axis.plot(*zip(*line), "o-", color=colour, ms=3, lw=1.2)
    axis.set(xscale="log", yscale="log" if value == "ms" else "linear")
    axis.set_ylabel("milliseconds" if value == "ms" else "GFLOP/s over visible pairs", fontsize=8)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(lengths, [str(T) for T in lengths])


def _roofline(axis, rows: list[dict], dtype: str, facts: dict, colours: dict[str, str]) -> None:
    """GFLOP/s over arithmetic intensity (operations per byte of q, k, v and output), under the measured ceilings."""
    size = {"float64": 8, "float32": 4}.get(dtype, 2)
    points = defaultdict(list)
    for row in rows:
        tensors = 2 * row["B"] * row["D"] * (row["H"] * row["T"] + row["K"] * row["S"]) * size
        traffic = tensors * (1 if row["pass"] == "fwd" else 3)
        points[row["impl"]].append((row["gflops"] * row["ms"] * 1e6 / traffic, row["gflops"]))
    for impl, pairs in points.items():
        axis.scatter(*zip(*pairs), s=12, color=colours[impl], label=impl)
    peak, copy = facts["gemm_gflops"][dtype], facts["copy_gbytes"]
    intensities = [x for pairs in points.values() for x, _ in pairs] + [peak / copy]
    span = [min(intensities) / 2, peak / copy, max(intensities) * 2]
    axis.plot(span, [min(peak, copy * x) for x in span], color="black", lw=1)
    axis.set_title(f"roofline, {dtype}", fontsize=9)
    axis.set(xlabel="operations per byte", ylabel="GFLOP/s", xscale="log", yscale="log")
