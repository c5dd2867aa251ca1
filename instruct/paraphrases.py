"""Texts that ask for the same: what an embedding is trained on and measured with, from the world or from files.

    read_pairs(["pairs.jsonl"])                 # rows {"a": ..., "b": ...} or {"instruction": ..., "positive": ...}
    known, new = behaviours(course)             # programs to train on; programs that no training text asks for
    said = phrase(course, known, 40, held_out=False)    # in up to 40 wordings each, in each language
    pool, queries = collection(...)             # what is searched, and what for

A text of a pair is a text, or a list of two, an instruction and its input; `behaviour`, where a row has it, says that
all rows with the same value ask for the same. Rows that share a text do so too.

Two programs of the world are one behaviour when they do the same on every probe that both of them take (`instruct.world
.behaviour`); the texts of both are then right answers to each other.

What is held out. A fifth of all texts, by their hash, is never trained on, wherever it comes from; on top of that the
behaviours that the splits of the course hold out, and the phrases that the grammar holds out.

What it leaves out. Degrees of likeness: two texts ask for the same or they do not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from configs import UserError
from data.formats import Row, read_rows
from instruct.curriculum import Course
from instruct.lessons import request
from instruct.world.inputs import CLOSED
from instruct.world.operation import language_of
from instruct.world.program import Program
from instruct.world.splits import LANGUAGES, draw_input

HELD_OUT = 51  # of the 256 values of a hash's first byte
TRIES = 12  # draws for one more different text


@dataclass(frozen=True)
class Phrased:
    """A text, what it asks for, its language ("" where it has none) and, of the world, its program."""

    text: str
    behaviour: str
    language: str = ""
    program: Program | None = None


class Collection(NamedTuple):
    """Texts to search in and texts to search for, none of which is in the pool."""

    pool: list[Phrased]
    queries: list[Phrased]


class Joined:
    """Things that are the same as other things (union-find): `join`, then `name` is equal for all that were joined."""

    def __init__(self):
        self.parent: dict[Hashable, Hashable] = {}

    def name(self, thing: Hashable) -> Hashable:
        """The first thing of those that are the same as this one."""
        self.parent.setdefault(thing, thing)
        while self.parent[thing] != thing:
            self.parent[thing] = self.parent[self.parent[thing]]
            thing = self.parent[thing]
        return thing

    def join(self, things: Iterable[Hashable]) -> None:
        first, *rest = map(self.name, things)
        for each in rest:
            self.parent[self.name(each)] = self.name(first)


def is_held_out(text: str) -> bool:
    """Whether a text is for measuring only: about one in five, always the same."""
    return hashlib.sha256(text.encode()).digest()[0] < HELD_OUT


# Files ---------------------------------------------------------------------------------------------------------------


def read_pairs(paths: Iterable[str | Path]) -> list[Phrased]:
    """The texts of all rows, each once. Raises UserError with the place of the first row that is no pair."""
    joined, texts = Joined(), {}
    for path in paths:
        for place, row in read_rows(path):
            pair = _pair(row, place)
            texts |= dict.fromkeys(pair)
            named = [("behaviour", _behaviour(row, place))] if "behaviour" in row else []
            joined.join([("text", text) for text in pair] + named)
    return [Phrased(text, str(joined.name(("text", text))[1]), language_of(text) or "") for text in texts]


def _pair(row: Row, place: str) -> tuple[str, str]:
    keys = next((keys for keys in (("a", "b"), ("instruction", "positive")) if all(key in row for key in keys)), None)
    if keys is None:
        raise UserError(f"{place}: a row needs `a` and `b`, or `instruction` and `positive`")
    return text_of(row[keys[0]], f"{place}: `{keys[0]}`"), text_of(row[keys[1]], f"{place}: `{keys[1]}`")


def text_of(value: Any, place: str) -> str:
    """A text, or an instruction and its input as one. Raises UserError that begins with the place."""
    parts = value if isinstance(value, list) and len(value) == 2 else [value]
    if not all(isinstance(part, str) and part.strip() for part in parts):
        raise UserError(f"{place} must be text, or a list of an instruction and its input, and not empty")
    return request(*parts)


def _behaviour(row: Row, place: str) -> str:
    if type(row["behaviour"]) not in (str, int):
        raise UserError(f"{place}: `behaviour` must be text or a whole number, not {row['behaviour']!r}")
    return str(row["behaviour"])


def divided(texts: Sequence[Phrased]) -> tuple[list[Phrased], Collection]:
    """Texts to train on, and a collection of held-out behaviours: of each its first text is the query."""
    train = [each for each in texts if not is_held_out(each.behaviour)]
    pool, queries = [], {}
    for each in texts:
        if is_held_out(each.behaviour):
            first = queries.setdefault(each.behaviour, each)
            pool += [each] if first is not each else []
    return train, Collection(pool, list(queries.values()))


# The world -----------------------------------------------------------------------------------------------------------


class Programs(NamedTuple):
    """Programs with the names of their behaviours; the new ones share none with the known ones."""

    known: dict[Program, str]
    new: dict[Program, str]


def behaviours(course: Course) -> Programs:
    """The seeds of a course, and what its splits hold out: pairs of operations, and chains of three."""
    splits, joined = course.splits, Joined()
    fingerprints = course.behaviour.fingerprints
    held_out = [*splits.held_out, *splits.depth3]
    for program in (*splits.seeds, *held_out):
        joined.join(sorted(fingerprints(program)))
    name = {each: str(joined.name(min(fingerprints(each)))) for each in (*splits.seeds, *held_out)}
    known = {program: name[program] for program in splits.seeds}
    taught = set(known.values())
    return Programs(known, {program: name[program] for program in held_out if name[program] not in taught})


def phrase(
    course: Course,
    programs: dict[Program, str],
    count: int,
    seed: str,
    held_out: bool = False,
    inputs: float = 0.0,
    train: bool = True,
) -> list[list[Phrased]]:
    """Of every program and language up to `count` different texts: those to train on, or those to measure with.

    held_out: with the held-out phrase of its last operation, which no text to train on has. inputs: the share of
    the texts that have an input, one half of them in their words, where it can stand there, the others beside the
    instruction.
    """
    found = []
    for program, name in programs.items():
        for language in LANGUAGES:
            rng = Random(f"{seed} {program} {language}")
            texts: dict[str, None] = {}
            for _ in range(TRIES * count):
                if len(texts) == count:
                    break
                text = _say(course, program, rng, language, held_out, inputs)
                if held_out or is_held_out(text) != train:
                    texts[text] = None
            found.append([Phrased(text, name, language, program) for text in texts])
    return found


def _say(course: Course, program: Program, rng: Random, language: str, held_out: bool, inputs: float) -> str:
    given = None
    if rng.random() < inputs:
        given = draw_input(course.world, program, rng, language, "train")
    if given is None:
        return course.grammar.phrase(program, rng, language, held_out)
    closed = course.world.signature(program).takes in CLOSED or rng.random() < 0.5
    if closed:
        return course.grammar.phrase(program, rng, language, held_out, literal=given[0])
    return request(course.grammar.phrase(program, rng, language, held_out), given[0])


def collection(
    course: Course, programs: dict[Program, str], count: int, queries: int, seed: int = 0, held_out: bool = False
) -> Collection:
    """A pool of at most `count` texts, in equal shares of all programs and languages, and at most as many `queries`.

    No text was trained on. The words of the pool are those of the training; those of the queries too, or with
    `held_out` each has a phrase that no training text has.
    """
    each = -(-count // (len(LANGUAGES) * max(len(programs), 1))) + 1
    groups = phrase(course, programs, each, f"pool {seed}", train=False)
    rng = Random(f"collection {seed}")
    asked: list[Phrased] = []
    for group in groups:  # the last text of each is asked for, the others are found
        asked += group[-1:]
        del group[-1:]
    if held_out:
        asked = [text for group in phrase(course, programs, 1, f"queries {seed}", True, train=False) for text in group]
    pool = [group[i] for i in range(each) for group in groups if i < len(group)][:count]
    known = {each.text for each in pool}
    asked = [each for each in asked if each.text not in known]
    rng.shuffle(pool)
    rng.shuffle(asked)
    return Collection(pool, asked[:queries])
