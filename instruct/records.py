"""Records: the one schema for an instruction, wherever it came from and whatever became of it.

What it is. A `Record` is an instruction with its instances (input and output), its `Origin` (by which method, in which
round, from which parents, how sampled), what a program knows about it (program, behaviour, scores) and the `Decision`
that kept or dropped it. A file of records is JSON lines, one record each, keys always in the same order.

    for record in read_records("round1.jsonl"): ...
    write_records("kept.jsonl", merge([part0, part1]))
    python -m instruct.records funnel FILE...        # asked for, raw, what fell at each stage and why, kept
    python -m instruct.records why FILE... --id ID   # one item: its fate, and its ancestors back to the seeds
    python -m instruct.records stats FILE...         # methods, languages, depth, behaviours, labels, diversity

Why so. A pipeline that drops items silently cannot be trusted: people who get 30 items of 1,000 want to know where the
others went (instructlab/sdg#426), and where one comes from (instructlab/instructlab#1489). So nothing is ever removed:
an item is written with a reason out of one table, `REASONS`. The id is a hash of the content, so that it cannot refer
to anything else. Who wrote an answer (`LABEL_SOURCES`) is never lost, because answers that the model wrote and a
verifier accepted are one experiment and answers of an interpreter another.

A file of records is training data as it stands: a row looks like Self-Instruct's, and its `split` is "train" when it
was kept and "dropped" when not, which `train.sft` respects.

What it leaves out. No database and no index: files of some 100,000 records are read from the beginning.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from configs import UserError, check, run_main
from data.chat import Conversation
from data.formats import Row, conversations_of, read_rows, recognise, write_rows
from instruct.world.operation import language_of

#: Who wrote an answer, and who looked at it.
LABEL_SOURCES = {
    "human": "a person wrote it",
    "O1": "the model's own answer, judged by the verifier",
    "O2": "written by the interpreter",
    "O3": "unverified: nobody has judged it",
    "O4": "consistency only: the model's samples agree",
}

COMBINE = "evolve:combine"  # the method whose items have their parents for a plan
#: How an instruction came about. A method may name its operator after a colon, as in "evolve:deepen".
METHODS = {
    "seed": "read from a file of seeds",
    "self-instruct": "the next item of a list of eight instructions",
    "magpie": "sampled from the bare user turn",
    "evolve": "made from its parent by an operator",
    "back-translate": "written for a given input and output, or for a document",
    "induce": "found from input-output pairs",
    "paraphrase": "its parent in other words",
    "expand": "its parent with a new input",
    "grammar": "drawn from the grammar of the world",
}


class Reason(NamedTuple):
    """A fate: the stage that decides it, whether it keeps the item, and what it means."""

    stage: str
    kept: bool
    sentence: str


#: Every fate, in the order in which a pipeline decides them.
REASONS = {
    "cut": Reason("propose", False, "the sample ended at the limit of tokens, not of its own accord"),
    "format": Reason("V0", False, "it does not have the form of an instruction with its parts"),
    "length": Reason("filter", False, "the instruction is too short or too long"),
    "keyword": Reason("filter", False, "it asks for what text cannot give (a picture, a file), or names a model"),
    "repetition": Reason("filter", False, "it repeats itself"),
    "echo": Reason("filter", False, "the answer copies the instruction or the input"),
    "duplicate": Reason("filter", False, "the same instruction and instances were kept before"),
    "rouge": Reason("filter", False, "its words are too close to those of an instruction that was kept"),
    "embedding": Reason("filter", False, "its embedding is too close to that of an instruction that was kept"),
    "contradiction": Reason("filter", False, "the same input has different answers"),
    "quality": Reason("filter", False, "its score lies below the bound"),
    "parse": Reason("V1", False, "the world cannot read the instruction"),
    "ambiguous": Reason("V1", False, "the instruction can be read as two programs that behave differently"),
    "type": Reason("V2", False, "the steps do not fit together, or the input is not of the type that they take"),
    "run": Reason("V3", False, "the program has no result for its input, or for most inputs"),
    "constant": Reason("V4", False, "the result is the same whatever the input"),
    "identity": Reason("V4", False, "the result is the input"),
    "redundant": Reason("V4", False, "a shorter instruction does the same"),
    "known": Reason("V5", False, "its behaviour is known already"),
    "wrong": Reason("V6", False, "the answer is not right"),
    "inconsistent": Reason("answer", False, "the model's own samples do not agree on an answer"),
    "round trip": Reason("answer", False, "the instruction written back from the answer means something else"),
    "surplus": Reason("limit", False, "it would have been kept, but as many as were wanted had passed"),
    "test split": Reason("split", False, "its behaviour is held out for testing"),
    "given": Reason("kept", True, "a seed"),
    "verified": Reason("kept", True, "a program ran it, and every answer is right"),
    "consistent": Reason("kept", True, "no program judged it; the model's own samples agree"),
    "unverified": Reason("kept", True, "no program judged it"),
}


# Schema --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Instance:
    """One input ("" for none) with its answer. `verified` is None where no program could judge; `votes` is how many of
    the model's samples gave this answer."""

    input: str
    output: str
    label_source: str = "O3"
    verified: bool | None = None
    votes: int | None = None


