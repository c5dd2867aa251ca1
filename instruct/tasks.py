"""Three tasks of the world to tune a model for: questions, plans, writing.

    lessons, items = task("plans", count=20_000, asked=100, seed=0)
    is_right("plans", items[0], "a b c")

| task | families of operations | what is held out |
|---|---|---|
| questions | facts, calendar: a fact is asked for, its input beside the question or in it | wordings |
| plans | route, tasks, blocks: ways through a graph, orders of tasks, moves of blocks | inputs, and wordings |
| writing | writing: words, numbers or a sentence under a condition | inputs, and wordings |

The lessons carry out instructions of `instruct.curriculum`: single operations and chains of two, among them chains with
an operation of `HELPERS` ("the last stop of the shortest way", "words that begin with the first letter of this word").
Something may be written in the last step only: of what many texts can be, no next step has one answer. What is held
out, the splits of the world decide, and the world decides what is right: of writing, whatever meets the condition.

What it leaves out: the other parts of `instruct.teach`, which a model needs that constructs its own instructions.
"""

from __future__ import annotations

from functools import cache

from configs import UserError
from data.chat import Conversation
from instruct import exam
from instruct.curriculum import Course, CurriculumConfig
from instruct.teach import teach
from instruct.world.program import Program, world
from instruct.world.splits import Item

FAMILIES = {
    "questions": ("facts", "calendar"),
    "plans": ("route", "tasks", "blocks"),
    "writing": ("writing",),
}
HELPERS = {
    "questions": (),
    "plans": ("first", "last", "count_items", "reverse_list"),
    "writing": ("first_letter", "last_letter", "plus", "double"),
}
SPLITS = {"questions": ("phrasings",), "plans": ("inputs", "phrasings"), "writing": ("inputs", "phrasings")}
PARTS = ("execute", "recall")  # of facts every one is met as often


@cache
def course_of(name: str, seed: int) -> Course:
    """The world of one task. Raises UserError for a task that there is not."""
    if name not in FAMILIES:
        raise UserError(f"there is no task {name!r} of the world; choose one of {', '.join(FAMILIES)}")
    operations = [each for each, found in world().by_name.items() if found.family in FAMILIES[name]]
    names = (*operations, *HELPERS[name])
    return Course(CurriculumConfig(operations=names, compositions=20, held_out=10, depth3=10), seed)


def belongs(name: str, program: Program) -> bool:
    """Whether a program is one of this task, and not of its helpers only."""
    steps = [course_of(name, 0).world.operation(step) for step in program.steps]
    return any(each.family in FAMILIES[name] for each in steps) and all(each.holds is None for each in steps[:-1])


def task(name: str, count: int, asked: int, seed: int = 0) -> tuple[list[Conversation], list[Item]]:
    """`count` lessons to train on, and up to `asked` held-out items of each split, each once."""
    course = course_of(name, seed)
    records = [record for record in course.seeds() if belongs(name, Program.read(record.program or ""))]
    literals = 0.5 if name == "questions" else 0.0
    items = [item for split in SPLITS[name] for item in course.splits.items(split, asked, seed, literals)]
    return teach(records, count, seed, PARTS), [item for item in items if belongs(name, item.program)]


def is_right(name: str, item: Item, said: str, seed: int = 0) -> bool:
    """Whether an answer to an item of this task is right."""
    return exam.is_right(course_of(name, seed), item, said)
