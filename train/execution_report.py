"""The measures of execution as a page: `execute.md`, from the figures of `train.execution`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from train.proof_report import ASKS

WAYS = {
    "direct": "the question, answered at once",
    "construct": "the chain that the model writes",
    "search": "the best of several written chains",
    "plan": "the model's plan",
    "retrieve": "the nearest known instruction",
}
ATTACKED = {
    "construct": "an input beside a constructed chain",
    "plan": "an input beside a plan",
    "quoted": "a text quoted in the question",
}
TITLES = {**ASKS, "facts": "closed questions over facts, held-out words"}


def percent(value: Any) -> str:
    """A share, or its mean over seeds with the interval; a dash where there is none."""
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        low, high = value["interval"]
        return f"{value['mean']:.1%} ({low:.1%} to {high:.1%})"
    return f"{value:.1%}"


def number(value: Any) -> float:
    return value["mean"] if isinstance(value, Mapping) else value


def markdown(report: Mapping[str, Any]) -> str:
    """The page."""
    found, seeds = report["execution"], report["models"]
    machine = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    lines = [
        "# Questions answered by constructed instructions",
        "",
        f"`{report['command']}`; {seeds} model{'s' * (seeds > 1)}; {machine}",
        "",
        *_strategies(found["strategies"]),
        *_facts(found),
        *_injection(found["injection"]),
        *_routing(found.get("routing")),
        *_calibration(found["calibration"]),
        *_others(report),
    ]
    return "\n".join(lines)


def _strategies(marks: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    ways = [way for way in WAYS if any(way in of for of in marks.values())]
    yield "## Strategies"
    yield ""
    yield f"| asked | {' | '.join(ways)} |"
    yield "|---|" + "---|" * len(ways)
    for kind, of in marks.items():
        yield f"| {TITLES[kind]} | {' | '.join(percent(of.get(way)) for way in ways)} |"
    yield ""
    yield "; ".join(f"*{way}*: {WAYS[way]}" for way in ways) + ". A refusal is no right answer."
    if "retrieve" not in ways:
        yield "Nothing was retrieved: no embedder was given."
    yield ""


def _facts(found: Mapping[str, Any]) -> Iterator[str]:
    facts, said = found["facts"], found["sentences"]
    yield "## Facts"
    yield ""
    yield (
        f"Everything that the world knows of a name, {number(facts['asked']):,.0f} questions in words that no training "
        f"text contains: constructed {percent(facts['construct'])}, directly {percent(facts['direct'])}. Of the right "
        f"answers {percent(said['right'])} come in a sentence that holds the answer and what was asked about."
    )
    yield ""
    yield "| asked for | language | directly | constructed |"
    yield "|---|---|---|---|"
    for relation, languages in found["relations"].items():
        for language, cell in languages.items():
            shares = f"{percent(cell['direct'])} | {percent(cell['construct'])}"
            yield f"| {relation.replace('_', ' ')} | {language} | {shares} |"
    yield ""


def _injection(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## Injection"
    yield ""
    yield f"| {found['attempts']:,} attacks each in | chains changed |"
    yield "|---|---|"
    for way, count in found["changed"].items():
        yield f"| {ATTACKED[way]} | {count:,} |"
    yield ""
    yield (
        f"Shown the attacks, which execution never does, the same model writes another chain for "
        f"{percent(found['shown'])} of them."
    )
    yield ""


def _routing(found: Mapping[str, Any] | None) -> Iterator[str]:
    yield "## Routing"
    yield ""
    if found is None:
        yield "Not measured: it needs an embedder (`--embedder`)."
    else:
        yield (
            f"Instructions in held-out words, brought to one of {number(found['known']):,.0f} known ones by embedding: "
            f"{percent(found['embedding'])} do what was asked; of the chains that the model writes, "
            f"{percent(found['generating'])}. The difference is {number(found['points']):+.1f} points."
        )
    yield ""


def _calibration(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "## Confidence"
    yield ""
    yield "| confidence at least | answered | right among them |"
    yield "|---|---|---|"
    for row in rows:
        yield f"| {number(row['threshold']):g} | {percent(row['answered'])} | {percent(row['right'])} |"
    yield ""


def _others(report: Mapping[str, Any]) -> Iterator[str]:
    """The headline of each other measure; the JSON has all of them."""
    for name, title in (
        ("crosslingual", "Read in English, asked in Chinese"),
        ("embedding", "Instruction embeddings"),
        ("masked", "Masked tokens named rightly"),
    ):
        figures = {key: value for key, value in report.get(name, {}).items() if _is_share(value)}
        if figures:
            yield f"## {title}"
            yield ""
            yield "; ".join(f"{key.replace('_', ' ')} {value:.3f}" for key, value in figures.items())
            yield ""


def _is_share(value: Any) -> bool:
    return isinstance(value, float) and -1 <= value <= 1
