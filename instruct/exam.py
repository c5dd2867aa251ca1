"""Exams: what a model can do with instructions that it was not taught.

    questions = set_exam(course, count=300)         # by kind: lists of test items
    marks = grade(loaded, course, questions)        # {"compositions": {"direct": 0.31, "plan": 0.62, ...}, ...}
    facts = set_facts(course)                       # "What is the capital city of France?", of all there is to know

An answer is right when the world says so. Compositions are asked twice: directly, and through the model's own plan,
whose steps it carries out itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from instruct.answer import Asked, by_plan, directly
from instruct.curriculum import Course
from instruct.world.inputs import NAMED, names_of
from instruct.world.operation import Undefined
from instruct.world.splits import LOOKUPS, Item
from model.load import LoadedModel

KINDS = ("inputs", "phrasings", "open", "compositions", "depth3")
PLANNED = ("open", "compositions", "depth3")


def set_exam(course: Course, count: int, seed: int = 0) -> dict[str, list[Item]]:
    """`count` test items of each kind; the same for the same course and seed."""
    return {kind: course.splits.items(kind, count, seed, literals=0.0) for kind in KINDS}


def set_facts(course: Course, seed: int = 0) -> list[Item]:
    """A closed question in held-out words about everything that the world's lookups know of a name, in each language;
    their `split` is "facts". None where the world has no such lookup."""
    found = []
    for program in course.world.singles():
        takes = course.world.signature(program).takes
        if takes not in NAMED or course.world.operation(program.steps[0]).family not in LOOKUPS:
            continue
        for language in course.splits.languages(program):
            rng = Random(f"facts {program} {language} {seed}")
            for given in names_of(takes, language):
                try:
                    output = course.world.run(program, given, language)
                except Undefined:
                    continue
                text = course.grammar.phrase(program, rng, language, True, given)
                found.append(Item(text, "", output, language, program, "facts", given))
    return found


def is_right(course: Course, item: Item, said: str) -> bool:
    return bool(said) and course.world.holds(item.program, item.given, said, item.language)


def grade(
    loaded: LoadedModel,
    course: Course,
    exam: dict[str, list[Item]],
    share: Callable[[Callable[[Sequence], list], Sequence], list] = lambda work, items: work(items),
) -> dict[str, dict[str, float]]:
    """Shares of right answers, by kind and way. `share` runs work on this rank's part of the items."""
    marks: dict[str, dict[str, float]] = {}
    for kind, items in exam.items():
        asked = [Asked(item.instruction, item.input, item.language) for item in items]
        said = share(lambda part: directly(loaded, part), asked)
        marks[kind] = {"asked": len(items), "direct": _right(course, items, said)}
        if kind in PLANNED:
            said = share(lambda part: [trace.output for trace in by_plan(loaded, part)], asked)
            marks[kind]["plan"] = _right(course, items, said)
    return marks


def _right(course: Course, items: Sequence[Item], said: Sequence[str]) -> float:
    return sum(is_right(course, item, answer) for item, answer in zip(items, said)) / max(len(items), 1)
