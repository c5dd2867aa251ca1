"""Labelled texts and passages: read from files with the place of what is wrong, made from the world."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from configs import UserError
from instruct.labelled import Labelled, divide, families, passages, read_labelled, read_passages
from instruct.world.operation import language_of
from instruct.world.parse import Parser
from instruct.world.program import world


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def test_labels_are_read_in_every_form(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        {"text": "fine", "label": "good"},
        {"instruction": "Sort.", "labels": ["a", "b", "a"], "output": "ignored"},
        {"text": "x", "instruction": "y", "label": 1},
        {"text": "无", "labels": []},
    )
    assert read_labelled(path) == [
        Labelled("fine", ("good",), f"{path}:1"),
        Labelled("Sort.", ("a", "b"), f"{path}:2"),
        Labelled("x", ("1",), f"{path}:3"),
        Labelled("无", (), f"{path}:4"),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x"}, "needs either `label`"),
        ({"text": "x", "label": "a", "labels": ["a"]}, "needs either `label`"),
        ({"text": "x", "labels": "a"}, "`labels` must be a list"),
        ({"text": "x", "label": None}, "a label must be text or a whole number, not None"),
        ({"text": "x", "label": True}, "not True"),
        ({"text": "x", "labels": [""]}, "not ''"),
        ({"text": "x", "label": 0.5}, "not 0.5"),
        ({"label": "a"}, "`text` must be text"),
        ({"instruction": " ", "label": "a"}, "`instruction` must be text, and not empty"),
        ({"text": 3, "label": "a"}, "`text` must be text"),
        ("{broken", "not JSON"),
        ("[1]", "a row must be a JSON object"),
    ],
    ids=str,
)
def test_wrong_labels_are_one_sentence_with_the_line(tmp_path, row, message):
    path = write(tmp_path / "a.jsonl", {"text": "fine", "label": "good"}, row)
    with pytest.raises(UserError) as caught:
        read_labelled(path)
    assert f"{path}:2: " in str(caught.value) and message in str(caught.value)


GOOD = {"context": "the cat sat", "question": "who?", "answer": "cat", "start": 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": 5}, "at character 5 of `context` stands 'at ', not the answer 'cat'"),
        ({"start": -7}, "`start` must be the character"),
        ({"start": "4"}, "`start` must be the character"),
        ({"start": True}, "`start` must be the character"),
        ({"start": 99}, "stands '', not the answer"),
        ({"answer": ""}, "`answer` must be text, and not empty"),
        ({"context": None}, "`context` must be text"),
        ({"question": ""}, "`question` must be text"),
    ],
    ids=str,
)
def test_wrong_passages_are_one_sentence_with_the_line(tmp_path, change, message):
    path = write(tmp_path / "a.jsonl", GOOD, GOOD | change)
    with pytest.raises(UserError) as caught:
        read_passages(path)
    assert f"{path}:2: " in str(caught.value) and message in str(caught.value)


def test_division_keeps_a_text_where_it_is():
    texts = [str(i) for i in range(1000)]
    train, held_out = divide(texts, 0.2, str)
    assert 150 < len(held_out) < 250 and sorted(train + held_out) == sorted(texts)
    again, _ = divide(texts[::-3], 0.2, str)
    assert set(again) <= set(train)


def test_families_of_the_world():
    """Each text asks for an operation of the family that is its label; no held-out text holds only training words."""
    train, held_out = families(4)
    parser = Parser(world())
    assert not {each.text for each in train} & {each.text for each in held_out}
    assert {each.labels for each in train} == {each.labels for each in held_out}
    for group in (train, held_out):
        assert {language_of(each.text) for each in group} == {"en", "zh"}
        for each in group[::37]:
            program = parser.parse(each.text).program
            assert world().by_name[program.steps[-1].name].family in each.labels
    assert families(4) == (train, held_out) and families(4, seed=1)[0] != train


def test_passages_of_the_world_have_their_answer_where_they_say():
    made = passages(120)
    assert len(made) == len({(each.context, each.question) for each in made}) == 120
    starts = Counter()
    for each in made:
        assert each.context[each.start : each.start + len(each.answer)] == each.answer
        language = language_of(each.context)
        assert language_of(each.question) == language
        stop = {"en": ".", "zh": "。"}[language]
        before, after = each.context[: each.start], each.context[each.start + len(each.answer) :]
        starts[language, before.count(stop)] += 1
        rest = after.partition(stop)[0].strip()
        if each.question.startswith(("who ", "谁")):
            assert rest and rest in each.question, "what the actor did is asked in its own words"
        else:
            assert rest == "", "an object ends its sentence"
    assert set(starts) == {(language, place) for language in ("en", "zh") for place in range(3)}
