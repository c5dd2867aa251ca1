"""The public tasks of instruction induction (Honovich et al. 2022), and how an instruction fares on them.

People wrote instructions for about two dozen small tasks ("sum", "negation", ...). An instruction is worth what its
execution gets right on inputs that nobody who wrote it has seen:

    tasks = read_tasks("instruction_induction")
    found = induce(loaded, tasks[0].pairs[:50], "en")
    execution_accuracy(tasks[0], [found.instruction, *tasks[0].instructions], model_executor(loaded))

The folder has raw/induce/TASK.json and raw/execute/TASK.json (examples) and annotations/TASK.json (instructions), as
published; nothing of it is in this repository. The measure of a task is the authors': exact match, F1 of words, the
same set of words, or the wanted words within the answer; the best over all acceptable outputs counts. Not theirs is
how words are found: they cut an answer at its first "." and drop hyphens, so that 3.5 is 3 and -5 is 5; here a number
is one word, with its sign, and 1,000 is 1000.

What it leaves out: the order of the sentences in "cause_and_effect", which is random there, alternates here.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from configs import UserError
from instruct.induce import Executor, Pair

#: Of the tasks that are not measured by exact match.
MEASURES = {
    "common_concept": "f1",
    "informal_to_formal": "f1",
    "orthography_starts_with": "set",
    "taxonomy_animal": "set",
    "synonyms": "contains",
}
OUTPUTS = ("possible_outputs", "possible_translations", "all_common_concepts", "other_rhymes")
WORD = re.compile(r"(?<!\w)-?\d+(?:[.,]\d+)*|[\u4e00-\u9fff]|[^\W_\d\u4e00-\u9fff]+(?:'[^\W\d_]+)?|\d+")


class Example(NamedTuple):
    """An input and every output that is right."""

    input: str
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """shown: examples to induce from. tested: examples to measure on. instructions: what people wrote."""

    name: str
    measure: str
    shown: tuple[Example, ...]
    tested: tuple[Example, ...]
    instructions: tuple[str, ...]

    @property
    def pairs(self) -> list[Pair]:
        return [(example.input, example.outputs[0]) for example in self.shown]


def read_tasks(folder: str | Path) -> list[Task]:
    """All tasks of the folder, by name. Raises UserError naming the file that is missing or not as published."""
    folder = Path(folder)
    names = sorted(path.stem for path in (folder / "raw" / "induce").glob("*.json"))
    if not names:
        raise UserError(f"there are no tasks in {folder}; give the folder that has raw/induce/*.json")
    return [_task(folder, name) for name in names]


def _task(folder: Path, name: str) -> Task:
    shown, tested = (_examples(folder / "raw" / part / f"{name}.json") for part in ("induce", "execute"))
    path = folder / "annotations" / f"{name}.json"
    written = _object(path).get("annotations")
    if not isinstance(written, list) or not written or not all(isinstance(text, str) for text in written):
        raise UserError(f'{path}: "annotations" must be a list of instructions')
    return Task(name, MEASURES.get(name, "exact"), shown, tested, tuple(written))


def _examples(path: Path) -> tuple[Example, ...]:
    rows = _object(path).get("examples")
    if not isinstance(rows, dict) or not rows:
        raise UserError(f'{path}: "examples" must be an object of numbered examples')
    return tuple(_example(row, i, f"{path}, example {number}") for i, (number, row) in enumerate(rows.items()))


def _example(row: Any, index: int, place: str) -> Example:
    row = row if isinstance(row, dict) else {}
    outputs = next((row[key] for key in OUTPUTS if key in row), [row.get("output", row.get("cause"))])
    if "cause" in row and "effect" in row:
        first, second = ("cause", "effect") if index % 2 == 0 else ("effect", "cause")
        given = f"Sentence 1: {row[first]} Sentence 2: {row[second]}"
    elif "items" in row:
        given = ", ".join(map(str, row["items"]))
    else:
        given = row.get("input")
    if not (isinstance(given, str) and isinstance(outputs, list) and outputs and all(map(_is_text, outputs))):
        raise UserError(f"{place}: neither input and output nor any other known form")
    return Example(given, tuple(outputs))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; every task needs its examples and its annotations") from None
    except ValueError:
        raise UserError(f"{path} is not JSON in UTF-8; fetch it again") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} must hold a JSON object")
    return found


# Measuring -----------------------------------------------------------------------------------------------------------


def execution_accuracy(task: Task, instructions: Sequence[str], executor: Executor) -> list[float]:
    """For each instruction the mean grade, in [0, 1], of its answers to the tested inputs."""
    asked = [(instruction, example.input) for instruction in instructions for example in task.tested]
    answers = iter(executor(asked))
    return [
        sum(grade(task.measure, next(answers), example.outputs) for example in task.tested) / len(task.tested)
        for _ in instructions
    ]


def grade(measure: str, answer: str, outputs: Sequence[str]) -> float:
    """The best grade of the answer over the outputs that are right; measure: exact, f1, set or contains."""
    return max(_grade(measure, words(answer), words(output)) for output in outputs)


def _grade(measure: str, said: list[str], wanted: list[str]) -> float:
    if measure == "f1":
        common = (Counter(said) & Counter(wanted)).total()
        return 2 * common / (len(said) + len(wanted)) if common else 0.0
    if measure == "set":
        return float(set(said) == set(wanted))
    if measure == "contains":
        return float(f" {' '.join(wanted)} " in f" {' '.join(said)} ")
    return float(said == wanted)


def words(text: str) -> list[str]:
    """Lower-case words, numbers and Chinese characters, without punctuation and "and"."""
    folded = unicodedata.normalize("NFKC", text).replace("−", "-").lower()
    folded = re.sub(r"sentence [12]:", " ", folded).replace("’", "'")
    found = (re.sub(r"(?<=\d),(?=\d)", "", word) if word[-1].isdigit() else word for word in WORD.findall(folded))
    return [word for word in found if word != "and"]
