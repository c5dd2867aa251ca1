"""Pictures of a run, through the `[plot]` extra (matplotlib)."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs import UserError

BLUE, ORANGE, GREY = "#2f6db3", "#d9822b", "#8a8f98"


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def figure_of(width: float, height: float):
    if not can_plot():
        raise UserError("pictures need matplotlib: pip install 'zhiling[plot]'")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def quiet(axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)


def draw_training(
    metrics: Sequence[Mapping[str, Any]],
    figure_of_merit: str,
    label: str,
    baseline: tuple[str, float] | None,
    path: Path,
) -> None:
    """Loss over steps beside one held-out figure, with a baseline as a dashed line."""
    figure = figure_of(9, 3.6)
    left, right = figure.subplots(1, 2)
    train = [(r["step"], r["loss"]) for r in metrics if r["kind"] == "train"]
    held_out = [(r["step"], r["loss"]) for r in metrics if r["kind"] == "evaluation"]
    left.plot(*zip(*train), color=BLUE, linewidth=1.2, label="training")
    left.plot(*zip(*held_out), color=ORANGE, marker="o", markersize=4, label="held out")
    left.set(xlabel="step", ylabel="nats per token", title="loss")
    left.legend(frameon=False)
    points = [(r["step"], r[figure_of_merit]) for r in metrics if r["kind"] == "evaluation" and figure_of_merit in r]
    right.plot(*zip(*points), color=ORANGE, marker="o", markersize=4, label="this model")
    if baseline:
        right.axhline(baseline[1], color=GREY, linestyle="--", label=f"{baseline[0]}: {baseline[1]:.3f}")
    right.set(xlabel="step", ylabel=label, title=f"{label}, held out")
    right.legend(frameon=False)
    for axes in (left, right):
        quiet(axes)
    figure.savefig(path, dpi=130)


def draw_tasks(tasks: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Held-out accuracy of each task as bars, with the best constant answer as a mark."""
    figure = figure_of(9, 0.5 + 0.36 * len(tasks))
    axes = figure.subplots()
    names = list(tasks)[::-1]
    axes.barh(names, [tasks[name]["accuracy"] for name in names], color=BLUE, height=0.62, label="tuned model")
    constant = [tasks[name].get("constant", 0.0) for name in names]
    axes.scatter(
        constant, names, color=ORANGE, marker="|", s=160, linewidths=2.5, label="best constant answer", zorder=3
    )
    for name in names:
        value = tasks[name]["accuracy"]
        axes.text(value + 0.01, name, f"{value:.0%}", va="center", fontsize=8, color="#444444")
    axes.set(xlim=(0, 1.08), xlabel="share of held-out questions answered exactly")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=130)
