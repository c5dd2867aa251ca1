"""What feedback gains, from the table of `train.feedback`: `feedback.json`, `feedback.md` and `feedback.png`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from instruct.exam import KINDS, PLANNED
from train.evaluation import interval
from train.plots import BLUE, GREY, ORANGE, can_plot, figure_of, quiet
from train.run import write_text

HEADLINE = "depth3"
ASKS = {
    "depth3": "chains of three",
    "compositions": "held-out compositions",
    "open": "other new compositions",
    "phrasings": "new wordings",
    "inputs": "new inputs",
}
ABOUT = {  # what names do not say; "dpo-": names that begin so
    "lessons": "the steps of policy gradient with its rehearsed lessons and without any reward",
    "reward": "policy gradient with a learnt reward alone",
    "reward-watched": "the same until too few of the sampled answers are truly right",
    "players": "half of the steps write instructions, which are answered to be judged (not counted as sampled), half "
    "learn to solve them",
    "dpo-": "from a simulated rater that is wrong so often, in per cent",
}
EVERY = 10  # steps between the points of a curve
CURVES = ("reward", "kl", "entropy", "length", "repetition", "silent")

Table = Mapping[str, Mapping[int, Mapping[str, Any]]]


# Figures -------------------------------------------------------------------------------------------------------------


def figures_of(table: Table, group: int) -> dict[str, Any]:
    """Points over the base of every arm within each seed, and what each cost and how it went; group: answers to each
    question of policy gradient."""
    base = table["base"]
    tuned = {name: table.get(name, {}) for name in ("sft", "adapters")}
    arms = {name: _arm(found, base, group) for name, found in table.items() if found and name not in ("base", *tuned)}
    return {
        "headline": HEADLINE,
        "gains": {name: arm["points"][HEADLINE]["mean"] for name, arm in arms.items()},
        "base": {kind: statistics.mean(one["marks"][kind]["direct"] for one in base.values()) for kind in KINDS},
        "arms": arms,
        "adapters": _adapters(**tuned),
    }


def _adapters(sft: Mapping[int, Mapping[str, Any]], adapters: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Tuning of all weights beside that of adapters, in the seeds that have both; {} without any."""
    seeds = sorted({*sft} & {*adapters})
    if not seeds:
        return {}
    before = [sft[seed]["task"]["before"] for seed in seeds]
    full, few = ([arm[seed]["task"]["after"] for seed in seeds] for arm in (sft, adapters))
    gain = sum(full) - sum(before)
    return {
        "seeds": seeds,
        "before": before,
        "all_weights": full,
        "adapters": few,
        "fraction": (sum(few) - sum(before)) / gain if gain > 0 else None,
    }


def _arm(found: Mapping[int, Mapping[str, Any]], base: Mapping[int, Mapping[str, Any]], group: int) -> dict[str, Any]:
    def points(kind: str, way: str) -> dict[str, Any]:
        by_seed = [100 * (one["marks"][kind][way] - base[seed]["marks"][kind][way]) for seed, one in found.items()]
        return {"mean": statistics.mean(by_seed), "interval": list(interval(by_seed)), "by_seed": by_seed}

    evaluations = [[r for r in one["records"] if r["kind"] == "evaluation"] for one in found.values()]
    drifts = [records[-1]["chosen_drift"] for records in evaluations if records and "chosen_drift" in records[-1]]
    groups = [sum(r["groups"] for r in one["records"] if r["kind"] == "rollouts") for one in found.values()]
    reports = [one["reward_model"] for one in found.values() if "reward_model" in one]
    return {
        "seeds": list(found),
        "points": {kind: points(kind, "direct") for kind in KINDS},
        "points_by_plan": {kind: points(kind, "plan") for kind in PLANNED},
        "cpu_minutes": statistics.mean(one["cpu_seconds"] for one in found.values()) / 60,
        "stopped": {seed: one["stopped"] for seed, one in found.items() if one["stopped"]},
        "curves": [_curve(one["records"]) for one in found.values()],
        **({"answers": group * statistics.mean(filter(None, groups))} if any(groups) else {}),
        **({"chosen_drift": drifts} if drifts else {}),
        **({"reward_model": reports} if reports else {}),
        **({"evaluations": evaluations} if reports else {}),
    }


