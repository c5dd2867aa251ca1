"""Exams: the same questions for the same seed, none of which was taught, and marks that count."""

from __future__ import annotations

import pytest

from instruct.exam import KINDS, PLANNED, grade, set_exam
from instruct.world.inputs import CLOSED, pool_of
from tests.oracle import oracle_of, shared_course, shared_seeds, small_course

COUNT = 20


@pytest.fixture(scope="module")
def exam():
    return set_exam(shared_course(), COUNT)


def test_the_same_exam_for_the_same_seed(exam):
    assert set_exam(small_course(), COUNT) == exam
    other = set_exam(shared_course(), COUNT, seed=1)
    assert all(other[kind] != exam[kind] for kind in KINDS)
    assert exam.keys() == set(KINDS) and all(len(items) == COUNT == len(set(items)) for items in exam.values())


def test_no_question_was_taught(exam):
    course = shared_course()
    behaviours = {record.behaviour for record in shared_seeds()}
    texts = {record.instruction for record in shared_seeds()}
    inputs = {(record.program, i.input) for record in shared_seeds() for i in record.instances}
    for kind, items in exam.items():
        for item in items:
            assert item.input == item.given and course.world.holds(item.program, item.given, item.output, item.language)
            if kind in PLANNED:
                assert course.behaviour.fingerprint(item.program) not in behaviours
            else:
                assert course.behaviour.fingerprint(item.program) in behaviours
            if kind == "phrasings":
                assert item.instruction not in texts
            if course.world.signature(item.program).takes not in CLOSED:
                assert pool_of(item.given) == "test" and (str(item.program), item.given) not in inputs
            assert kind != "inputs" or course.world.signature(item.program).takes not in CLOSED
    assert {len(item.program) for item in exam["depth3"]} == {3}
    for item in exam["open"]:
        assert course.splits.touches(item.program, item.language) == "", "it may be constructed"
    for item in exam["compositions"]:
        assert course.splits.touches(item.program, item.language)


def test_marks_are_shares_of_right_answers(exam, monkeypatch):
    course = shared_course()
    loaded, oracle = oracle_of(course, monkeypatch, wrong=0.3)
    said: dict[str, str] = {}
    execute = oracle.execute

    def remember(text, language, rng):
        said[text] = execute(text, language, rng)
        return said[text]

    oracle.execute = remember
    marks = grade(loaded, course, exam)
    for kind, items in exam.items():
        right = sum(said[f"{item.instruction}\n{item.given}"] == item.output for item in items)
        assert marks[kind]["direct"] == right / len(items) and marks[kind]["asked"] == len(items)
        assert 0.4 < marks[kind]["direct"] < 0.95
        assert ("plan" in marks[kind]) == (kind in PLANNED)
    assert marks["depth3"]["plan"] < marks["depth3"]["direct"], "three steps, each as often wrong"
    assert oracle.asked["plan"] == len({i.instruction for kind in PLANNED for i in exam[kind]})


def test_a_perfect_model_has_full_marks_and_a_silent_one_none(exam, monkeypatch):
    loaded, _ = oracle_of(shared_course(), monkeypatch)
    marks = grade(loaded, shared_course(), exam)
    assert {value for of in marks.values() for name, value in of.items() if name != "asked"} == {1.0}
    loaded, _ = oracle_of(shared_course(), monkeypatch, cut=1.0)
    marks = grade(loaded, shared_course(), exam)
    assert {value for of in marks.values() for name, value in of.items() if name != "asked"} == {0.0}


def test_marks_do_not_depend_on_how_the_work_is_shared(exam, monkeypatch):
    loaded, _ = oracle_of(shared_course(), monkeypatch, wrong=0.3)

    def shared(work, items):
        parts = [work(items[0::2]), work(items[1::2])]
        return [parts[i % 2][i // 2] for i in range(len(items))]

    assert grade(loaded, shared_course(), exam, shared) == grade(loaded, shared_course(), exam)
