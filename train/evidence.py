"""What a model that writes instructions is worth, measured against the truth of the world.

- `free_writing`: of what it writes freely, how much is valid, new, and at what cost
- `filter_table`: the filters of Self-Instruct against the truth, on what it has written
- `recheck`: kept items judged once more by another road
- `induction_table`: instructions induced from pairs, greedily and with search
- `people_table`: the same on tasks and instructions that people made

None of it trains.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from instruct import propose
from instruct.confusion import confusion
from instruct.construct import judge_instructions
from instruct.curriculum import Course
from instruct.filters import NearDuplicate, apply, usual
from instruct.induce import SearchConfig, induce, induce_greedily, model_executor
from instruct.induction_tasks import execution_accuracy, read_tasks
from instruct.propose import Pool, ProposeConfig
from instruct.records import Instance, Record
from instruct.verify import Verifier
from instruct.world.behaviour import Behaviour
from instruct.world.operation import Undefined
from instruct.world.parse import Ambiguous, Unreadable
from instruct.world.program import Program, language_of_value, normalise, read_value, world, write_value
from instruct.world.splits import draw_input
from model.load import LoadedModel

#: Fates of instructions that are what they should be, whatever else became of them.
VALID = {None, "known", "surplus", "test split"}
FILTERS = ("Length", "Keywords", "Repetition", "Echo", "Contradiction", "Duplicate", "NearDuplicate")


def free_writing(
    loaded: LoadedModel, course: Course, seeds: Sequence[Record], count: int, temperature: float, seed: int
) -> tuple[dict[str, Any], list[Record]]:
    """`count` samples by all methods in turn: figures, and the judged records.

    new: shares of samples whose behaviour none of the seeds has (repetitions counted); discovered: different ones.
    """
    config = ProposeConfig(seed=seed, samples=count, temperature=temperature)
    started = time.process_time()
    raw = propose.write(loaded, Pool(seeds), config, range(count))
    writing = time.process_time() - started
    judged = judge_instructions(raw, Pool(seeds), course.verifier)
    known = {record.behaviour for record in seeds}
    valid = [record for record in judged if (record.decision.code if record.decision else None) in VALID]
    new = [record for record in valid if record.behaviour not in known]
    minutes = (time.process_time() - started) / 60
    methods = Counter(record.origin.method for record in judged)
    figures = {
        "samples": count,
        "temperature": temperature,
        "valid": len(valid) / count,
        "new": len(new) / count,
        "discovered": len({record.behaviour for record in new}),
        "new_per_1000": 1000 * len(new) / count,
        "new_per_cpu_minute": len(new) / minutes,
        "cpu_seconds_writing": writing,
        "cpu_seconds": 60 * minutes,
        "fates": dict(Counter(record.decision.code if record.decision else "passed" for record in judged)),
        "by_method": {
            method: {
                "valid": sum(record.origin.method == method for record in valid) / total,
                "new": sum(record.origin.method == method for record in new) / total,
            }
            for method, total in sorted(methods.items())
        },
    }
    return figures, judged


def filter_table(
    loaded: LoadedModel, course: Course, seeds: Sequence[Record], judged: Sequence[Record], seed: int
) -> dict[str, Any]:
    """Each of Self-Instruct's filters, alone and all together, against the truth, on written and answered items.

    Good is an item whose instruction is valid and whose answer is right. Inputs and answers are the model's own.
    """
    config = ProposeConfig(seed=seed)
    begun = [r for r in judged if r.decision is None or r.decision.code not in ("cut", "format")]
    items = [replace(record, decision=None) for record in begun]
    bare = [record for record in items if not record.instances]
    given = iter(propose.give_inputs(loaded, bare, config, 1, "filters"))
    made = [tuple(Instance(text, "") for text in next(given)) if not r.instances else r.instances for r in items]
    items = [replace(record, instances=instances) for record, instances in zip(items, made)]
    items = propose.with_answers(loaded, items, config)
    truth = [_is_good(record, course.verifier) for record in items]
    known = [record.instruction for record in seeds]
    filters = [each for each in usual(0.7, known) if type(each).__name__ in FILTERS]
    filters = [replace(each, graded=True) if isinstance(each, NearDuplicate) else each for each in filters]
    table = {type(each).__name__: confusion(each, items, truth) for each in filters}
    return {"items": len(items), "good": sum(truth), "alone": table, "together": _together(known, items, truth)}


def _is_good(record: Record, verifier: Verifier) -> bool:
    if not record.instances:
        return False
    verdicts = [verifier.judge(record.instruction, each.input, each.output) for each in record.instances]
    return all(v.decision is not None and v.decision.code in ("verified", "test split") and v.right for v in verdicts)


def _together(known: Sequence[str], items: Sequence[Record], truth: Sequence[bool]) -> dict[str, Any]:
    """All of them one after the other, as Self-Instruct does."""
    _, fates = apply(usual(0.7, known), items)
    kept = [fate.code is None for fate in fates]
    good = sum(k and t for k, t in zip(kept, truth))
    bad_dropped = sum(not k and not t for k, t in zip(kept, truth))
    return {
        "kept": sum(kept),
        "precision": bad_dropped / max(len(kept) - sum(kept), 1),
        "recall": bad_dropped / max(len(truth) - sum(truth), 1),
        "good_before": sum(truth) / len(truth),
        "good_after": good / max(sum(kept), 1),
    }


# A second road -------------------------------------------------------------------------------------------------------


def recheck(records: Sequence[Record]) -> dict[str, int]:
    """Instances of kept records judged anew: the instruction is read among *all* operations of the world, and its steps
    are run on values, one Python function after the other, not on texts. What disagrees counts as wrong."""
    verifier = Verifier(Behaviour(world()))
    checked = wrong = 0
    for record in records:
        for instance in record.instances:
            checked += 1
            wrong += not _agrees(record.instruction, instance, verifier)
    return {"checked": checked, "wrong": wrong}


def _agrees(instruction: str, instance: Instance, verifier: Verifier) -> bool:
    try:
        reading = verifier.parser.parse(instruction)
        text = instance.input if reading.literal is None else reading.literal
        return normalise(_on_values(reading.program, text, reading.language)) == normalise(instance.output)
    except (Unreadable, Ambiguous, Undefined):
        return False


def _on_values(program: Program, text: str, language: str) -> str:
    """The output of a program, its values never written down in between."""
    operations = [world().operation(step) for step in program.steps]
    language = language_of_value(operations[0].takes, text) or language
    value = read_value(operations[0].takes, text)
    for operation, step in zip(operations, program.steps):
        said = value if isinstance(value, str) else " ".join(map(str, value)) if isinstance(value, list) else ""
        language = language_of_value(operation.takes, said) or language
        value = operation.run(value, step.argument, language)
    return write_value(value, language)


# Induction -----------------------------------------------------------------------------------------------------------


def induction_table(
    loaded: LoadedModel, course: Course, programs: Sequence[Program], searched: int, pairs: int, seed: int
) -> dict[str, Any]:
    """Share of programs whose behaviour the induced instruction has: greedy for all, with search for `searched`."""
    tasks = [_task(course, program, pairs, seed) for program in programs]
    tasks = [task for task in tasks if task]
    said = induce_greedily(loaded, [shown for _, shown, _ in tasks], [language for _, _, language in tasks])
    greedy = [_means(course, text, program) for text, (program, _, _) in zip(said, tasks)]
    found = [
        _means(course, induce(loaded, shown, language, SearchConfig(score="execution"), seed).instruction, program)
        for program, shown, language in tasks[:searched]
    ]
    return {
        "tasks": len(tasks),
        "greedy": sum(greedy) / max(len(greedy), 1),
        "searched": len(found),
        "greedy_of_searched": sum(greedy[:searched]) / max(len(found), 1),
        "search": sum(found) / max(len(found), 1),
    }


def _task(course: Course, program: Program, pairs: int, seed: int) -> tuple[Program, list[tuple[str, str]], str] | None:
    """A program with so many different pairs and a language; None where it has fewer."""
    rng = random.Random(f"induce {program} {seed}")
    language = rng.choice(("en", "zh"))
    shown = dict.fromkeys(draw_input(course.world, program, rng, language, "test") for _ in range(3 * pairs))
    shown = [pair for pair in shown if pair][:pairs]
    return (program, shown, language) if len(shown) == pairs else None


def _means(course: Course, text: str, program: Program) -> bool:
    """Whether a text asks for the behaviour of a program."""
    verdict = course.verifier.judge(text)
    return verdict.behaviour == course.behaviour.fingerprint(program)


def people_table(loaded: LoadedModel, folder: Path) -> dict[str, Any]:
    """Tasks that people made: execution accuracy of the model with the instruction that it induced itself, and with
    those that people wrote."""
    executor = model_executor(loaded)
    rows = {}
    for task in read_tasks(folder):
        written = induce(loaded, task.pairs, "en", SearchConfig(score="execution"), 0).instruction
        accuracies = execution_accuracy(task, [written, *task.instructions], executor)
        rows[task.name] = {
            "written": written,
            "own": accuracies[0],
            "people": sum(accuracies[1:]) / max(len(accuracies) - 1, 1),
        }
    return rows
