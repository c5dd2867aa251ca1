"""What is measured of a model that writes, with a scripted model whose faults are known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from instruct.records import Instance
from tests.oracle import oracle_of, shared_course, shared_seeds
from train.evidence import VALID, filter_table, free_writing, induction_table, recheck

SAMPLES = 140


def written(monkeypatch, **spoiled):
    loaded, oracle = oracle_of(shared_course(), monkeypatch, **spoiled)
    return loaded, oracle, *free_writing(loaded, shared_course(), shared_seeds(), SAMPLES, 1.0, 0)


def test_every_sample_has_one_fate_and_the_shares_follow_from_them(monkeypatch):
    _, _, figures, judged = written(monkeypatch, garbage=0.3, cut=0.1)
    assert len(judged) == sum(figures["fates"].values()) == SAMPLES
    passed = sum(count for fate, count in figures["fates"].items() if fate == "passed" or fate in VALID)
    assert figures["valid"] == pytest.approx(passed / SAMPLES) and 0.3 < figures["valid"] < 0.9
    assert figures["discovered"] <= figures["new"] * SAMPLES <= passed
    assert figures["new_per_1000"] == pytest.approx(1000 * figures["new"])
    assert set(figures["by_method"]) >= {"self-instruct", "magpie"}


def test_garbage_costs_validity(monkeypatch):
    clean, spoiled = (written(monkeypatch, garbage=garbage)[2] for garbage in (0.0, 0.6))
    assert clean["fates"].get("parse", 0) == 0 < spoiled["fates"]["parse"], "only programs that are of no use fall"
    assert clean["valid"] > 0.75 and spoiled["valid"] < 0.6 * clean["valid"]


def test_filters_are_measured_against_answers_that_are_known_to_be_wrong(monkeypatch):
    loaded, _, figures, judged = written(monkeypatch)
    table = filter_table(loaded, shared_course(), shared_seeds(), judged, 0)
    assert table["items"] == SAMPLES and table["good"] == pytest.approx(figures["valid"] * SAMPLES, abs=2)
    oracle_of(shared_course(), monkeypatch, wrong=1.0)
    spoiled = filter_table(loaded, shared_course(), shared_seeds(), judged, 0)
    assert spoiled["items"] == SAMPLES and spoiled["good"] < 0.1 * SAMPLES
    together = spoiled["together"]
    assert together["good_before"] == pytest.approx(spoiled["good"] / SAMPLES)
    assert together["kept"] < SAMPLES, "near duplicates of the seeds fall"


def test_the_second_road_agrees_with_right_answers_and_finds_every_wrong_one():
    records = [replace(record, instances=record.instances[:1]) for record in shared_seeds()]
    assert recheck(records) == {"checked": len(records), "wrong": 0}
    spoiled = [
        replace(record, instances=(Instance(one.input, one.output + " no", "O1", True),))
        for record in records
        for one in record.instances
    ]
    assert recheck(spoiled) == {"checked": len(records), "wrong": len(records)}


def test_induction_counts_meanings_not_wordings(monkeypatch):
    course = shared_course()
    loaded, oracle = oracle_of(course, monkeypatch)
    program = course.splits.singles[0]
    oracle.induce = lambda text, language, rng: oracle.grammar.phrase(program, rng, language)
    others = [each for each in course.splits.singles if each != program][:3]
    assert induction_table(loaded, course, [program], 1, 4, 0)["greedy"] == 1.0
    table = induction_table(loaded, course, [program, *others], 1, 4, 0)
    assert (table["tasks"], table["greedy"], table["searched"], table["search"]) == (4, 0.25, 1, 1.0)
