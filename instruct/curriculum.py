"""What a model is taught before it constructs anything: the seeds of a world, as records.

    course = Course(CurriculumConfig(), seed=0)
    course.seeds()                      # records: every single operation, and a finite number of compositions
    course.splits, course.verifier      # what is held out, and who judges

A seed is a program of `splits.seeds` in some wordings of each language, with a finite number of inputs each: the
situation of Self-Instruct's 175 tasks, where a learner can see everything and then has to invent. Answers are the
interpreter's (`label_source` "O2"): they stand for the people who write seeds.

Small models on a CPU learn a world of some dozens of operations in minutes; `operations` names them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from configs import check
from instruct.records import Decision, Instance, Origin, Record
from instruct.verify import Verifier
from instruct.world.behaviour import Behaviour
from instruct.world.inputs import CLOSED
from instruct.world.program import Program, world
from instruct.world.splits import Sizes, Splits, draw_input

FEW_ANSWERS = 6  # a program with at most so many different answers on the probes is a classification
T = TypeVar("T", bound=Hashable)
SHORT_OF = 20  # draws for one more different wording or input before the search is given up


@dataclass(frozen=True)
class CurriculumConfig:
    """The size of what is taught.

    operations    names; empty: all of the world
    compositions  seed programs of two steps, at most
    held_out      pairs of operations that no training text may contain, at most
    depth3        chains of three that none may contain, at most; few where the world is small, or the search is long
    phrasings     wordings of each program in each language
    inputs        for each wording of a single operation
    composition_inputs   for each wording of a composition
    closed        closed questions ("What is the capital of France?") for each program over names, in each language
    """

    operations: tuple[str, ...] = ()
    compositions: int = 60
    held_out: int = 60
    depth3: int = 300
    phrasings: int = 4
    inputs: int = 40
    composition_inputs: int = 12
    closed: int = 40

    def __post_init__(self):
        problems = [
            f"{name} must be positive, got {getattr(self, name)}"
            for name in ("compositions", "held_out", "depth3", "phrasings", "inputs", "composition_inputs")
            if getattr(self, name) < 1
        ]
        check(problems + ([f"closed must not be negative, got {self.closed}"] if self.closed < 0 else []))


def distinct(draw: Callable[[], T | None], count: int) -> list[T]:
    """Up to `count` different results of `draw`, in the order in which they came."""
    found: dict[T, None] = {}
    for _ in range(SHORT_OF * count):
        if len(found) == count:
            break
        if (drawn := draw()) is not None:
            found[drawn] = None
    return list(found)


class Course:
    """A world of some operations with its splits, its verifier and its seeds; the same for the same seed."""

    def __init__(self, config: CurriculumConfig, seed: int = 0):
        self.config, self.seed = config, seed
        self.world = world().subset(config.operations) if config.operations else world()
        self.behaviour = Behaviour(self.world)
        sizes = Sizes(seeds=config.compositions, held_out=config.held_out, depth3=config.depth3, one_language=0.0)
        self.splits = Splits(self.behaviour, seed, sizes)
        self.verifier = Verifier(self.behaviour, self.splits.touches)
        self.grammar = self.splits.grammar

    def seeds(self) -> list[Record]:
        """All seeds, answered and marked as given."""
        return [record for program in self.splits.seeds for record in self._program(program)]

    def _program(self, program: Program) -> Iterator[Record]:
        single = len(program) == 1
        count = self.config.inputs if single else self.config.composition_inputs
        is_closed = single and self.world.signature(program).takes in CLOSED
        for language in self.splits.languages(program):
            rng = random.Random(f"{self.seed} {program} {language}")
            phrase = partial(self.grammar.phrase, program, rng, language)
            pair = partial(draw_input, self.world, program, rng, language, "train")
            for text in distinct(phrase, self.config.phrasings):
                yield self._record(text, language, program, distinct(pair, count))
            for given, output in distinct(pair, self.config.closed) if is_closed else ():
                yield self._record(phrase(literal=given), language, program, [("", output)])

    def _record(self, text: str, language: str, program: Program, pairs: list[tuple[str, str]]) -> Record:
        return Record(
            text,
            tuple(Instance(given, output, "O2", True) for given, output in pairs),
            language,
            len({*filter(None, self.behaviour.outputs(program))}) <= FEW_ANSWERS,
            Origin("grammar"),
            str(program),
            self.behaviour.fingerprint(program),
            decision=Decision("given"),
        )
