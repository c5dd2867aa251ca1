"""Curves of one or several runs, in the terminal or as a picture, from their `metrics.jsonl`.

    python -m train.watch runs/demo/pretrain [RUN ...] [--metric loss] [--follow]
    python -m train.watch runs/a runs/b --metric gradient_norm --plot norms.png

A run may log a figure while training and on held-out data: these are two curves. In the terminal each column stands
for a range of steps, and its mark for the mean of the values in that range; how many values that are at most is said
below. The vertical axis runs from the lowest mark to the highest, which are printed; it need not begin at zero. Where
they differ by less than six digits show, the upper one is printed as what it is above the lower.
Values that are not finite are not drawn but counted.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from configs import UserError, run_main
from train.plots import figure_of, quiet
from train.run import read_metrics
from train.track import figures

MARKS = "*o+x#@%&ABCDEFGHIJKLMN"  # one for each curve
HEIGHT = 16  # rows of a picture of characters
PERIOD = 2.0  # seconds between two looks at a run that is followed
PICTURES = (".png", ".pdf", ".svg")

Records = list[dict[str, Any]]


class Curve(NamedTuple):
    """One figure of one run over the steps. `points` are finite; `lost` counts those that were not."""

    label: str
    points: list[tuple[int, float]]
    lost: int


def read_run(run: str) -> Records:
    """The records of a run. Raises UserError when there are none."""
    path = Path(run) / "metrics.jsonl"
    if not path.is_file():
        raise UserError(f"there is no {path}; give the folder of a run that has begun to train")
    try:
        records = read_metrics(run)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); give the folder of a run") from None
    records = [r for r in records if isinstance(r, dict) and type(r.get("kind")) is str and type(r.get("step")) is int]
    if not any(figures(record) for record in records):
        raise UserError(f"{path} has no figures; give the folder of a run that has logged a step")
    return records


def curves(runs: dict[str, Records], metric: str) -> list[Curve]:
    """Every curve of that figure. Raises UserError, naming the figures that exist, when no run has it."""
    found = []
    for run, records in runs.items():
        for kind in sorted({r["kind"] for r in records if metric in figures(r)}, key=lambda k: (k != "train", k)):
            points = [(r["step"], float(r[metric])) for r in records if r["kind"] == kind and metric in figures(r)]
            finite = [point for point in points if math.isfinite(point[1])]
            label = {"train": run, "evaluation": f"{run}, held out"}.get(kind, f"{run}, {kind}")
            found.append(Curve(label, finite, len(points) - len(finite)))
    if not found:
        names = sorted({name for records in runs.values() for record in records for name in figures(record)})
        raise UserError(f"no figure is called {metric!r}; there are {', '.join(names)}")
    if not any(curve.points for curve in found):
        raise UserError(f"no value of {metric} is finite; look at another figure")
    if len(found) > len(MARKS):
        raise UserError(f"these are {len(found)} curves; at most {len(MARKS)} can be told apart, give fewer runs")
    return found


# In the terminal -----------------------------------------------------------------------------------------------------


def draw(found: Sequence[Curve], metric: str, width: int, height: int = HEIGHT) -> str:
    """The curves as `height` lines of at most `width` characters, with axes, legend and what was averaged."""
    steps = [step for curve in found for step, _ in curve.points]
    first, last = min(steps), max(steps)
    columns = max(16, width - 14)
    means = [column_means(curve.points, first, last, columns) for curve in found]
    marks = [mean for curve in means for mean, _ in curve.values()]
    low, high = min(marks), max(marks)
    grid = [[" "] * columns for _ in range(height)]
    for mark, curve in zip(MARKS, means):
        for column, (mean, _) in curve.items():
            grid[row_of(mean, low, high, height)][column] = mark
    labels = axis_labels(low, high, height)
    lines = [metric, *(f"{labels.get(row, ''):>12} |{''.join(cells)}".rstrip() for row, cells in enumerate(grid))]
    lines.append(" " * 13 + "+" + "-" * columns)
    lines.append(" " * 14 + f"{first:,}" + f"step {last:,}".rjust(columns - len(f"{first:,}")))
    for mark, curve in zip(MARKS, found):
        lost = f" ({curve.lost} values are not finite and not drawn)" if curve.lost else ""
        lines.append(f"  {mark} {curve.label}{lost}")
    most = max(count for curve in means for _, count in curve.values())
    shown = "each mark is one value" if most == 1 else f"each mark is the mean of the 1 to {most} values in its column"
    return "\n".join([*lines, f"  {shown}; where curves meet, the later one is seen"])


def column_means(
    points: Sequence[tuple[int, float]], first: int, last: int, columns: int
) -> dict[int, tuple[float, int]]:
    """Mean and number of the values that are nearest to each column, for the columns that have any."""
    values = defaultdict(list)
    for step, value in points:
        values[round((step - first) * (columns - 1) / max(last - first, 1))].append(value)
    return {column: (math.fsum(inside) / len(inside), len(inside)) for column, inside in values.items()}


def row_of(value: float, low: float, high: float, height: int) -> int:
    """The line of a value, 0 the uppermost; all alike stand in the middle."""
    return round((high - value) / (high - low) * (height - 1)) if high > low else height // 2


def axis_labels(low: float, high: float, height: int) -> dict[int, str]:
    """What stands at the uppermost, the middle and the lowest line: as many digits as it takes to tell them apart."""
    middle = height // 2
    if low == high:
        return {middle: f"{high:.6g}"}
    values = {0: high, middle: high + (low - high) * middle / (height - 1), height - 1: low}
    for digits in (4, 5, 6):
        labels = {row: f"{value:.{digits}g}" for row, value in values.items()}
        if len(set(labels.values())) == 3:
            return labels
    return {0: f"+ {high - low:.2g}", height - 1: f"{low:.6g}"}


def table(runs: dict[str, Records]) -> str:
    """The last figures of each run."""
    rows = [("run", "step", "loss", "held out", "tokens/s", "skipped")]
    for run, records in runs.items():
        train, held_out = last(records, "train"), last(records, "evaluation")
        rows.append(
            (
                run,
                f"{max(record['step'] for record in records):,}",
                shown(train.get("loss"), ".4f"),
                shown(held_out.get("loss"), ".4f"),
                shown(train.get("tokens_per_second"), ",.0f"),
                str(sum(record["kind"] == "skipped" for record in records)),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:]))]) for row in rows
    )


def last(records: Records, kind: str) -> dict[str, Any]:
    """The newest record of a kind; empty when there is none."""
    return next((record for record in reversed(records) if record["kind"] == kind), {})


def shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def view(paths: Sequence[str], metric: str) -> str:
    """Curves and table as text."""
    runs = {path: read_run(path) for path in paths}
    return draw(curves(runs, metric), metric, shutil.get_terminal_size().columns) + "\n\n" + table(runs)


def follow(look: Callable[[], str], wait: Callable[[float], None] = time.sleep) -> None:
    """Print what `look` gives whenever that changes, until interrupted. What it lacks is said, and waited for."""
    before = ""
    clear = "\x1b[H\x1b[2J" if sys.stdout.isatty() else ""
    try:
        while True:
            try:
                now = look()
            except UserError as error:
                now = f"waiting: {error}"
            if now != before:
                print(clear + now, flush=True)
            before = now
            wait(PERIOD)
    except KeyboardInterrupt:
        return


# As a picture --------------------------------------------------------------------------------------------------------


def plot(found: Sequence[Curve], metric: str, path: Path) -> None:
    """The curves in a picture file: every value pale, and the mean of neighbouring values where there are many.

    Raises UserError without matplotlib, or for a kind of file that it is not asked to write.
    """
    if path.suffix.lower() not in PICTURES:
        raise UserError(f"{path} is no picture that can be written; name a file that ends in {' or '.join(PICTURES)}")
    figure = figure_of(9, 4.5)
    axes = figure.subplots()
    for curve in found:
        steps, values = zip(*curve.points) if curve.points else ((), ())
        count = max(1, len(values) // 100)
        [line] = axes.plot(
            steps, values, linewidth=0.8 if count > 1 else 1.4, alpha=0.3 if count > 1 else 1.0,
            marker="o" if len(values) < 50 else "", markersize=3, label=None if count > 1 else curve.label,
        )  # fmt: skip
        if count > 1:
            label = f"{curve.label}, mean of {count} values"
            axes.plot(*running_means(curve.points, count), color=line.get_color(), linewidth=1.6, label=label)
    axes.set(xlabel="step", ylabel=metric)
    axes.legend(frameon=False)
    quiet(axes)
    figure.savefig(path, dpi=130)


def running_means(points: Sequence[tuple[int, float]], count: int) -> tuple[list[int], list[float]]:
    """Steps, and the mean of each step's value and the `count` - 1 before it."""
    steps = [step for step, _ in points[count - 1 :]]
    means = [math.fsum(v for _, v in points[i : i + count]) / count for i in range(len(points) - count + 1)]
    return steps, means


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m train.watch", description="Draw curves of runs.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--metric", default="loss", help="which figure (loss)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help=f"write a picture: {', '.join(PICTURES)}")
    parser.add_argument("--follow", action="store_true", help="draw again when there is something new, until Ctrl-C")
    options = parser.parse_intermixed_args(argv)
    for run in options.runs:  # one that is followed may have logged nothing yet, but it must be there
        if not Path(run).is_dir():
            raise UserError(f"there is no run {run}; give the folder of a run")
    if options.follow and options.plot:
        raise UserError("a picture is drawn once: leave out --follow or --plot")
    if options.plot:
        plot(curves({run: read_run(run) for run in options.runs}, options.metric), options.metric, options.plot)
        print(f"wrote {options.plot}")
    elif options.follow:
        follow(lambda: view(options.runs, options.metric))
    else:
        print(view(options.runs, options.metric))


if __name__ == "__main__":
    run_main(main)