@dataclass(frozen=True)
class Origin:
    """Where an instruction comes from. `parents` are ids of records; `sampling` holds temperature, top_p, seed, ...;
    `checkpoint` names the model that wrote it; `place` is file and line of a seed."""

    method: str = "seed"
    round: int = 0
    parents: tuple[str, ...] = ()
    sampling: Mapping[str, float] = field(default_factory=dict)
    checkpoint: str = ""
    place: str = ""


@dataclass(frozen=True)
class Decision:
    """What became of an item: a code of `REASONS`, and a detail for the reader (the right answer, the nearest id)."""

    code: str
    detail: str = ""

    def __post_init__(self) -> None:
        if self.code not in REASONS:
            raise UserError(f"unknown reason {self.code!r}: a decision has one of {', '.join(REASONS)}")

    @property
    def kept(self) -> bool:
        return REASONS[self.code].kept

    @property
    def stage(self) -> str:
        return REASONS[self.code].stage

    def __str__(self) -> str:
        fate = "kept" if self.kept else f"dropped at {self.stage}"
        return f"{fate}, {self.code}: {REASONS[self.code].sentence}{f' ({self.detail})' if self.detail else ''}"


@dataclass(frozen=True)
class Record:
    """One instruction. `lang` is "en", "zh" or "" (neither) and follows from the text when not given; `program` is what
    it means ("sort_up | item 2"), where it could be read; `behaviour` is its fingerprint; `decision` is None before it
    was judged.

    Raises `UserError` naming all that contradicts itself; a record that was kept has no answer known to be wrong.
    """

    instruction: str
    instances: tuple[Instance, ...] = ()
    lang: str | None = None
    is_classification: bool | None = None
    origin: Origin = Origin()
    program: str | None = None
    behaviour: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    decision: Decision | None = None

    def __post_init__(self) -> None:
        if self.lang is None:
            object.__setattr__(self, "lang", language_of(self.instruction) or "")
        check(list(_problems(self)))

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits: the hash of the instruction, the inputs and the outputs."""
        content = [self.instruction, [[instance.input, instance.output] for instance in self.instances]]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode("utf-8")).hexdigest()[:16]

    @property
    def kept(self) -> bool:
        return self.decision is not None and self.decision.kept


def _problems(record: Record) -> Iterator[str]:
    texts = [record.instruction, *(text for instance in record.instances for text in (instance.input, instance.output))]
    if not all(_is_unicode(text) for text in texts):
        yield "a text holds half of a surrogate pair: remove it"
    if record.lang not in ("en", "zh", ""):
        yield f"lang must be en, zh or empty, got {record.lang!r}"
    if record.origin.method.partition(":")[0] not in METHODS:
        yield f"unknown method {record.origin.method!r}: it must be one of {', '.join(METHODS)}"
    for source in {instance.label_source for instance in record.instances} - LABEL_SOURCES.keys():
        yield f"unknown label_source {source!r}: it must be one of {', '.join(LABEL_SOURCES)}"
    if not all(map(math.isfinite, (*record.scores.values(), *record.origin.sampling.values()))):
        yield "scores and sampling must be finite numbers"
    if record.kept and any(instance.verified is False for instance in record.instances):
        yield "a record that is kept holds an answer known to be wrong: give that instance a dropped record of its own"


def _is_unicode(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode("utf-8"))
    except UnicodeEncodeError:
        return False


# Rows ----------------------------------------------------------------------------------------------------------------


def to_row(record: Record) -> Row:
    """The JSON object of a record, keys in their fixed order (new ones are added at the end)."""
    row = {"id": record.id, "lang": record.lang, "instruction": record.instruction}
    row["instances"] = [dict(vars(instance)) for instance in record.instances]
    row["is_classification"] = record.is_classification
    origin = record.origin
    row["origin"] = vars(origin) | {"parents": list(origin.parents), "sampling": _sorted(origin.sampling)}
    row |= {"program": record.program, "behaviour": record.behaviour, "scores": _sorted(record.scores)}
    decision = record.decision
    row["decision"] = decision and {
        "kept": decision.kept,
        "code": decision.code,
        "stage": decision.stage,
        "detail": decision.detail,
    }
    return row | {"split": None if decision is None else "train" if decision.kept else "dropped"}


def _sorted(numbers: Mapping[str, float]) -> dict[str, float]:
    return {key: numbers[key] for key in sorted(numbers)}


def from_row(row: Row) -> Record:
    """The inverse of `to_row`. Keys may be missing where the schema has a default; unknown ones are refused.

    Raises `UserError` (without a place) for a wrong type, an unknown key, or an id or fate that contradicts the rest.
    """
    record = _typed(Record, {key: value for key, value in row.items() if key not in ("id", "split")}, "")
    meant = to_row(record)
    if record.decision is not None:
        _agrees(row["decision"], meant["decision"], ("kept", "stage"))
    _agrees(row, meant, ("id", "split"))
    return record


def _agrees(row: Row, meant: Row, keys: Iterable[str]) -> None:
    """What follows from the rest may be missing, and may not contradict it."""
    for key in keys:
        if row.get(key, meant[key]) != meant[key]:
            raise UserError(f"`{key}` is {row[key]!r}, but follows from the rest: remove it to have it computed")


_hints = cache(typing.get_type_hints)
_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _typed(hint: Any, value: Any, name: str) -> Any:
    """A JSON value as the type of a field; `name` is the path to it."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind is types.UnionType:
        return None if value is None else _typed(inner[0], value, name)
    if kind is tuple:
        _require(isinstance(value, list), name, "a list", value)
        return tuple(_typed(inner[0], item, f"{name}[{i}]") for i, item in enumerate(value))
    if kind is Mapping:
        _require(isinstance(value, dict), name, "an object", value)
        return {key: _typed(inner[1], item, f"{name}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return _object(hint, value, name)
    _require(type(value) is hint or (hint is float and type(value) is int), name, _NAMES[hint], value)
    return value


def _object(cls: type, value: Any, name: str) -> Any:
    _require(isinstance(value, dict), name, "an object", value)
    if cls is Decision:  # the others follow from the code
        value = {key: item for key, item in value.items() if key not in ("kept", "stage")}
    hints, path = _hints(cls), f"{name}." if name else ""
    for key in value.keys() - hints.keys():
        raise UserError(f"unknown key `{path}{key}`: valid are {', '.join(hints)}")
    for field_ in dataclasses.fields(cls):
        if field_.name not in value and field_.default is field_.default_factory:  # both MISSING: it has no default
            raise UserError(f"`{path}{field_.name}` is missing")
    return cls(**{key: _typed(hints[key], item, f"{path}{key}") for key, item in value.items()})


def _require(holds: bool, name: str, kind: str, value: Any) -> None:
    if not holds:
        raise UserError(f"`{name}` must be {kind}, got {json.dumps(value, ensure_ascii=False)[:60]}")


# Files ---------------------------------------------------------------------------------------------------------------


def read_records(path: str | Path) -> Iterator[Record]:
    """The records of a file, one at a time. Raises `UserError` with file and line for what is none."""
    for place, row in read_rows(path):
        try:
            yield from_row(row)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None


def write_records(path: str | Path, records: Iterable[Record]) -> int:
    """Write JSON lines (gzipped when `path` ends in .gz): the whole file or, on an error, none. Gives their number."""
    return write_rows(path, map(to_row, records))


def merge(parts: Iterable[Iterable[Record]]) -> Iterator[Record]:
    """All records of all parts in their order; of those that were kept with the same content only the first stays so,
    the later ones are dropped as duplicates."""
    seen: set[str] = set()
    for record in itertools.chain.from_iterable(parts):
        if record.kept and record.id in seen:
            record = replace(record, decision=Decision("duplicate", record.id))
        elif record.kept:
            seen.add(record.id)
        yield record


def from_seeds(path: str | Path, label_source: str = "human") -> Iterator[Record]:
    """Records out of the instruction data of others (the formats of `data.formats`; files of records too).

    A row with instances is one record, any other conversation is an instruction with one instance; a conversation of
    several turns is none, and a `UserError` with its place. `label_source` says who wrote the answers.
    """
    for place, row in read_rows(path):
        conversations = conversations_of(row, place)  # which refuses what is not text
        place = f"{Path(path).name}{place.removeprefix(str(path))}"
        try:
            yield _seed(row, conversations, label_source, place)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None


def _seed(row: Row, conversations: list[Conversation], label_source: str, place: str) -> Record:
    if "decision" in row and "origin" in row:
        return from_row(row)
    seed = {"origin": Origin(place=place), "decision": Decision("given")}
    kind = recognise(row)
    if kind == "self-instruct" or (kind == "alpaca" and len(conversations[0].messages) == 2):
        pairs = row["instances"] if kind == "self-instruct" else [row]
        instances = tuple(Instance(pair.get("input") or "", pair["output"], label_source) for pair in pairs)
        flag = row.get("is_classification")
        return Record(row["instruction"], instances, is_classification=flag if isinstance(flag, bool) else None, **seed)
    turns = conversations[0].messages
    if [turn.role for turn in turns] != ["user", "assistant"]:
        raise UserError("a seed is one question and one answer; this row is a conversation of another shape")
    return Record(turns[0].content, (Instance("", turns[1].content, label_source),), **seed)


def to_conversations(record: Record) -> list[Conversation]:
    """A record as training data: a conversation for each instance; none where it was not kept."""
    return conversations_of(to_row(record), record.id) if record.kept and record.instances else []


def main(argv: list[str]) -> None:
    """`python -m instruct.records funnel|why|stats FILE...`; the reports are made by `instruct.funnel`."""
    from instruct.funnel import main as report  # which imports this module

    report(argv)


if __name__ == "__main__":
    run_main(main)
