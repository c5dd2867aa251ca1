"""Seeds: every single operation in both languages, answered rightly, finite, the same for the same seed."""

from __future__ import annotations

import pytest

from configs import ConfigError, UserError
from instruct.curriculum import CurriculumConfig
from instruct.records import from_row, to_row
from instruct.world.program import Program
from tests.oracle import OPERATIONS, shared_course, shared_seeds, small_course

TINY = {"operations": ("sort_up", "first", "sum", "double_each", "capital", "is_even", "largest"), "depth3": 3}


def test_every_operation_is_a_seed_in_both_languages():
    course = shared_course()
    taught = {(record.program, record.lang) for record in shared_seeds()}
    for program in course.splits.singles:
        assert {(str(program), "en"), (str(program), "zh")} <= taught
    assert len(course.splits.singles) > len(OPERATIONS), "arguments count"
    assert len({program for program, _ in taught if " | " in program}) > 5


def test_every_answer_of_a_seed_is_right_and_every_text_means_its_program():
    verifier = shared_course().verifier
    for record in shared_seeds():
        for instance in record.instances:
            verdict = verifier.judge(record.instruction, instance.input, instance.output)
            assert verdict.right and verdict.behaviour == record.behaviour, record
            assert instance.label_source == "O2" and instance.verified
        assert record.kept and record.decision.code == "given"
        assert from_row(to_row(record)) == record


def test_the_numbers_of_the_configuration_are_bounds():
    config = shared_course().config
    wordings: dict[tuple, int] = {}
    for record in shared_seeds():
        most = config.inputs if " | " not in record.program else config.composition_inputs
        assert 1 <= len(record.instances) <= most
        assert len({i.input for i in record.instances}) == len(record.instances)
        closed = record.instances[0].input == ""
        wordings[record.program, record.lang, closed] = wordings.get((record.program, record.lang, closed), 0) + 1
    assert {closed for _, _, closed in wordings} == {True, False}
    for (program, _, closed), count in wordings.items():
        assert count <= (config.closed if closed else config.phrasings)
        assert not closed or program in ("capital", "upper")


def test_classification_is_few_answers():
    flags = {record.program: record.is_classification for record in shared_seeds()}
    assert flags["is_even"] and not flags["capital"] and not flags["sort_up"]


def test_a_course_follows_from_its_seed():
    one, same, other = (small_course(seed, **TINY) for seed in (3, 3, 4))
    assert one.seeds() == same.seeds() == one.seeds() and one.splits.digest == same.splits.digest
    assert one.seeds() != other.seeds() and one.splits.digest != other.splits.digest
    assert {name for record in one.seeds() for name in (s.name for s in Program.read(record.program).steps)} <= {
        *TINY["operations"]
    }


def test_wrong_settings_are_named():
    with pytest.raises(ConfigError, match=r"(?s)compositions must be positive.*inputs must be positive") as raised:
        CurriculumConfig(compositions=0, inputs=-1)
    assert len(str(raised.value).splitlines()) <= 3
    with pytest.raises(UserError, match="no operation fly"):
        small_course(operations=("fly", "sum"))
    with pytest.raises(ConfigError, match="closed must not be negative"):
        CurriculumConfig(closed=-1)
