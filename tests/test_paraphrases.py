"""Texts of one behaviour: pairs of files, programs of the world, and what is kept from training."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from configs import UserError
from instruct.curriculum import Course, CurriculumConfig
from instruct.paraphrases import (
    Joined,
    Phrased,
    behaviours,
    collection,
    divided,
    is_held_out,
    phrase,
    read_pairs,
    text_of,
)
from instruct.world.program import Program

OPERATIONS = ("sort_up", "sort_down", "sum", "largest", "reverse_list", "capital", "to_english", "double_each", "last")


@pytest.fixture(scope="module")
def course():
    return Course(CurriculumConfig(operations=OPERATIONS, compositions=12, held_out=4, depth3=4))


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def groups_of(texts):
    found = {}
    for each in texts:
        found.setdefault(each.behaviour, set()).add(each.text)
    return sorted(map(sorted, found.values()))


def test_what_is_joined_has_one_name():
    joined = Joined()
    joined.join("ab")
    joined.join("cd")
    joined.join("e")
    assert joined.name("a") == joined.name("b") != joined.name("c") == joined.name("d")
    joined.join("bd")
    assert len({joined.name(each) for each in "abcd"}) == 1 and joined.name("e") == "e"


def test_pairs_of_both_kinds_are_read_and_joined(tmp_path):
    rows = [
        {"a": "one", "b": "uno"},
        {"instruction": "uno", "positive": "eins"},  # shares a text with the first row
        {"a": "two", "b": "二", "behaviour": 2},
        {"a": ["translate", "zwei"], "b": "deux", "behaviour": "2"},  # shares its behaviour
        {"a": "three", "b": "drei", "behaviour": "3"},
    ]
    texts = read_pairs([write(tmp_path / "p.jsonl", rows)])
    assert groups_of(texts) == [["deux", "translate\nzwei", "two", "二"], ["drei", "three"], ["eins", "one", "uno"]]
    assert {each.text: each.language for each in texts}["二"] == "zh"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"a": "x"}, r"p\.jsonl:1: a row needs `a` and `b`"),
        ({"a": "x", "b": ""}, r"p\.jsonl:1: `b` must be text"),
        ({"instruction": ["x", "y", "z"], "positive": "w"}, "`instruction` must be text, or a list of"),
        ({"a": "x", "b": "y", "behaviour": 1.5}, "`behaviour` must be text or a whole number"),
    ],
)
def test_a_wrong_pair_is_named(row, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_pairs([write(tmp_path / "p.jsonl", [row])])


def test_an_instruction_and_its_input_are_one_text():
    assert text_of(["Sort the numbers.", "3 1 2"], "") == "Sort the numbers.\n3 1 2"


def test_pairs_are_divided_by_behaviour():
    texts = [Phrased(f"{kind} {i}", f"behaviour {i}") for i in range(100) for kind in ("a", "b", "c")]
    train, (pool, queries) = divided(texts)
    assert len(train) + len(pool) + len(queries) == 300 and 5 < len(queries) < 45
    assert not {each.behaviour for each in train} & {each.behaviour for each in queries}
    assert len(pool) == 2 * len(queries) and all(each.text.startswith("a") for each in queries)


def test_programs_that_do_the_same_are_one_behaviour(course):
    """Reversing numbers that were sorted upwards is sorting them downwards."""
    programs = behaviours(course)
    assert not set(programs.known.values()) & set(programs.new.values())
    everything = {**programs.known, **programs.new}
    for one, name in everything.items():
        for other, other_name in everything.items():
            alike = course.behaviour.fingerprints(one) & course.behaviour.fingerprints(other)
            assert not alike or name == other_name
    assert everything[Program.read("sort_up")] != everything[Program.read("sort_down")]


def test_a_held_out_program_that_does_what_a_taught_one_does_is_not_new(course):
    taught, other, new = map(Program.read, ("sort_down", "sort_up | reverse_list", "sort_up | last"))
    splits = SimpleNamespace(seeds=(taught,), held_out=(other,), depth3=(new,))
    found = behaviours(SimpleNamespace(splits=splits, behaviour=course.behaviour))
    assert list(found.known) == [taught] and list(found.new) == [new]


def test_training_and_evaluation_share_no_text_and_the_phrases_that_are_held_out_stay_out(course):
    programs = {Program.read(name): name for name in ("sort_up", "capital")}
    train = [each for group in phrase(course, programs, 40, "x", inputs=0.5) for each in group]
    test = [each for group in phrase(course, programs, 40, "x", train=False) for each in group]
    unseen = [each for group in phrase(course, programs, 10, "x", held_out=True, train=False) for each in group]
    assert not {each.text for each in train} & {each.text for each in (*test, *unseen)}
    assert not any(is_held_out(each.text) for each in train) and all(is_held_out(each.text) for each in test)
    assert {each.language for each in train} == {"en", "zh"} == {each.language for each in test}
    assert any("\n" in each.text for each in train) and any("\n" not in each.text for each in train)
    words = course.world.by_name["capital"].english.held_out.partition("{x}")[0]
    said = [each for each in unseen if each.behaviour == "capital" and each.language == "en"]
    assert said and all(words.strip().lower() in each.text.lower() for each in said)
    assert not any(words.strip().lower() in each.text.lower() for each in train if each.behaviour == "capital")


@pytest.mark.parametrize("held_out", [False, True])
def test_a_collection_holds_other_texts_of_what_is_asked_for(held_out, course):
    known = behaviours(course).known
    found = collection(course, known, 120, 30, held_out=held_out)
    pool, asked = ({each.text for each in part} for part in found)
    assert not pool & asked and 60 < len(found.pool) <= 120 and 10 < len(found.queries) <= 30
    assert all(is_held_out(text) for text in (pool if held_out else pool | asked))
    names = {each.behaviour for each in found.pool}
    assert sum(each.behaviour in names for each in found.queries) > 0.8 * len(found.queries)
    assert collection(course, known, 120, 30, held_out=held_out) == found
