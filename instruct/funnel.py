"""Reports on records: how many fell where, why one item is what it is, and what a collection consists of.

What it is. The reports behind `python -m instruct.records`:

    python -m instruct.records funnel FILE... [--asked N] [--json]
    python -m instruct.records why FILE... --id ID          # the beginning of an id will do
    python -m instruct.records stats FILE... [--json]

Why so. The funnel subtracts: what was asked for, less what never came, less each reason in the order of `REASONS`, is
what was kept, and nothing is left over. Seeds were not constructed, so they stand aside. `why` follows the parents
through all the files given, because a parent mostly comes from an earlier round.

What it leaves out. Distinct-n falls as a collection grows: compare it between collections of the same size only.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, pairwise
from typing import Any

from configs import UserError
from instruct.records import LABEL_SOURCES, METHODS, REASONS, Record, read_records

WORDS = re.compile(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+")  # a Chinese character is a word of its own


# Funnel --------------------------------------------------------------------------------------------------------------


def funnel(records: Iterable[Record], asked: int | None = None) -> dict[str, Any]:
    """Counts {"asked", "raw", "dropped": {code: n}, "undecided", "kept": {code: n}, "seeds"}, codes in the order of
    `REASONS`; raw = all dropped + undecided + all kept, and seeds are counted apart."""
    fates: Counter[str | None] = Counter()
    seeds = 0
    for record in records:
        if record.origin.method == "seed":
            seeds += 1
        else:
            fates[record.decision and record.decision.code] += 1
    counts = {code: fates[code] for code in REASONS if fates[code]}
    return {
        "asked": asked,
        "raw": fates.total(),
        "dropped": {code: count for code, count in counts.items() if not REASONS[code].kept},
        "undecided": fates[None],
        "kept": {code: count for code, count in counts.items() if REASONS[code].kept},
        "seeds": seeds,
    }


def show_funnel(counts: Mapping[str, Any]) -> Iterator[str]:
    """The funnel as lines: each reason with what fell and what is left after it."""
    left, asked = counts["raw"], counts["asked"]
    if asked is not None:
        yield f"{'asked for':27}{asked:>20,}"
    missing = f"   {asked - left:,} fewer than were asked for" if asked is not None and asked > left else ""
    yield f"{'raw':27}{left:>20,}{missing}"
    for code, count in counts["dropped"].items():
        left -= count
        yield f"  {REASONS[code].stage:9}{code:16}{-count:>10,}{left:>10,}   {REASONS[code].sentence}"
    if counts["undecided"]:
        left -= counts["undecided"]
        yield f"  {'':9}{'undecided':16}{-counts['undecided']:>10,}{left:>10,}   nothing has judged it yet"
    base = asked or counts["raw"]
    yield f"{'kept':27}{left:>20,}   {left / base if base else 0:.1%} of {'what was asked for' if asked else 'raw'}"
    for code, count in counts["kept"].items():
        yield f"  {'':9}{code:16}{count:>10,}{'':10}   {REASONS[code].sentence}"
    if counts["seeds"]:
        yield f"seeds, not constructed: {counts['seeds']:,}"


# Why -----------------------------------------------------------------------------------------------------------------


def why(records: Iterable[Record], id: str) -> Iterator[str]:
    """One item with its reason, and its ancestors below it, as lines. `id` may be the beginning of one.

    Raises `UserError` when no id begins so, or several do.
    """
    known: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        known[record.id].append(record)
    found = sorted(key for key in known if id and key.startswith(id))
    if len(found) != 1:
        raise UserError(f"{len(found)} of {len(known)} ids begin with {id!r}; give the whole of one")
    shown: set[str] = set()
    waiting = [(found[0], 0)]
    while waiting:
        key, depth = waiting.pop()
        indent = "    " * depth
        if key in shown or key not in known:
            yield f"{indent}{key}  {'(see above)' if key in shown else '(not in these files)'}"
            continue
        shown.add(key)
        for record in known[key]:
            yield from (indent + line for line in _item(record))
        parents = dict.fromkeys(chain.from_iterable(record.origin.parents for record in known[key]))
        waiting += [(parent, depth + 1) for parent in reversed(parents)]


def _item(record: Record) -> Iterator[str]:
    origin = record.origin
    yield f"{record.id}  {record.decision or 'undecided: nothing has judged it yet'}"
    yield f"  instruction  {record.instruction!r}"
    for instance in record.instances:
        verified = {True: "right", False: "wrong", None: "not verified"}[instance.verified]
        votes = "" if instance.votes is None else f", {instance.votes} votes"
        source = f"{instance.label_source}, {LABEL_SOURCES[instance.label_source]}"
        yield f"  instance     {instance.input!r} -> {instance.output!r}   [{source}; {verified}{votes}]"
    sampled = "".join(f", {key} {value:g}" for key, value in sorted(origin.sampling.items()))
    yield f"  origin       {origin.method}: {METHODS[origin.method.partition(':')[0]]}; round {origin.round}{sampled}"
    facts = {"checkpoint": origin.checkpoint, "place": origin.place, "behaviour": record.behaviour}
    facts["program"] = record.program
    facts["scores"] = ", ".join(f"{key} {value:.4g}" for key, value in sorted(record.scores.items()))
    yield from (f"  {name:12} {value}" for name, value in facts.items() if value)


# Stats ---------------------------------------------------------------------------------------------------------------


def stats(records: Iterable[Record]) -> dict[str, Any]:
    """What a collection consists of. Methods count all records, everything else those that were not dropped."""
    methods: dict[str, Counter] = defaultdict(Counter)
    standing = []
    for record in records:
        methods[record.origin.method].update(raw=1, kept=int(record.kept))
        if record.kept or record.decision is None:
            standing.append(record)
    programs = [record.program.split(" | ") for record in standing if record.program]
    instances = [instance for record in standing for instance in record.instances]
    return {
        "records": sum(counts["raw"] for counts in methods.values()),
        "methods": {name: dict(methods[name]) for name in sorted(methods)},
        "standing": len(standing),
        "languages": _counted(record.lang or "neither" for record in standing),
        "classification": _counted(str(record.is_classification).lower() for record in standing),
        "instances": len(instances),
        "label sources": _counted(instance.label_source for instance in instances),
        "verified": _counted(str(instance.verified).lower() for instance in instances),
        "depth": _counted(len(program) for program in programs),
        "behaviours": len({record.behaviour for record in standing} - {None}),
        "diversity": diversity([record.instruction for record in standing], programs),
    }


def diversity(instructions: list[str], programs: list[list[str]]) -> dict[str, float]:
    """Share of distinct instructions, of distinct words and pairs of words, and how evenly pairs of operations occur
    (entropy in bits: n equally frequent pairs have log2 n)."""
    words = [WORDS.findall(text.lower()) for text in instructions]
    steps = Counter(chain.from_iterable(map(pairwise, programs)))
    total = steps.total()
    return {
        "distinct instructions": _distinct(instructions),
        "distinct-1": _distinct(list(chain.from_iterable(words))),
        "distinct-2": _distinct(list(chain.from_iterable(map(pairwise, words)))),
        "pairs of operations": len(steps),
        "entropy of pairs": round(-sum(n / total * math.log2(n / total) for n in steps.values()) + 0.0, 4),
    }


def _distinct(items: list) -> float:
    return round(len(set(items)) / len(items), 4) if items else 0.0


def _counted(values: Iterable[Any]) -> dict[str, int]:
    counts = Counter(values)
    return {str(value): counts[value] for value in sorted(counts)}


def show_stats(found: Mapping[str, Any]) -> Iterator[str]:
    for name, value in found.items():
        if name == "methods":
            shown = ", ".join(f"{method} {counts['kept']} kept of {counts['raw']}" for method, counts in value.items())
        elif isinstance(value, dict):
            shown = ", ".join(f"{key} {count}" for key, count in value.items())
        else:
            shown = str(value)
        yield f"{name:15} {shown or 'none'}"


def main(argv: list[str]) -> None:
    """`python -m instruct.records funnel|why|stats FILE...`."""
    parser = argparse.ArgumentParser(prog="python -m instruct.records", description="Look into files of records.")
    parser.add_argument("report", choices=("funnel", "why", "stats"), help="what to print")
    parser.add_argument("files", nargs="+", metavar="FILE", help="records (.jsonl, .jsonl.gz), as `write_records` does")
    parser.add_argument("--id", help="why: the id of the item, or its beginning")
    parser.add_argument("--asked", type=int, metavar="N", help="funnel: how many items were asked for")
    parser.add_argument("--json", action="store_true", help="funnel, stats: one JSON object")
    arguments = parser.parse_args(argv)
    if (arguments.report == "why") != (arguments.id is not None):
        raise UserError("`why` needs --id ID, and only `why` takes it")
    records = chain.from_iterable(map(read_records, arguments.files))
    if arguments.report == "why":
        print("\n".join(why(records, arguments.id)))
        return
    is_funnel = arguments.report == "funnel"
    found = funnel(records, arguments.asked) if is_funnel else stats(records)
    show = show_funnel if is_funnel else show_stats
    print(json.dumps(found, ensure_ascii=False) if arguments.json else "\n".join(show(found)))
