"""Behaviour: what a program does, as a fingerprint; whether that is anything, and anything new.

    behaviour = Behaviour(world())
    behaviour.fingerprint(program)          # equal for programs that do the same, however they are put together
    behaviour.trivial(program)              # "identity", "constant", "mostly undefined", "equals sort_down", or ""
    behaviour.novel(program, known)         # not trivial, and its fingerprint is not in `known`

What it is. A program is run on the probes of the type that it takes (`instruct.world.inputs.probes`: the same inputs
for ever, in both languages, none of which is trained or tested on where the type is open). Its outputs, hashed, are its
fingerprint. Two instructions mean the same when their fingerprints are equal; that "sort, then reverse" is "sort
downwards" is found out by running them.

Why not by text. Word overlap calls "the largest" and "the smallest" near duplicates and misses that "reverse the word,
then write it in capitals" and "capitalise every letter, then spell it backwards" are one task.

What it leaves out. Proof: programs that differ on rare inputs only can share a fingerprint.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Container, Iterator
from functools import lru_cache

from instruct.world.inputs import probes
from instruct.world.operation import Undefined, is_a
from instruct.world.program import Program, World

MOSTLY = 0.5  # of the inputs that its first step knows, a program must answer more than this share
CONSTANT = 0.96  # a program whose most frequent output has this share says nothing about its input
DEEPEST = 2  # steps of the programs with which longer ones are compared
SKETCH = 12  # probes by which most programs are told apart before all are run
FEWEST = 4  # inputs with an output, below which nothing can be said


class Behaviour:
    """What the programs of one world do. Caches what it has run."""

    def __init__(self, world: World):
        self.world = world
        self.outputs = lru_cache(maxsize=1 << 16)(self._outputs)
        self.fingerprint = lru_cache(maxsize=1 << 18)(self._fingerprint)
        self._known: dict[tuple[str, int], dict[str, list[Program]]] = {}

    def _outputs(self, program: Program, kind: str | None = None, every: int = 1) -> tuple[str | None, ...]:
        """The output for each probe, None where there is none; cached as `outputs`.

        `kind`: of the probes; by default what the program takes, else a type under it. `every`: of how many probes one
        is taken. Raises IllTyped.
        """
        kind = kind or self.world.signature(program).takes
        given = probes(kind)[::every]
        if len(program) == 1:
            texts: tuple[str | None, ...] = tuple(text for text, _ in given)
        else:
            texts = self.outputs(Program(program.steps[:-1]), kind, every)
        pairs = zip(texts, (language for _, language in given))
        return tuple(None if text is None else self._step(program, text, language) for text, language in pairs)

    def _step(self, program: Program, text: str, language: str) -> str | None:
        try:
            return self.world.step(program.steps[-1], text, language)
        except Undefined:
            return None

    def _fingerprint(self, program: Program, kind: str | None = None) -> str:
        """16 hexadecimal digits that stand for what the program takes and gives; cached as `fingerprint`.

        `kind`: a type under that which it takes, for its behaviour on that type alone. Raises IllTyped.
        """
        kind = kind or self.world.signature(program).takes
        return _hash(kind, self.outputs(program, kind))

    def fingerprints(self, program: Program) -> frozenset[str]:
        """Its fingerprint and, for a program over any list, those on numbers alone and on words alone."""
        takes = self.world.signature(program).takes
        kinds = [kind for kind in ("list", "numbers", "words") if is_a(kind, takes)] or [takes]
        return frozenset(self.fingerprint(program, kind) for kind in kinds)

    def same(self, one: Program, other: Program) -> bool:
        return self.fingerprint(one) == self.fingerprint(other)

    # What is not worth asking for ------------------------------------------------------------------------------------

    def is_identity(self, program: Program) -> bool:
        """Whether every output is its input."""
        return all(output == given for given, output, _ in self._answered(program))

    def is_constant(self, program: Program) -> bool:
        """Whether nearly all outputs are the same, in each language."""
        counts = {"en": Counter(), "zh": Counter()}
        for _, output, language in self._answered(program):
            counts[language][output] += 1
        return all(max(count.values()) >= CONSTANT * count.total() for count in counts.values() if count)

    def is_mostly_undefined(self, program: Program) -> bool:
        """Whether few of the inputs that its first step knows have an output."""
        takes = self.world.signature(program).takes
        begun = sum(output is not None for output in self.outputs(Program(program.steps[:1]), takes))
        answered = len(self._answered(program))
        return answered < FEWEST or answered <= MOSTLY * begun

    def equal_shorter(self, program: Program) -> Program | None:
        """A program of fewer steps, and of `DEEPEST` at most, that does the same."""
        takes = self.world.signature(program).takes
        candidates = self._shorter(takes, min(len(program) - 1, DEEPEST)).get(self._sketch(program, takes), ())
        wanted = self.fingerprint(program, takes)
        return next((each for each in candidates if self.fingerprint(each, takes) == wanted), None)

    def trivial(self, program: Program) -> str:
        """Why the program is not worth asking for; "" if it is. Raises IllTyped."""
        if self.is_mostly_undefined(program):
            return "mostly undefined"
        if self.is_identity(program):
            return "identity"
        if self.is_constant(program):
            return "constant"
        shorter = self.equal_shorter(program)
        return "" if shorter is None else f"equals {shorter}"

    def novel(self, program: Program, known: Container[str]) -> bool:
        """Whether it is worth asking for and its fingerprint is not among the known. Raises IllTyped."""
        return self.fingerprint(program) not in known and not self.trivial(program)

    def _shorter(self, kind: str, steps: int) -> dict[str, list[Program]]:
        """All programs of at most `steps` steps that can start from `kind`, the shortest first, by their sketches."""
        if steps == 0:
            return {}
        if (kind, steps) not in self._known:
            known = {sketch: list(programs) for sketch, programs in self._shorter(kind, steps - 1).items()}
            for program in self.chains(kind, steps):
                known.setdefault(self._sketch(program, kind), []).append(program)
            self._known[kind, steps] = known
        return self._known[kind, steps]

    def _sketch(self, program: Program, kind: str) -> str:
        """A fingerprint on a few of the probes: it differs for most programs that differ."""
        return _hash(kind, self.outputs(program, kind, max(1, len(probes(kind)) // SKETCH)))

    def chains(self, kind: str, steps: int) -> Iterator[Program]:
        """All well-typed programs of so many steps that can start from a value of type `kind`."""
        beginnings = self.chains(kind, steps - 1) if steps > 1 else [Program(())]
        for beginning in beginnings:
            for step in self.world.steps():
                program = Program((*beginning.steps, step))
                if self.world.well_typed(program) and is_a(kind, self.world.signature(program).takes):
                    yield program

    def _answered(self, program: Program) -> list[tuple[str, str, str]]:
        """(input, output, language) for the probes that have an output."""
        takes = self.world.signature(program).takes
        pairs = zip(probes(takes), self.outputs(program, takes))
        return [(text, output, language) for (text, language), output in pairs if output is not None]


def _hash(kind: str, outputs: tuple[str | None, ...]) -> str:
    text = "\n".join([kind, *("\0" if output is None else output for output in outputs)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
