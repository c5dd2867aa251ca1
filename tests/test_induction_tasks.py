"""The public tasks of instruction induction: reading their forms, and what counts as a right answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs import UserError
from instruct.induction_tasks import Example, execution_accuracy, grade, read_tasks, words

FORMS = {
    "sum": [{"input": "2 3", "output": "5", "x": 2}, {"input": "1 1", "output": "2"}],
    "common_concept": [{"concept": "a", "items": ["guitars", "neutrinos"], "all_common_concepts": ["swing", "move"]}],
    "translation_en-de": [{"input": "dog", "output": "x", "possible_translations": ["Hund", "Köter"]}],
    "word_in_context": [{"input": "Word: run", "output": "same", "possible_outputs": ["same", "yes"]}],
    "cause_and_effect": [{"cause": "It rained.", "effect": "I was wet."}] * 2,
}


def write(folder: Path, forms: dict = FORMS) -> Path:
    for name, rows in forms.items():
        examples = {"examples": {str(i): row for i, row in enumerate(rows, 1)}}
        for part, content in [("raw/induce", examples), ("raw/execute", examples), ("annotations", None)]:
            path = folder / part / f"{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content or {"annotations": [f"do {name}", "guess"]}), "utf-8")
    return folder


def test_every_form_is_read(tmp_path):
    tasks = {task.name: task for task in read_tasks(write(tmp_path))}
    assert list(tasks) == sorted(FORMS)
    assert tasks["sum"].pairs == [("2 3", "5"), ("1 1", "2")] and tasks["sum"].measure == "exact"
    assert tasks["sum"].instructions == ("do sum", "guess")
    assert tasks["common_concept"].tested == (Example("guitars, neutrinos", ("swing", "move")),)
    assert tasks["common_concept"].measure == "f1"
    assert tasks["translation_en-de"].shown[0].outputs == ("Hund", "Köter")
    assert tasks["word_in_context"].shown[0].outputs == ("same", "yes")
    first, second = tasks["cause_and_effect"].shown
    assert first == ("Sentence 1: It rained. Sentence 2: I was wet.", ("It rained.",))
    assert second == ("Sentence 1: I was wet. Sentence 2: It rained.", ("It rained.",))


def test_accuracy_is_a_mean_for_each_instruction(tmp_path):
    [task] = read_tasks(write(tmp_path, {"sum": FORMS["sum"]}))
    calls = []

    def executor(asked):
        calls.append(asked)
        return [str(sum(map(int, given.split()))) if text == "add" else "2" for text, given in asked]

    assert execution_accuracy(task, ["add", "say 2"], executor) == [1.0, 0.5]
    assert len(calls) == 1, "all in one call"


@pytest.mark.parametrize(
    ("measure", "answer", "outputs", "wanted"),
    [
        ("exact", "3.14", ["3.14"], 1),
        ("exact", "3", ["3.14"], 0),
        ("exact", "3.14.", ["3.14"], 1),
        ("exact", "5", ["-5"], 0),
        ("exact", "−5", ["-5"], 1),
        ("exact", "1,000", ["1000"], 1),
        ("exact", "１２", ["12"], 1),
        ("exact", "Köter!", ["Hund", "köter"], 1),
        ("exact", "", ["a"], 0),
        ("exact", "猫", ["猫。"], 1),
        ("exact", "a b", ["b a"], 0),
        ("set", "b, a and a", ["a, b"], 1),
        ("set", "b", ["a, b"], 0),
        ("contains", "it is big", ["large", "big"], 1),
        ("contains", "bigger", ["big"], 0),
        ("f1", "a b c d", ["a b"], 2 / 3),
        ("f1", "x", ["a b", "x y z"], 0.5),
        ("f1", "", ["a"], 0),
    ],
)
def test_grades(measure, answer, outputs, wanted):
    assert grade(measure, answer, outputs) == pytest.approx(wanted)


def test_words_keep_numbers_whole():
    assert words("From -3.5 to 1,000,000: don't, snake_case; 3-5") == [
        *("from", "-3.5", "to", "1000000", "don't", "snake", "case", "3", "5")
    ]  # fmt: skip


def test_wrong_folders(tmp_path):
    with pytest.raises(UserError, match="no tasks"):
        read_tasks(tmp_path)
    folder = write(tmp_path, {"sum": FORMS["sum"]})
    for part, text, said in [
        ("annotations", "{}", '"annotations" must be'),
        ("raw/execute", '{"examples": []}', '"examples" must be'),
        ("raw/induce", '{"examples": {"7": {"input": "1"}}}', "example 7: neither"),
        ("raw/induce", "{", "not JSON"),
        ("raw/induce", "[]", "JSON object"),
    ]:
        path = folder / part / "sum.json"
        before = path.read_text("utf-8")
        path.write_text(text, "utf-8")
        with pytest.raises(UserError, match=f"{part}/sum.json.*{said}"):
            read_tasks(folder)
        path.write_text(before, "utf-8")
    (folder / "annotations" / "sum.json").unlink()
    with pytest.raises(UserError, match="no file"):
        read_tasks(folder)
