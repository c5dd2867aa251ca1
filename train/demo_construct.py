"""A short round of construction for the demo: base, one round of own instructions beside one of seeds alone, and what
became of what the model wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from instruct.curriculum import Course
from instruct.exam import KINDS, PLANNED
from instruct.funnel import funnel, show_funnel
from instruct.records import REASONS, Record, read_records
from model.load import load_run
from train.demo_answer import answering
from train.distributed import Ranks
from train.proof import HEADLINE
from train.proof_report import ASKS
from train.rounds import RoundsConfig, arm_folder, marks_of, run

ARMS = ("seeds", "verified")
SHOWN = 10


def construction(config: RoundsConfig, ranks: Ranks) -> dict[str, Any] | None:
    """Run what is missing of both arms; marks by arm and round, the funnel, ten items with their fates, and, where
    execution was taught, how the last model answers. None when it was interrupted."""
    marks = {}
    for arm in ARMS:
        one = replace(config, construct=replace(config.construct, arm=arm))
        if marks_of(one) is None:
            run(one, ranks)
        marks[arm] = marks_of(one)
        if marks[arm] is None:
            return None
    folder = arm_folder(replace(config, construct=replace(config.construct, arm="verified")))
    numbers = range(1, config.rounds + 1)
    records = [r for number in numbers for r in read_records(folder / f"round{number}" / "records.jsonl")]
    facts = {
        "marks": marks,
        "funnel": funnel(records, config.rounds * config.construct.propose.samples),
        "items": [_shown(record) for record in chosen(records)],
    }
    if config.execution:
        last = folder / f"round{config.rounds}" / "train" if config.rounds else Path(config.run) / "base"
        facts["answering"] = answering(load_run(last), Course(config.curriculum, config.seed))
    return facts


def chosen(records: Sequence[Record], count: int = SHOWN) -> list[Record]:
    """Kept and fallen items by turns, of as many methods and reasons as there are; the same for the same records."""
    kept = _varied([r for r in records if r.kept], lambda r: r.origin.method)
    fallen = _varied([r for r in records if r.decision and not r.kept and r.instruction], lambda r: r.decision.code)
    half = max(count // 2, count - len(fallen))
    shown = kept[:half]
    return shown + fallen[: count - len(shown)]


def _varied(records: Sequence[Record], key: Callable[[Record], str]) -> list[Record]:
    """The first of each group, then the second of each, and so on."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    ordered = [(number, order, r) for order, group in enumerate(groups.values()) for number, r in enumerate(group)]
    return [record for _, _, record in sorted(ordered, key=lambda each: each[:2])]


def _shown(record: Record) -> dict[str, Any]:
    pair = next((instance for instance in record.instances if instance.output), None)
    return {
        "instruction": record.instruction,
        "method": record.origin.method,
        "kept": record.kept,
        "fate": record.decision.code if record.decision else "undecided",
        "why": (record.decision and (record.decision.detail or REASONS[record.decision.code].sentence)) or "",
        "program": record.program,
        "example": None if pair is None else {"input": pair.input, "output": pair.output},
    }


def points(facts: Mapping[str, Any]) -> float:
    """The gain over the seeds alone, on what `train.proof` measures it."""
    last = [facts["marks"][arm][-1][HEADLINE]["direct"] for arm in ARMS]
    return 100 * (last[1] - last[0])


def construction_page(facts: Mapping[str, Any]) -> Iterator[str]:
    """The section of the report."""
    seeds, verified = facts["marks"]["seeds"], facts["marks"]["verified"]
    yield "## The model writes its own instructions"
    yield ""
    yield (
        f"A second small model learnt the operations of the embedded world, then wrote instructions; a program judged "
        f"each, and the model learnt from those that hold. On compositions that the seeds do not hold this gives "
        f"**{points(facts):+.1f} points** over the same training on the seeds alone (one seed of the random numbers; "
        "five are in `results/construct.md`)."
    )
    yield ""
    yield "| asked | base | seeds alone | with own instructions |"
    yield "|---|---|---|---|"
    for kind in KINDS:
        cells = [_cell(marks[kind], kind) for marks in (seeds[0], seeds[-1], verified[-1])]
        yield f"| {ASKS[kind]} | {' | '.join(cells)} |"
    yield ""
    yield "Direct answers; in brackets through the model's own plan."
    yield ""
    yield "~~~~text"
    yield from show_funnel(facts["funnel"])
    yield "~~~~"
    yield ""
    yield "Some of what it wrote, and what became of it:"
    yield ""
    yield "| instruction | by | fate | means | example |"
    yield "|---|---|---|---|---|"
    for item in facts["items"]:
        fate = f"**kept**, {item['fate']}" if item["kept"] else f"{item['fate']}: {item['why']}"
        pair = item["example"]
        example = "" if pair is None else f"{pair['input']} → {pair['output']}" if pair["input"] else pair["output"]
        cells = (item["instruction"], item["method"], fate, item["program"] or "", example)
        yield f"| {' | '.join(_plain(cell) for cell in cells)} |"
    yield ""


def _cell(marks: Mapping[str, float], kind: str) -> str:
    return f"{marks['direct']:.1%}" + (f" ({marks['plan']:.1%})" if kind in PLANNED else "")


def _plain(text: str) -> str:
    """Text for one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
