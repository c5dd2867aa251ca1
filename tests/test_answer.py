"""Answering: a plan is its steps one after the other, an answer that was cut off is none, votes are counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest
import torch

from data.chat import ChatFormat
from instruct import answer
from instruct.answer import Asked, by_plan, directly, plans, vote
from model.complete import Completion
from model.load import LoadedModel
from model.sampling import Sampling
from tests.oracle import oracle_of, shared_course
from tests.small import small_model


@pytest.fixture
def questions():
    course, rng = shared_course(), Random(0)
    items = course.splits.items("open", 12) + course.splits.items("depth3", 12)
    rng.shuffle(items)
    return [Asked(item.instruction, item.input, item.language) for item in items]


def scripted(monkeypatch, say):
    """`say(part, text, seed)` in the place of a model; part "" where there is no system message."""

    def complete(loaded, conversations, new_tokens, sampling=None, seeds=None, batch_rows=64):
        seeds = [None] * len(conversations) if seeds is None else seeds
        parts = [c.messages[0].content.split(" ")[0] if len(c.messages) > 1 else "" for c in conversations]
        said = [say(part, c.messages[-1].content, seed) for part, c, seed in zip(parts, conversations, seeds)]
        return [each if isinstance(each, Completion) else Completion(each, True) for each in said]

    monkeypatch.setattr(answer, "complete", complete)


def test_by_plan_is_carrying_out_the_steps_one_after_the_other(questions, monkeypatch):
    """With many answers wrong and some cut off: each step works on what the step before really gave."""
    loaded, _ = oracle_of(shared_course(), monkeypatch, wrong=0.2, cut=0.1)
    traces = by_plan(loaded, questions)
    for asked, steps, trace in zip(questions, plans(loaded, questions), traces):
        text, done = asked.input, []
        for step in steps:
            [output] = directly(loaded, [Asked(step, text, asked.language)])
            done.append((step, text, output))
            text = output
            if not output:
                break
        assert [(s.instruction, s.input, s.output) for s in trace.steps] == done
        assert trace.output == (text if done else "") and trace.asked == asked
    outputs = [trace.output for trace in traces]
    assert "" in outputs and len(set(outputs)) > 5
    assert {len(trace.steps) for trace in traces} >= {0, 2, 3}


def test_a_batch_answers_as_one_at_a_time(questions, monkeypatch):
    loaded, _ = oracle_of(shared_course(), monkeypatch, wrong=0.3, cut=0.1)
    for way in (directly, by_plan, lambda model, asked: vote(model, asked, 5)):
        assert way(loaded, questions) == [way(loaded, [one])[0] for one in questions]


def test_a_batch_of_a_real_model_answers_as_one_at_a_time(small_tokenizer):
    model = small_model(vocab_size=small_tokenizer.vocab_size, context=200)
    loaded = LoadedModel(model, small_tokenizer, ChatFormat(), Path("none"))
    asked = [Asked("kato miren"), Asked("sol", "ve 12", "zh"), Asked("指令 " * 9), Asked("a", "b")]
    with torch.no_grad():
        for way in (directly, lambda *both: vote(*both, 3, 2.0, 9), lambda *both: by_plan(*both, 9)):
            assert way(loaded, asked) == [way(loaded, [one])[0] for one in asked]
    ends = {text for text, _ in vote(loaded, asked * 30, 1, 8.0, 30)}
    assert "" in ends and len(ends) > 1, "some come to an end and some do not"


def test_what_was_cut_off_is_no_answer(monkeypatch):
    scripted(monkeypatch, lambda part, text, seed: Completion(" 12 ", text != "b"))
    assert directly(None, [Asked("a"), Asked("b"), Asked("c", "d")]) == ["12", "", "12"]


def test_a_chain_ends_where_a_step_gives_nothing(monkeypatch):
    def say(part, text, seed):
        if part == "plan":
            return "one\n two \n\nthree"
        return {"one\n5": "6", "two\n6": "", "three\n": "9"}[text]

    scripted(monkeypatch, say)
    [trace] = by_plan(None, [Asked("do it", "5")])
    assert [(step.instruction, step.output) for step in trace.steps] == [("one", "6"), ("two", "")]
    assert trace.output == ""


def test_a_plan_of_too_many_steps_or_without_an_end_is_none(monkeypatch):
    texts = {"long": "\n".join("abcdefg"), "most": "\n".join("abcdef"), "cut": Completion("a\nb", False), "none": " "}
    scripted(monkeypatch, lambda part, text, seed: texts[text] if part == "plan" else "x")
    found = plans(None, [Asked(name) for name in texts])
    assert list(map(len, found)) == [0, answer.MOST_STEPS, 0, 0]
    assert [trace.output for trace in by_plan(None, [Asked(name) for name in texts])] == ["", "x", "", ""]


def test_equal_questions_share_a_plan_and_languages_do_not(monkeypatch):
    asked = Counter()

    def say(part, text, seed):
        asked[part] += 1
        return "step"

    scripted(monkeypatch, say)
    plans(None, [Asked("do", "1"), Asked("do", "2"), Asked("do", "1", "zh")])
    assert asked == {"plan": 2}


def test_the_most_frequent_answer_wins_and_of_equals_the_first(monkeypatch):
    answers = {"most": "b a a b a", "ties": "z a a z c", "some": "_ _ d _ _", "none": "_ _ _ _ _"}
    left = {name: iter(text.split()) for name, text in answers.items()}
    scripted(monkeypatch, lambda part, text, seed: next(left[text]).strip("_"))
    assert vote(None, [Asked(name) for name in answers], 5) == [("a", 3), ("z", 2), ("d", 1), ("", 0)]


def test_the_samples_of_a_vote_differ_in_their_seeds_only(monkeypatch):
    seen = []
    scripted(monkeypatch, lambda part, text, seed: seen.append((text, seed)) or "x")
    vote(None, [Asked("a"), Asked("b"), Asked("a", "1"), Asked("a")], 4)
    assert len(set(seen)) == 12, "the last question is the first one again"
    assert seen[:4] == seen[12:] and len({seed for _, seed in seen}) == 12
    found = []
    monkeypatch.setattr(answer, "say", lambda loaded, asked, new, sampling, seeds: found.append(sampling) or ["x"] * 2)
    vote(None, [Asked("a")], 2, temperature=0.4)
    assert found == [Sampling(temperature=0.4)]


def test_nothing_asked(monkeypatch):
    loaded, _ = oracle_of(shared_course(), monkeypatch)
    assert by_plan(loaded, []) == plans(loaded, []) == directly(loaded, []) == vote(loaded, [], 3) == []
