"""The causal experiment as a page: `crosslingual.md`, from the figures of `train.crosslingual`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from train.evaluation import interval

COLUMNS = ("direct", "random", "retrieved", "constructed", "oracle", "ablated")
MEANS = {
    "direct": "the question, answered at once",
    "random": "the steps of any known chain",
    "retrieved": "the steps of the nearest known question (BM25)",
    "constructed": "the chain that the model writes itself",
    "oracle": "the right chain, run by the model",
    "ablated": "constructed, in a model that never saw the translations of these names",
    "control_direct": "facts taught in Chinese too: at once",
    "control_constructed": "facts taught in Chinese too: constructed",
    "control": "the difference of the last two",
}
TITLES = {
    "capital": "capital of a country",
    "country_of_capital": "country of a capital",
    "currency": "currency of a country",
    "young": "young of an animal",
    "continent": "continent of a country",
    "language": "language of a country",
}


def summary(figures: Mapping[str, float]) -> str:
    """One line."""
    return ", ".join(f"{key} {figures[key]:.1%}" for key in (*COLUMNS, "control"))


def markdown(report: Mapping[str, Any]) -> str:
    figures = report["crosslingual"]
    return "\n".join(
        [
            "# Read in English, asked in Chinese",
            "",
            f"`{report['command']}`; {figures['seeds']} seed{'s' * (figures['seeds'] > 1)}; "
            + ", ".join(f"{key} {value}" for key, value in report["machine"].items()),
            "",
            *_introduction(figures),
            *_headline(figures),
            *_relations(figures),
            *_hops(figures),
            *_new_words(figures),
            *_planning(figures),
            *_errors(figures),
        ]
    )


def _introduction(figures: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"The model read the facts of some countries in English only. Asked for them in Chinese it answers "
        f"**{figures['direct']:.1%}** at once, and **{figures['constructed']:.1%}** when it first writes the "
        "instructions that lead there (translate the name into English, answer, translate back) and carries them out "
        f"itself. A model that never saw the translations of these names reaches {figures['ablated']:.1%} by its "
        "chains, and where the facts were taught in Chinese too, constructing changes "
        f"{100 * figures['control']:+.1f} points."
    )
    yield ""
    yield (
        "Questions are in wordings in which lessons ask about other names. No lesson holds a Chinese statement, "
        "question or chain about these facts."
    )
    yield ""


def _headline(figures: Mapping[str, Any]) -> Iterator[str]:
    yield f"## Means over relations whose answers are entities ({', '.join(TITLES[n] for n in figures['entities'])})"
    yield ""
    several = figures["seeds"] > 1
    yield "| way | right | what it is |" if not several else "| way | right | 95 % over seeds | what it is |"
    yield "|---|---|---|" if not several else "|---|---|---|---|"
    for key, meaning in MEANS.items():
        values = [each[key] for each in figures["per_seed"]]
        low, high = interval(values)
        spread = f" {low:.1%} to {high:.1%} |" if several else ""
        yield f"| {key.replace('_', ', ')} | {figures[key]:.1%} |{spread} {meaning} |"
    yield ""


def _table(rows: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    yield f"| asked | guess | {' | '.join(COLUMNS)} | control: at once | control: constructed | questions a seed |"
    yield "|---|---|" + "---|" * (len(COLUMNS) + 3)
    for name, each in rows.items():
        cells = [each["guess"], *(each[key] for key in COLUMNS), each["control_direct"], each["control_constructed"]]
        yield f"| {_title(name)} | {' | '.join(f'{cell:.1%}' for cell in cells)} | {each['asked']:.0f} |"
    yield ""


def _title(name: str) -> str:
    if name in TITLES:
        return TITLES[name]
    *_, last = steps = name.split(" | ")
    spelt = last not in TITLES
    hop = TITLES[steps[1]].replace("a country", "the country whose capital is …")
    return f"{hop}{', and the first character of that' if spelt else ''}"


def _relations(figures: Mapping[str, Any]) -> Iterator[str]:
    yield "## Every relation"
    yield ""
    yield (
        "*guess*: the share that the most frequent answer gets. Continent and language have few answers, or answers "
        "that look like the question, so a model shares them across languages by itself: they are in no mean."
    )
    yield ""
    untaught = figures["untaught_chain"]
    yield from _table(figures["relations"])
    yield f"The chain for this relation was in no lesson ({_title(untaught['relation'])}); it is in no mean either:"
    yield ""
    yield from _table({untaught["relation"]: untaught})


def _hops(figures: Mapping[str, Any]) -> Iterator[str]:
    yield "## Two hops"
    yield ""
    yield from _table(figures["two_hops"])


def _new_words(figures: Mapping[str, Any]) -> Iterator[str]:
    yield "## In words that no lesson has"
    yield ""
    yield (
        "The same questions, half in held-out phrases of the grammar, half in words that the grammar does not know. "
        "What a word means that it has never met, the model can only guess: these figures say how far wordings carry, "
        "not whether construction does."
    )
    yield ""
    yield from _table(figures["new_words"])


def _planning(figures: Mapping[str, Any]) -> Iterator[str]:
    yield "## Planning"
    yield ""
    yield (
        "The name stands beside the question; the model is asked for a plan, sees no name while it writes it, and "
        "carries it out. A plan is right when it has the right steps in the right order (each step takes what the one "
        "before gives). No lesson has a plan of the second kind: two hops, and one more operation on the answer."
    )
    yield ""
    yield "| asked | guess | at once | plan right | answered by its own plan | by the right plan | own plan, ablated |"
    yield "|---|---|---|---|---|---|---|"
    for name, each in figures["planning"].items():
        cells = [f"{each[key]:.1%}" for key in ("guess", "direct", "plan", "planned", "oracle", "ablated")]
        yield f"| {_title(name)} | {' | '.join(cells)} |"
    yield ""


def _errors(figures: Mapping[str, Any]) -> Iterator[str]:
    yield "## Where constructed answers go wrong"
    yield ""
    yield "The first fault of each constructed answer of the headline, as a share of all of them."
    yield ""
    yield "| first fault | share |"
    yield "|---|---|"
    for key, value in figures["errors"].items():
        yield f"| {'none' if key == 'right' else key} | {value:.2%} |"
    yield ""
