"""Programs: chains of operations, their types, and how they run from text to text.

    program = Program.read("sort_up | item 2")
    everything = world()                                        # all operations
    everything.signature(program)                               # Signature(takes="numbers", gives="number")
    everything.run(program, "3 1 2")                            # "2"
    everything.trace(program, "3 1 2")                          # (sort_up, "3 1 2", "1 2 3"), (item 2, "1 2 3", "2")
    small = everything.subset(["sort_up", "first", "capital"])  # the same for some operations only

What it is. A `Program` is a chain of steps, an operation's name and perhaps an argument, each applied to the result of
the one before. It is plain data: hashable, written and read back in one line. A `World` knows the operations; it says
whether a chain is well typed, runs it and judges answers.

Why from text to text. Each step reads its input as text and writes its output as text. So carrying out a chain in one
go and carrying out its steps one at a time, by whoever, are the same thing by construction. The language of a step is
that of its input, and that of the instruction where the input has none (a number, a graph with letters).

What it leaves out. No branches, no loops, no second input.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

from configs import UserError
from instruct.world import facts, lists, numbers, plans, sentences, words, writing
from instruct.world.operation import ITEM, SAME, TYPES, Operation, Undefined, is_a, language_of

LARGEST = 9999  # of a number, in either direction
LONGEST_LIST = 30
LONGEST_WORD = 40
EMPTY = {"en": "none", "zh": "无"}
TRUTH = {"en": ("no", "yes"), "zh": ("否", "是")}
#: Latin letters in a text of these types are names or signs of both languages, not English.
NEUTRAL = frozenset({"number", "numbers", "truth", "expression", "graph", "blocks", "symbol", "letter"})
ITEMS = {"numbers": "number", "words": "word", "list": ITEM}

_NUMBER = re.compile(r"-?\d{1,9}")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


class IllTyped(UserError):
    """A chain in which the result of one step is not what the next one takes, or a step that does not exist."""


@dataclass(frozen=True, order=True)
class Step:
    """An operation by its name, with its argument if it has one."""

    name: str
    argument: int | str | None = None

    def __str__(self) -> str:
        return self.name if self.argument is None else f"{self.name} {self.argument}"

    @classmethod
    def read(cls, text: str) -> Step:
        name, _, argument = text.strip().partition(" ")
        if not argument:
            return cls(name)
        return cls(name, int(argument) if _NUMBER.fullmatch(argument) else argument)


@dataclass(frozen=True)
class Program:
    """Steps, the first one first. `str` gives its one-line form, `read` reads that back."""

    steps: tuple[Step, ...]

    def __str__(self) -> str:
        return " | ".join(map(str, self.steps))

    def __len__(self) -> int:
        return len(self.steps)

    @classmethod
    def read(cls, text: str) -> Program:
        """Raises UserError for a step without a name."""
        steps = tuple(Step.read(part) for part in text.split("|"))
        if not all(step.name for step in steps):
            raise UserError(f"{text!r} is no program; write steps between bars, as in 'sort_up | item 2'")
        return cls(steps)

    def decompose(self) -> tuple[Program, ...]:
        """Its steps, as programs of one step."""
        return tuple(Program((step,)) for step in self.steps)

    def parts(self, shortest: int = 1) -> Iterator[Program]:
        """All contiguous parts of at least `shortest` steps, the whole among them."""
        for start in range(len(self.steps)):
            for end in range(start + shortest, len(self.steps) + 1):
                yield Program(self.steps[start:end])


class Signature(NamedTuple):
    """What a program takes (the most general type that works) and what it then gives ("item": of whatever list)."""

    takes: str
    gives: str


# Values and texts ----------------------------------------------------------------------------------------------------


def normalise(text: str) -> str:
    """The form in which answers are compared: NFKC, single spaces, no full stop at the end."""
    return " ".join(unicodedata.normalize("NFKC", text).split()).rstrip(" .。")


def read_value(kind: str, text: str) -> object:
    """The value of type `kind` that `text` is. Raises Undefined where it is none."""
    text = " ".join(text.split())
    if kind in ("list", "numbers", "words"):
        return _read_list(kind, text)
    if kind == "number":
        return _read_number(text)
    if kind == "truth":
        for words in TRUTH.values():
            if text in words:
                return bool(words.index(text))
        raise Undefined(f"{text!r} is neither yes nor no")
    if is_a(kind, "word") and not _WORD.fullmatch(text):
        raise Undefined(f"{text!r} is not one word")
    if not text:
        raise Undefined("there is no input")
    return text


def write_value(value: object, language: str) -> str:
    """The text of a value. Raises Undefined where numbers, lists or words are larger than the world allows."""
    if isinstance(value, bool):
        return TRUTH[language][value]
    if isinstance(value, int):
        if abs(value) > LARGEST:
            raise Undefined(f"{value} is beyond {LARGEST}")
        return str(value)
    if isinstance(value, str):
        if len(value) > LONGEST_WORD and " " not in value:
            raise Undefined(f"a word of more than {LONGEST_WORD} letters")
        return value
    if len(value) > LONGEST_LIST:
        raise Undefined(f"a list of more than {LONGEST_LIST} items")
    return " ".join(write_value(item, language) for item in value) or EMPTY[language]


def _read_list(kind: str, text: str) -> list:
    if text in EMPTY.values():
        return []
    items = text.split()
    if not items:
        raise Undefined("there is no list")
    if kind == "numbers" or (kind == "list" and all(map(_NUMBER.fullmatch, items))):
        return [_read_number(item) for item in items]
    if not all(map(_WORD.fullmatch, items)):
        raise Undefined(f"{text!r} is not a list of words")
    return items


def _read_number(text: str) -> int:
    if not _NUMBER.fullmatch(text) or abs(int(text)) > LARGEST:
        raise Undefined(f"{text!r} is not a number within {LARGEST}")
    return int(text)


# The world -----------------------------------------------------------------------------------------------------------


class World:
    """A set of operations, and what can be said about programs over them.

    Two worlds with the same operations behave alike; nothing in here changes after it was made.
    """

    def __init__(self, operations: Iterable[Operation]):
        self.operations = tuple(operations)
        self.by_name = {operation.name: operation for operation in self.operations}
        if len(self.by_name) < len(self.operations):
            names = [operation.name for operation in self.operations]
            raise UserError(f"operations of one name: {sorted({name for name in names if names.count(name) > 1})}")
        self.signature = lru_cache(maxsize=1 << 18)(self._signature)

    def subset(self, names: Iterable[str]) -> World:
        """The world of these operations only. Raises UserError for an unknown name."""
        names = list(names)
        unknown = sorted(set(names) - self.by_name.keys())
        if unknown:
            raise UserError(f"there is no operation {', '.join(unknown)}; known are {', '.join(sorted(self.by_name))}")
        return World(operation for operation in self.operations if operation.name in set(names))

    def steps(self) -> tuple[Step, ...]:
        """Every operation with every one of its arguments."""
        return tuple(Step(each.name, k) for each in self.operations for k in each.arguments or (None,))

    def singles(self) -> tuple[Program, ...]:
        """The programs of one step."""
        return tuple(Program((step,)) for step in self.steps())

    def operation(self, step: Step) -> Operation:
        """Raises IllTyped where there is no such operation or it does not know the argument."""
        operation = self.by_name.get(step.name)
        if operation is None:
            raise IllTyped(f"there is no operation {step.name!r}")
        if step.argument not in (operation.arguments or (None,)):
            raise IllTyped(f"{step.name} takes {operation.arguments or 'no argument'}, not {step.argument!r}")
        return operation

    def _signature(self, program: Program) -> Signature:
        """Cached as `signature`. Raises IllTyped."""
        operations = [self.operation(step) for step in program.steps]
        if not operations:
            raise IllTyped("a program needs at least one step")
        for operation in operations[:-1]:
            if operation.holds is not None:
                raise IllTyped(f"{operation.name} has many right answers, so it can only come last")
        for takes in _general_first(operations[0].takes):
            gives = _gives(operations, takes)
            if gives:
                return Signature(takes, gives)
        raise IllTyped(f"{program}: a step does not take what the one before it gives")

    def well_typed(self, program: Program) -> bool:
        try:
            self.signature(program)
        except IllTyped:
            return False
        return True

    def step(self, step: Step, text: str, language: str = "en") -> str:
        """One step from text to text. Raises Undefined."""
        operation = self.by_name[step.name]
        language = language_of_value(operation.takes, text) or language
        value = read_value(operation.takes, text)
        return write_value(operation.run(value, step.argument, language), language)

    def run(self, program: Program, text: str, language: str = "en") -> str:
        """The output for input `text`; `language`: of the instruction. Raises IllTyped, Undefined."""
        self.signature(program)
        for step in program.steps:
            text = self.step(step, text, language)
        return text

    def trace(self, program: Program, text: str, language: str = "en") -> list[tuple[Program, str, str]]:
        """(program of one step, its input, its output) for each step. Raises IllTyped, Undefined."""
        self.signature(program)
        done = []
        for part in program.decompose():
            output = self.step(part.steps[0], text, language)
            done.append((part, text, output))
            text = output
        return done

    def holds(self, program: Program, text: str, answer: str, language: str = "en") -> bool:
        """Whether `answer` is right: equal to the output, or accepted where many answers are right.

        Raises IllTyped, and Undefined where the program has no answer for this input.
        """
        self.signature(program)
        last = self.by_name[program.steps[-1].name]
        if last.holds is None:
            return normalise(answer) == normalise(self.run(program, text, language))
        for step in program.steps[:-1]:
            text = self.step(step, text, language)
        language = language_of_value(last.takes, text) or language
        try:
            value = read_value(last.gives, normalise(answer))
        except Undefined:
            return False
        return bool(last.holds(read_value(last.takes, text), program.steps[-1].argument, language, value))


def language_of_value(kind: str, text: str) -> str | None:
    """The language of a text of type `kind`; None where it has none of its own."""
    language = language_of(text)
    return None if language == "en" and kind in NEUTRAL else language


def _gives(operations: list[Operation], kind: str) -> str:
    """The type that comes out when `kind` goes in; "" where the chain is ill typed."""
    for operation in operations:
        if kind not in TYPES or not is_a(kind, operation.takes):
            return ""
        if operation.gives == ITEM:
            kind = ITEMS.get(kind, "")
        elif operation.gives != SAME:
            kind = operation.gives
    return kind


@cache
def _general_first(kind: str) -> tuple[str, ...]:
    """`kind` and the types under it, a type always before those under it."""
    found = [kind]
    for each in found:
        found.extend(child for child, parent in TYPES.items() if parent == each)
    return tuple(found)


@cache
def operations() -> tuple[Operation, ...]:
    """All operations, family by family."""
    families = (facts, words, sentences, numbers, lists, plans, writing)
    return tuple(operation for family in families for operation in family.OPERATIONS)


@cache
def world() -> World:
    """The whole world."""
    return World(operations())
