"""Practice: questions of the world that may be trained on, of chosen depths, for a model that learns by trying.

    practice(course, depths=(3,), count=4000)           # what is asked for is the answer
    practice(course, (3,), 4000, ask="plan")            # or simpler instructions, one a line (`lessons.plan`)

The chains are drawn like those of the splits, but none of them touches what is held out (`Splits.touches`): no chain
has the behaviour of a test's, or holds a held-out pair. Inputs are from the training pool, words from the training
phrasings. The same course and seed give the same questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Literal

from configs import UserError
from instruct import lessons
from instruct.curriculum import Course
from instruct.rewards import Question
from instruct.world.program import Program
from instruct.world.splits import Item, draw_input, random_chain

Ask = Literal["answer", "plan"]
TRIES = 50  # draws for each chain and each question that is wanted, until the world counts as too small
QUESTIONS = 4  # of each chain, in the mean: to know that a chain is worth asking for takes longer than to ask


def practice(
    course: Course, depths: Sequence[int], count: int, seed: int = 0, ask: Ask = "answer"
) -> list[Question]:
    """`count` different questions, of each depth equally many where the world has them. Raises UserError where there
    are not so many."""
    rng, found = Random(f"practice {course.seed} {seed}"), {}
    by_depth = [_chains(course, depth, -(-count // QUESTIONS // len(depths)), rng) for depth in depths]
    by_depth = [chains for chains in by_depth if chains]
    for attempt in range(TRIES * count if by_depth else 0):
        if len(found) == count:
            break
        turn, place = divmod(attempt, len(by_depth))
        if item := _item(course, by_depth[place][turn % len(by_depth[place])], rng):
            found[item] = None
    if len(found) < count:
        raise UserError(
            f"the world has {len(found)} questions of depth {', '.join(map(str, depths))}: ask for at most so many"
        )
    return [question_of(item, course, ask) for item in found]


def question_of(item: Item, course: Course, ask: Ask = "answer") -> Question:
    """An item of the world as what is asked, with an answer, or a plan, that is right."""
    if ask == "answer":
        return Question(lessons.execute(item.instruction, item.input), item.output, item)
    rng = Random(f"plan {item.instruction}")
    steps = [course.grammar.phrase(Program((step,)), rng, item.language) for step in item.program.steps]
    return Question(lessons.plan(item.instruction, item.language), "\n".join(steps), item)


def _chains(course: Course, depth: int, count: int, rng: Random) -> list[Program]:
    """Up to `count` different chains that may be asked for in some language."""
    found: dict[Program, None] = {}
    for _ in range(TRIES * count):
        if len(found) == count:
            break
        program = random_chain(course.world, depth, rng)
        allowed = any(not course.splits.touches(program, each) for each in course.splits.languages(program))
        if program not in found and allowed and not course.behaviour.trivial(program):
            found[program] = None
    return list(found)


def _item(course: Course, program: Program, rng: Random) -> Item | None:
    languages = [each for each in course.splits.languages(program) if not course.splits.touches(program, each)]
    language = rng.choice(languages)
    drawn = draw_input(course.world, program, rng, language, "train")
    if drawn is None:
        return None
    text = course.grammar.phrase(program, rng, language)
    return Item(text, drawn[0], drawn[1], language, program, "practice", drawn[0])
