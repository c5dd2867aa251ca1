"""The proof as a page and pictures: `construct.md`, `construct.png`, from the figures of `train.proof`."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from instruct.construct import ARMS
from instruct.exam import KINDS, PLANNED
from train.plots import BLUE, GREY, ORANGE, figure_of, quiet

COLOURS = {
    "seeds": GREY,
    "paraphrase": "#b9bec6",
    "unverified": "#c0504d",
    "consistency": "#8e6bb0",
    "verified": BLUE,
    "interpreter": ORANGE,
}
ASKS = {
    "inputs": "taught instructions, new inputs",
    "phrasings": "taught programs, new wordings",
    "open": "new compositions that may be discovered",
    "compositions": "new compositions that no arm may train on",
    "depth3": "chains of three, none trained on",
}


PLACES = 12  # faults of a kind and file whose places the page shows; the JSON has all


def mean(runs: Sequence[Sequence[float]], number: int = -1) -> float:
    return statistics.mean(run[number] for run in runs)


def draw(gain: Mapping[str, Any], path: Path) -> None:
    """Direct accuracy over rounds for open and held-out compositions, mean over seeds, single seeds faint."""
    figure = figure_of(9, 3.8)
    for axes, kind in zip(figure.subplots(1, 2, sharey=True), ("open", "compositions")):
        for arm in (arm for arm in ARMS if arm in gain["arms"]):
            runs = gain["arms"][arm][kind]["direct"]
            for run in runs:
                axes.plot(range(len(run)), run, color=COLOURS[arm], linewidth=0.6, alpha=0.3)
            means = [mean(runs, number) for number in range(len(runs[0]))]
            axes.plot(range(len(means)), means, color=COLOURS[arm], marker="o", markersize=4, label=arm)
        axes.set(xlabel="round", title=ASKS[kind], xticks=range(len(runs[0])))
        axes.title.set_fontsize(10)
        quiet(axes)
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    figure.axes[0].set_ylabel("answered rightly, directly")
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def markdown(report: Mapping[str, Any], pictures: bool) -> str:
    """The page."""
    return "\n".join(
        [
            "# The model writes the instructions, a program judges them",
            "",
            f"`{report['command']}`; " + ", ".join(f"{key} {value}" for key, value in report["machine"].items()),
            "",
            *_gain(report["gain"], pictures),
            *(_yield(report["yield"]) if "yield" in report else []),
            *(_filters(report["filters"]) if "filters" in report else []),
            *(_induction(report["induction"]) if "induction" in report else []),
            *(_rouge(report["rouge"]) if "rouge" in report else []),
            *(_world(report["world"]) if "world" in report else []),
            *(_audit(report["audit"]) if "audit" in report else []),
            "",
        ]
    )


def _gain(gain: Mapping[str, Any], pictures: bool) -> Iterator[str]:
    if "points" in gain:
        yield (
            f"On compositions that the seeds do not hold, own verified instructions add **{gain['points']:+.1f} "
            f"points** over the seeds alone at equal tokens ({_certainty(gain)})."
        )
        yield ""
        yield (
            "| asked | points | 95 % interval over seeds | positive | "
            f"of the gain with the interpreter's answers{_within(gain)} |"
        )
        yield "|---|---|---|---|---|"
        for kind in KINDS:
            row = gain[kind]
            low, high = row["interval"]
            yield (
                f"| {ASKS[kind]} | {row['points']:+.1f} | {low:+.1f} to {high:+.1f} | "
                f"{row['seeds_positive']} of {row['seeds']} | {_share(row['recovered_fraction'])} |"
            )
        yield ""
    yield "## Accuracy after the last round"
    yield ""
    yield "Direct answers; in brackets through the model's own plan. Mean over seeds."
    yield ""
    arms = [arm for arm in ARMS if arm in gain["arms"]]
    yield f"| asked | base | {' | '.join(arms)} |"
    yield "|---|---|" + "---|" * len(arms)
    yield f"| *seeds* | | {' | '.join(str(len(gain['arms'][arm]['seeds'])) for arm in arms)} |"
    for kind in KINDS:
        base = mean(gain["arms"][arms[0]][kind]["direct"], 0)
        cells = [_cell(gain["arms"][arm][kind], kind) for arm in arms]
        yield f"| {ASKS[kind]} | {base:.1%} | {' | '.join(cells)} |"
    yield ""
    compared = {arm: gain["arms"][arm] for arm in arms if arm != "seeds" and "points" in gain["arms"][arm]}
    if compared:
        yield "Points over the seeds alone, direct answers, mean over the seeds that both arms have:"
        yield ""
        yield f"| arm | seeds | {' | '.join(ASKS[kind] for kind in KINDS)} |"
        yield "|---|---|" + "---|" * len(KINDS)
        for arm, found in compared.items():
            cells = [f"{found['points'][kind]:+.1f}" for kind in KINDS]
            yield f"| {arm} | {found['shared_seeds']} | {' | '.join(cells)} |"
        yield ""
    if pictures:
        yield "![accuracy by round](construct.png)"
        yield ""
    yield "## What each arm kept, by round"
    yield ""
    yield "*right*: the truth about its answers, which only the arms with a program know. *held out*: instructions"
    yield "that touch what is kept for tests; the arms with a program refuse them, the others cannot."
    yield ""
    yield "| arm | round | written | kept | behaviours | answers | right | readable | held out |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for arm in arms:
        for number, rounds in enumerate(zip(*gain["arms"][arm]["rounds"]), 1):
            mean_of = {key: statistics.mean(one[key] for one in rounds) for key in rounds[0]}
            yield (
                f"| {arm} | {number} | {mean_of['written']:,.0f} | {mean_of['kept']:,.0f} | "
                f"{mean_of['behaviours']:,.0f} | {mean_of['instances']:,.0f} | {mean_of['right']:.1%} | "
                f"{mean_of['readable']:.1%} | {mean_of['held_out']:,.1f} |"
            )
    yield ""


def _within(gain: Mapping[str, Any]) -> str:
    """Where the ceiling has fewer seeds than the gain: in how many both are compared."""
    return "" if gain["recovered_seeds"] in (0, gain["seeds"]) else f", {gain['recovered_seeds']} seeds"


def _certainty(gain: Mapping[str, Any]) -> str:
    low, high = gain["interval"]
    said = f"95 % interval over seeds {low:+.1f} to {high:+.1f}"
    said += f"; positive in {gain['seeds_positive']} of {gain['seeds']} seeds"
    if gain["recovered_fraction"] is None:
        return said
    return f"{said}; {gain['recovered_fraction']:.0%} of what the interpreter's answers add{_within(gain)}"


def _cell(figures: Mapping[str, Any], kind: str) -> str:
    direct = f"{mean(figures['direct']):.1%}"
    return f"{direct} ({mean(figures['plan']):.1%})" if kind in PLANNED else direct


def _yield(written: Mapping[str, Any]) -> Iterator[str]:
    yield "## What the base writes freely"
    yield ""
    yield (
        f"{written['samples']:,} samples at temperature {written['temperature']}: {written['valid']:.1%} valid, "
        f"{written['new']:.1%} new in behaviour ({written['discovered']:,} different), "
        f"{written['new_per_1000']:.0f} per 1,000 samples, {written['new_per_cpu_minute']:,.0f} per CPU minute."
    )
    yield ""
    yield "| method | valid | new |"
    yield "|---|---|---|"
    for method, shares in written["by_method"].items():
        yield f"| {method} | {shares['valid']:.1%} | {shares['new']:.1%} |"
    yield ""
    if "recheck" in written:
        again = written["recheck"]
        yield (
            f"Kept answers judged again by another road (read among all operations of the world, run on values instead "
            f"of texts): {again['wrong']:,} of {again['checked']:,} disagree."
        )
        yield ""


def _filters(table: Mapping[str, Any]) -> Iterator[str]:
    yield "## The filters of Self-Instruct against the truth"
    yield ""
    yield (
        f"{table['items']:,} written and answered items, {table['good'] / table['items']:.1%} of them good (a valid "
        "instruction and a right answer). Precision: share of what a filter drops that is bad; recall: share of what "
        "is bad that it drops."
    )
    yield ""
    yield "| filter | drops | precision | recall | AUC | good among kept |"
    yield "|---|---|---|---|---|---|"
    for name, row in table["alone"].items():
        drops = row["dropped_bad"] + row["dropped_good"]
        cells = [_share(row[key]) for key in ("precision", "recall", "auc", "good_after")]
        yield f"| {name} | {drops:,} | {' | '.join(cells)} |"
    all_of_them = table["together"]
    cells = [_share(all_of_them[key]) for key in ("precision", "recall")]
    drops = table["items"] - all_of_them["kept"]
    yield f"| all, in their order | {drops:,} | {' | '.join(cells)} | | {_share(all_of_them['good_after'])} |"
    yield ""


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _induction(table: Mapping[str, Any]) -> Iterator[str]:
    yield "## Instructions induced from pairs"
    yield ""
    yield "Share of held-out programs whose behaviour the induced instruction has."
    yield ""
    yield "| programs | tasks | greedy | searched tasks | greedy on those | with search |"
    yield "|---|---|---|---|---|---|"
    for name in (name for name in table if name != "people"):
        row = table[name]
        yield (
            f"| {name} | {row['tasks']} | {row['greedy']:.1%} | {row['searched']} | {row['greedy_of_searched']:.1%} | "
            f"{row['search']:.1%} |"
        )
    yield ""
    if "people" in table:
        yield "Tasks that people made (instruction induction), carried out by the same model:"
        yield ""
        yield "| task | induced instruction | with it | with people's instructions |"
        yield "|---|---|---|---|"
        for name, row in table["people"].items():
            yield f"| {name} | {row['written'] or '–'} | {row['own']:.1%} | {row['people']:.1%} |"
        yield ""


def _rouge(figures: Mapping[str, Any]) -> Iterator[str]:
    deciding, speedup, check = figures["deciding"], figures["speedup"], figures["agreement"]
    yield "## ROUGE-L"
    yield ""
    yield (
        f"All pairs of {figures['texts']:,} instructions, {figures['decisions']:,} decisions: "
        f"{deciding['cpu_s']:.1f} s of one core, {speedup['tokens_ready']:,.0f} times as fast as the rouge_score "
        f"package per decision with tokens ready ({speedup['as_used']:,.0f} as it is used); "
        f"{check['disagreements']} disagreements in {check['pairs']:,} pairs."
    )
    yield ""


def _world(figures: Mapping[str, Any]) -> Iterator[str]:
    yield "## The judge itself"
    yield ""
    yield (
        f"{figures['programs']:,} random programs of one to three steps, said in words and read back: "
        f"{figures['mismatch']:,} with another meaning, {figures['unreadable']:,} unreadable, "
        f"{figures['ambiguous']:,} ambiguous."
    )
    yield ""


def _audit(files: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "## Public data under audit"
    yield ""
    yield "Claims that a program can judge, and those that are wrong; places are lines of the file (items, of a list)."
    yield ""
    yield "| file | answers | claims | judged | wrong | where |"
    yield "|---|---|---|---|---|---|"
    for figures in files:
        for kind, judged in sorted(figures["checked"].items()):
            places = [re.split(r"[: ]", fault["place"])[-1] for fault in figures["faults"] if fault["kind"] == kind]
            where = ", ".join(places[:PLACES]) + (" …" if len(places) > PLACES else "")
            yield (
                f"| {figures['file']} | {figures['answers']:,} | {kind} | {judged:,} | "
                f"{figures['wrong'].get(kind, 0):,} | {where} |"
            )
    yield ""