def _curve(records: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """The figures of rollouts, means of so many steps in a row; of a game, one run after the other."""
    rollouts = [record for record in records if record["kind"] == "rollouts"]
    parts = [rollouts[start : start + EVERY] for start in range(0, len(rollouts), EVERY)]
    return [
        {"step": number * EVERY + len(part)} | {key: statistics.mean(r[key] for r in part) for key in CURVES}
        for number, part in enumerate(parts)
    ]


# The page ------------------------------------------------------------------------------------------------------------


def write(report: Mapping[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "feedback.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    if pictures := can_plot():
        draw(report, out / "feedback.png")
    write_text(out / "feedback.md", "\n".join(page(report, pictures)) + "\n")
    print(f"{out / 'feedback.json'}, {out / 'feedback.md'}")


def page(report: Mapping[str, Any], pictures: bool) -> Iterator[str]:
    arms = report["arms"]
    yield "# What feedback gains"
    yield ""
    yield f"`{report['command']}`; " + ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    yield ""
    yield (
        f"Every method starts from the same bases and learns from {report['answers']:,} sampled answers. Points over "
        "the base, direct answers, mean over seeds with a 95 % interval over seeds in brackets."
    )
    yield ""
    kinds = sorted(KINDS, key=list(ASKS).index)
    yield f"| method | seeds | {' | '.join(ASKS[kind] for kind in kinds)} | CPU minutes | drift of the chosen |"
    yield "|---|---|" + "---|" * len(kinds) + "---|---|"
    yield "| *base, share right* | | " + " | ".join(f"{report['base'][kind]:.1%}" for kind in kinds) + " | | |"
    for name, arm in sorted(arms.items(), key=lambda each: -report["gains"][each[0]]):
        drift = f"{statistics.mean(arm['chosen_drift']):+.1%}" if "chosen_drift" in arm else ""
        cells = [_points(arm["points"][kind]) for kind in kinds]
        yield f"| {name} | {len(arm['seeds'])} | {' | '.join(cells)} | {arm['cpu_minutes']:.1f} | {drift} |"
    yield ""
    named = {
        what: [each for each in arms if each == name or (name.endswith("-") and each.startswith(name))]
        for name, what in ABOUT.items()
    }
    if told := [f"{', '.join(names)}: {what}" for what, names in named.items() if names]:
        yield f"{'; '.join(told)}. Drift: of the log-probability of held-out chosen answers, upwards is likelier."
        yield ""
    sampled = {name: arm.get("answers", report["answers"]) for name, arm in arms.items()}
    if others := [f"{name} {count:,.0f}" for name, count in sampled.items() if count != report["answers"]]:
        yield f"Other numbers of sampled answers: {', '.join(others)}."
        yield ""
    if pictures:
        what = "gain of each method" + ("; proxy and true reward" if "reward" in arms else "")
        yield f"![{what}](feedback.png)"
        yield ""
    for name, arm in arms.items():
        for seed, why in arm["stopped"].items():
            yield f"- {name}, seed {seed}, was stopped: {why}"
    if any(arm["stopped"] for arm in arms.values()):
        yield ""
    if "reward" in arms:
        yield from _reward_model(arms["reward"])
    if tuned := report["adapters"]:
        before, full, few = (statistics.mean(tuned[key]) for key in ("before", "all_weights", "adapters"))
        share = "" if tuned["fraction"] is None else f", {tuned['fraction']:.0%} of the gain"
        yield "## Adapters"
        yield ""
        yield (
            f"Tuned for another task on equally many lessons, the bases answer {before:.1%} of its held-out questions "
            f"before, {full:.1%} after tuning all weights and {few:.1%} after tuning adapters{share} "
            f"({len(tuned['seeds'])} seed{'s' * (len(tuned['seeds']) > 1)})."
        )
        yield ""


def _points(found: Mapping[str, Any]) -> str:
    low, high = found["interval"]
    return f"{found['mean']:+.1f} ({low:+.1f} to {high:+.1f})" if len(found["by_seed"]) > 1 else f"{found['mean']:+.1f}"


def _reward_model(arm: Mapping[str, Any]) -> Iterator[str]:
    accuracy, error = (statistics.mean(one[key] for one in arm["reward_model"]) for key in ("accuracy", "ece"))
    yield "## A learnt reward"
    yield ""
    yield (
        f"The reward model prefers the right one of two answers to held-out questions in {accuracy:.1%}, with an "
        f"expected calibration error of {error:.3f}. What it says of greedy answers while it is the only reward, and "
        "how many of them are right:"
    )
    yield ""
    yield "| step | seed | learnt reward | truly right |"
    yield "|---|---|---|---|"
    for seed, records in zip(arm["seeds"], arm["evaluations"]):
        for record in records:
            yield f"| {record['step']} | {seed} | {record[HEADLINE]:+.2f} | {record[f'{HEADLINE}_right']:.1%} |"
    yield ""


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Gains on the headline, single seeds as points; where it was measured, proxy and true reward over steps."""
    arms = dict(sorted(report["arms"].items(), key=lambda each: report["gains"][each[0]]))
    has_proxy = "reward" in arms and any(arms["reward"]["evaluations"])
    figure = figure_of(9 if has_proxy else 5.5, 1.2 + 0.3 * max(len(arms), 6 if has_proxy else 1))
    left, *right = figure.subplots(1, 2 if has_proxy else 1, squeeze=False)[0]
    for place, arm in enumerate(arms.values()):
        found = arm["points"][HEADLINE]
        left.barh(place, found["mean"], color=BLUE, height=0.6)
        left.plot(found["by_seed"], [place] * len(found["by_seed"]), "o", color=GREY, markersize=3)
    left.set(yticks=range(len(arms)), yticklabels=list(arms), xlabel=f"points on {ASKS[HEADLINE]}")
    left.axvline(0, color="black", linewidth=0.6)
    quiet(left)
    for axes in right:
        twin = axes.twinx()
        for seed, records in zip(arms["reward"]["seeds"], arms["reward"]["evaluations"]):
            right, said = ([(r["step"], r[key]) for r in records] for key in (f"{HEADLINE}_right", HEADLINE))
            axes.plot(*zip(*right), color=BLUE, marker="o", markersize=3)
            twin.plot(*zip(*said), color=ORANGE, linestyle="--")
            for side, points, color in ((axes, right, BLUE), (twin, said, ORANGE)):
                place = {"xytext": (5, -3), "textcoords": "offset points"}
                side.annotate(f"seed {seed}", points[-1], **place, fontsize=8, color=color)
        axes.margins(x=0.18)
        axes.set(xlabel="step", title=f"{ASKS[HEADLINE]}, rewarded by a model")
        axes.title.set_fontsize(10)
        axes.set_ylabel("truly right", color=BLUE)
        twin.set_ylabel("learnt reward", color=ORANGE)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    figure.savefig(path, dpi=130)
