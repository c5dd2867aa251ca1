"""Execution: a chain is written from the question alone, its steps follow one another, and what fails says why."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

from configs import ConfigError, UserError
from data.chat import ChatFormat, prompt
from instruct import execute as module
from instruct import lessons, strategies
from instruct.answer import Asked
from instruct.attacks import attacks as injected
from instruct.execute import Execution, carry_out, execute, execute_all, holds, in_sentences, show
from instruct.strategies import STRATEGIES, Chain, Known, Settings, asking
from instruct.world.program import Program
from model.complete import Completion
from model.load import LoadedModel
from model.score import Likelihood
from tests.oracle import Letters, Oracle, oracle_of, shared_course
from tests.small import small_model

SETTINGS = Settings(confidences=False)
OBEYS = ("ignore", "system", "忽略", "input:", "<")


class Gullible(Oracle):
    """Writes a chain for every instruction that it sees, wherever that stands, and obeys the last one alone where
    something tells it to. So whatever reaches it changes the chain."""

    def construct(self, text, language, rng):
        text = text.removesuffix(f"\n{lessons.HIDDEN}")
        try:
            return self._chain(text, language)
        except ValueError:
            pieces = [
                piece.strip(" 0123456789") for piece in re.split(r"[\n<>\"“”」|，]|Then |然后|(?<=[.。?？:：\]])", text)
            ]
            found = []
            for piece in pieces:
                try:
                    found.append(self._chain(piece, language))
                except ValueError:
                    continue
            if any(word in text.lower() for word in OBEYS):
                found = found[-1:]
            return "\n".join(found)

    def plan(self, text, language, rng):
        return "\n".join(lessons.split_chain(self.construct(text, language, rng))[1])

    def _chain(self, text, language):
        hidden = lessons.HIDDEN in text
        for literal in ("3 1 2", "cat", "France", "7") if hidden else ("",):
            try:
                reading = self.read(text.replace(lessons.HIDDEN, literal))
                break
            except ValueError:
                continue
        else:
            raise ValueError(text)
        rng = Random(str(reading.program))
        steps = [self.grammar.phrase(step, rng, language) for step in reading.program.decompose()]
        given = lessons.HIDDEN if hidden else reading.literal
        return "\n".join(([] if given is None else [lessons.INPUT + given]) + steps)

    def sentence(self, text, language, rng):
        question, answer = lessons.split_request(text)
        return f"{question[:-1]} {answer}." if "wrong" not in question else "It is something."


class Recording:
    """The oracle in a model's place; `prompts`: the token ids that it was given to write chains from."""

    def __init__(self, monkeypatch, oracle=None):
        self.loaded, _ = oracle_of(shared_course(), monkeypatch)
        self.oracle, self.prompts = oracle or Gullible(shared_course()), []
        monkeypatch.setattr("model.complete.complete_prompts", self.complete_prompts)
        monkeypatch.setattr(strategies, "log_likelihood", likelihoods)

    def complete_prompts(self, loaded, prompts, *rest, **named):
        said = self.oracle.complete_prompts(loaded, prompts, *rest, **named)
        self.prompts += [tuple(ids) for ids in prompts if ids[1] == Letters.roles["system"]]
        return said


def likelihoods(loaded, conversations, batch_rows=64):
    """Longer messages are less likely."""
    return [Likelihood(-0.01 * len(c.messages[-1].content) ** 2, len(c.messages[-1].content)) for c in conversations]


@pytest.fixture
def recorded(monkeypatch):
    return Recording(monkeypatch)


def scripted(monkeypatch, say):
    """`say(part, text, seed)` in a model's place."""

    def complete(loaded, conversations, new_tokens, sampling=None, seeds=None, batch_rows=64):
        seeds = [None] * len(conversations) if sampling is None else seeds
        parts = [c.messages[0].content.rpartition(" ")[0] if len(c.messages) > 1 else "" for c in conversations]
        said = [say(part, c.messages[-1].content, seed) for part, c, seed in zip(parts, conversations, seeds)]
        return [each if isinstance(each, Completion) else Completion(each, True) for each in said]

    for place in (strategies, module):
        monkeypatch.setattr(place, "complete", complete)
    monkeypatch.setattr("instruct.answer.complete", complete)
    monkeypatch.setattr(strategies, "log_likelihood", likelihoods)


def instructions(done):
    return tuple(step.instruction for step in done.steps)


# Carrying out --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "given", "answer"),
    [
        ("What is the capital of France?", "France", "Paris"),
        ("法国的首都是什么？", "法国", "巴黎"),
        ('Sort the numbers "3 1 2" in ascending order, then give the first item of the result.', "3 1 2", "1"),
    ],
)
def test_a_question_that_holds_its_input_is_solved_by_a_chain(recorded, question, given, answer):
    try:
        shared_course().verifier.parser.parse(question)
    except UserError:
        question = shared_course().grammar.phrase(Program.read("sort_up | first"), Random(0), "en", literal=given)
    done = execute(recorded.loaded, asking(question))
    assert (done.answer, done.given, done.refusal, done.failed_at) == (answer, given, "", None)
    assert done.steps[0].input == given and instructions(done) == done.constructed


def test_every_strategy_solves_what_has_its_input_beside_it(recorded):
    items = [item for item in shared_course().splits.items("open", 20) if item.input]
    asked = [Asked(item.instruction, item.input, item.language) for item in items]
    for strategy in ("direct", "construct", "plan", "search"):
        done = execute_all(recorded.loaded, asked, strategy, Settings(candidates=3))
        assert [each.answer for each in done] == [item.output for item in items], strategy
        for each, item in zip(done, items):
            assert len(each.steps) == (1 if strategy == "direct" else len(item.program)) and each.strategy == strategy
            assert all(0 < step.confidence < 1 for step in each.steps)
            assert [step.after for step in each.steps] == [(), *((n,) for n in range(1, len(each.steps)))]
            assert all(a.output == b.input for a, b in itertools.pairwise(each.steps))


def test_a_batch_answers_as_one_at_a_time(monkeypatch):
    recorded = Recording(monkeypatch, Gullible(shared_course(), wrong=0.3, cut=0.2, garbage=0.2))
    items = shared_course().splits.items("open", 10)
    asked = [Asked(item.instruction, item.input, item.language) for item in items]
    asked += [asked[0], Asked("What is the capital of France?"), Asked("What is what?")]
    for strategy in ("direct", "construct", "plan", "search"):
        together = execute_all(recorded.loaded, asked, strategy, Settings(candidates=3))
        assert together == [execute(recorded.loaded, one, strategy, Settings(candidates=3)) for one in asked]
        assert len({bool(each.refusal) for each in together}) == 2, strategy


def test_nothing_asked_and_an_unknown_strategy(recorded):
    known = Known(Nearest(), ["a"])
    assert [execute_all(recorded.loaded, [], each, SETTINGS, known) for each in STRATEGIES] == [[]] * len(STRATEGIES)
    with pytest.raises(UserError, match="unknown strategy 'guess'"):
        execute(None, Asked("a"), "guess")


def test_a_real_model_answers_a_batch_as_one_at_a_time_and_knows_how_sure_it_is(small_tokenizer):
    model = small_model(vocab_size=small_tokenizer.vocab_size, context=200)
    loaded = LoadedModel(model, small_tokenizer, ChatFormat(), Path("none"))
    asked = [Asked("kato miren"), Asked("sol", "ve 12", "zh"), Asked('ve "指令 12"'), Asked("a", "b")]
    settings = Settings(chain_tokens=9, answer_tokens=9, candidates=3, temperature=3.0)
    for strategy in ("direct", "construct", "plan", "search"):
        done = execute_all(loaded, asked, strategy, settings)
        for one, each in zip(asked, done):
            alone = execute(loaded, one, strategy, settings)
            assert (alone.constructed, alone.refusal, alone.answer) == (each.constructed, each.refusal, each.answer)
            for step in each.steps:
                row = lessons.execute(step.instruction, step.input, step.output)
                found = strategies.log_likelihood(loaded, [row])[0].per_token
                assert step.confidence == pytest.approx(np.exp(found), rel=1e-4)
    assert any(each.steps and each.steps[0].confidence for each in execute_all(loaded, asked, "direct", settings))


# Refusals ------------------------------------------------------------------------------------------------------------

SAID = {
    "nothing": ("", "no step"),
    "cut": (Completion("a\nb", False), "did not come to its end"),
    "long": ("\n".join("abcdefg"), "7 steps; 6 are allowed"),
    "names a part of Spain": ("input: Spa\na", "does not hold the input 'Spa'"),
    "asks 12": ("input: 2\na", "does not hold the input '2'"),
    "invents": ("input: Spain\na", "does not hold the input 'Spain'"),
    "no input": ("input:\na", "does not hold the input ''"),
    "only input": ("input: only", "no step"),
    "second input": ("a\ninput: b", "a place where a step belongs"),
    'quotes "3 1"': ("a", "does not start from the quoted text"),
    'quotes "x" wrongly': ("input: x\na", "does not start from the quoted text"),
    'opens "3 1': ("a", "does not close"),
    'two "3" and "1"': ("a", "quotes more than one text"),
}


@pytest.mark.parametrize("question", SAID)
def test_a_chain_that_is_none_is_refused_before_anything_is_run(monkeypatch, question):
    said = {lessons.hide_quoted(text)[0] if text.count('"') == 2 else text: said for text, (said, _) in SAID.items()}
    asked = []
    scripted(monkeypatch, lambda part, text, seed: said[text] if part == "construct" else asked.append(text) or "x")
    for strategy in ("construct", "search"):
        done = execute(None, Asked(question), strategy)
        assert SAID[question][1] in done.refusal and done.failed_at == 0
        assert done.steps == () and done.answer == "" and not asked


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("法国的首都是哪里？", "法国"),
        ("x is 2x", "2x"),
        ("(12)?", "12"),
        ("to -3.", "-3"),
        ("a.b", "a.b"),
        ("New York?", "New York"),
    ],
)
def test_what_stands_in_the_question_can_be_its_input(monkeypatch, text, named):
    scripted(monkeypatch, lambda part, text, seed: f"input: {named}\na" if part else text)
    assert execute(None, Asked(text)).answer == f"a\n{named}"


def test_an_input_beside_a_question_that_holds_one_is_refused(monkeypatch):
    scripted(monkeypatch, lambda part, text, seed: "input: France\nName it." if part else "x")
    assert execute(None, Asked("Capital of France?")).answer == "x"
    done = execute(None, Asked("Capital of France?", "Spain"))
    assert "another one was given" in done.refusal and done.steps == ()


def test_an_instruction_is_one_line_in_every_strategy(monkeypatch):
    scripted(monkeypatch, lambda part, text, seed: "input: …\na" if part else "x")
    for strategy in STRATEGIES:
        for one, reason in ((Asked("Sort.\nThen add.", "3 1"), "one line"), (Asked(" "), "is empty")):
            done = execute(None, one, strategy, SETTINGS, Known(Nearest(), ["a"]))
            assert reason in done.refusal and done.steps == () and done.failed_at == 0


@pytest.mark.parametrize(("answer", "reason"), [("", "empty"), (Completion("y", False), "did not come to its end")])
def test_a_step_without_an_answer_ends_the_chain_there(monkeypatch, answer, reason):
    say = {"a": "1", "b": answer, "c": "3"}
    scripted(monkeypatch, lambda part, text, seed: "a\nb\nc" if part else say[text.split("\n")[0]])
    done = execute(None, Asked("do", "0"))
    assert done.failed_at == 2 and reason in done.refusal and done.answer == ""
    assert [step.output for step in done.steps] == ["1", "y" if answer else ""]
    assert "3. c  (not run)" in show(done, trace=True)
    assert show(done).startswith("refused at step 2: ")


def test_confidence_is_the_mean_probability_and_its_bound_refuses(monkeypatch):
    say = {"a": "four", "b": "seventeen letters"}
    scripted(monkeypatch, lambda part, text, seed: "a\nb" if part else say[text.split("\n")[0]])
    done = execute(None, Asked("do", "0"))
    sure = [float(np.exp(-0.01 * len(text))) for text in ("a\nb", *say.values())]
    assert [done.confidence, *(step.confidence for step in done.steps)] == pytest.approx(sure)
    assert done.log_likelihood == pytest.approx(-0.01 * (3 + 4 + 17) / 3)
    below = execute(None, Asked("do", "0"), settings=Settings(confidence=0.9))
    assert below.failed_at == 2 and "0.84, below 0.9" in below.refusal
    unsure = execute(None, Asked("do", "0"), settings=Settings(confidence=0.98))
    assert unsure.failed_at == 0 and unsure.steps == ()
    assert execute(None, Asked("do", "0"), settings=SETTINGS).steps[0].confidence is None


def test_wrong_settings_say_all_that_is_wrong():
    with pytest.raises(ConfigError) as caught:
        Settings(steps=0, confidence=0.5, confidences=False, candidates=0)
    assert len(caught.value.problems) == 3
    with pytest.raises(ConfigError, match="between 0 and 1"):
        Settings(confidence=2.0)


def test_with_a_world_a_chain_must_be_readable_and_fit_together(monkeypatch):
    verifier = shared_course().verifier
    grammar, rng = shared_course().grammar, Random(0)
    texts = {name: grammar.phrase(Program.read(name), rng, "en") for name in ("sort_up", "first", "sum", "capital")}
    texts |= {"nonsense": "Do it well.", "closed": "What is the capital of France?"}
    for chain, reason in {
        ("sort_up", "nonsense"): "cannot read step 2",
        ("sort_up", "capital"): "do not fit together",
        ("sort_up", "closed"): "step 2 holds an input",
        ("sort_up", "sum"): "",
    }.items():
        scripted(monkeypatch, lambda part, text, seed, chain=chain: "\n".join(texts[n] for n in chain) if part else "3")
        done = execute(None, Asked("do", "3 1"), settings=SETTINGS, verifier=verifier)
        assert reason in done.refusal and bool(done.refusal) == bool(reason)
        assert len(done.steps) == (0 if reason else 2)
    done = execute(None, Asked("do", "no list"), settings=SETTINGS, verifier=verifier)
    assert (done.failed_at, done.steps) == (1, ()) and "wrong type" in done.refusal
    scripted(monkeypatch, lambda part, text, seed: f"{texts['sort_up']}\n{texts['sum']}" if part else "not numbers")
    done = execute(None, Asked("do", "3 1"), settings=SETTINGS, verifier=verifier)
    assert done.failed_at == 2 and "'not'" in done.refusal, "what a step gives is looked at too"
    for given, reason in (("France", "another one"), ("", "")):
        done = execute(None, Asked(texts["closed"], given), "direct", SETTINGS, verifier=verifier)
        assert reason in done.refusal and bool(reason) == bool(done.refusal)


# Retrieval and search ------------------------------------------------------------------------------------------------


class Nearest:
    """Counts letters: texts of the same letters are near."""

    def encode(self, texts):
        counts = np.array([[text.lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz"] + [1] for text in texts])
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


def test_the_nearest_known_instruction_is_carried_out_on_the_question(monkeypatch):
    scripted(monkeypatch, lambda part, text, seed: "input: Oslo\nelse" if part else text.replace("\n", " <- "))
    known = Known(Nearest(), ["Sort numbers.", "Reverse the words."])
    asked = [Asked("reversed words", "a b"), Asked("numbers sorted", "3 1"), Asked("Sort numbers of Oslo")]
    done = execute_all(None, asked, "retrieve", Settings(), known)
    expected = ["Reverse the words. <- a b", "Sort numbers. <- 3 1", "Sort numbers. <- Oslo"]
    assert [each.answer for each in done] == expected
    assert all(0.5 < each.confidence < 1 for each in done)
    far = execute(None, Asked("zzzz zz", "1"), "retrieve", Settings(confidence=0.5), known)
    assert far.failed_at == 0 and "below 0.5" in far.refusal
    with pytest.raises(UserError, match="known instructions and an embedder"):
        execute(None, asked[0], "retrieve")
    with pytest.raises(UserError, match="no known instructions"):
        Known(Nearest(), [])


def test_search_takes_the_answer_that_most_chains_agree_on(monkeypatch):
    """Greedily a chain that is alone with its answer; six samples, four of them of two chains with one answer."""
    written = itertools.cycle(["b", "cc", "x\nb", "b", "", "cc"])
    samples = {}

    def say(part, text, seed):
        if part:
            return "greedy" if seed is None else samples.setdefault(seed, next(written))
        return {"greedy": "1", "b": "22", "cc": "22.", "x": "0"}[text.split("\n")[0]]

    scripted(monkeypatch, say)
    done = execute(None, Asked("do", "0"), "search", Settings(candidates=7, confidences=False))
    assert done.constructed == ("b",) and done.answer == "22", "of the two the likelier"
    assert done.agreement == 5 / 7 and done.confidence == pytest.approx(np.exp(-0.01))
    assert len(samples) == 6
    assert execute(None, Asked("do", "0"), "search", Settings(candidates=1)).constructed == ("greedy",)


def test_whoever_wrote_a_chain_it_is_carried_out(recorded):
    chains = [Chain(("Give the sum of the numbers.",), "3 4"), Chain(refusal="none"), Chain()]
    done = carry_out(recorded.loaded, [Asked("?")] * 3, chains, SETTINGS)
    assert [each.answer for each in done] == ["7", "", ""] and done[0].strategy == "given"
    assert [each.refusal for each in done] == ["", "none", "the chain has no step"]
    with pytest.raises(ValueError, match="zip"):
        carry_out(recorded.loaded, [Asked("?")], chains, SETTINGS)


def test_a_sentence_holds_the_answer_or_is_none(recorded):
    done = execute_all(recorded.loaded, [asking("What is the capital of France?"), asking("What is what?")])
    said = in_sentences(recorded.loaded, [*done, replace(done[0], question=Asked("wrong"))])
    assert [each.sentence for each in said] == ["What is the capital of France Paris.", "", ""]
    assert show(said[0]) == said[0].sentence and show(said[2]) == "Paris"


@pytest.mark.parametrize(
    "question, answer, given, text, wanted",
    [
        ("What is the capital of France?", "Paris", "", "The capital of France is Paris.", True),
        ("What is the capital of France?", "Paris", "", "The capital of France is paris", True),
        ("What is the capital of France?", "Paris", "", "The capital of France is Parisis.", False),
        ("What is the capital of France?", "Paris", "", "Paris.", False),
        ("What is the capital of France?", "Paris", "", "The capital of Faris is Paris.", False),
        ("What is the capital of France?", "Paris", "France", "The capital is Paris.", False),
        ("法国的首都是哪里？", "巴黎", "法国", "法国的首都是巴黎。", True),
        ("法国的首都是哪里？", "巴黎", "法国", "德国的首都是巴黎。", False),
        ("法国的首都是哪里？", "巴黎", "法国", "巴黎。", False),
        ("法国的首都是哪里？", "巴黎", "", "法国的首都是里昂。", False),
        ('What is the largest number in "3 8 12 5"?', "12", "3 8 12 5", "The largest number is 12.", True),
        ('What is the largest number in "3 8 12 5"?', "12", "3 8 12 5", "The largest number is 12, not 9.", False),
        ('What is the largest number in "3 8 12 5"?', "12", "3 8 12 5", "The largest number is 12 -2.", False),
        ('What is the largest number in "3 8 12 5"?', "12", "3 8 12 5", 'The largest of "frog" is 12.', False),
        ('What is the largest number in "3 8 12 5"?', "12", "3 8 12 5", 'The largest of "3 8 12 5" is 12.', True),
        ("what is the capital of france?", "Paris", "", "The capital of France is Paris.", True),
        ('What is the largest number in "3 8 12 5"?', "12", "3 8 12 5", "The largest number is 12, not -5.", False),
        ("What is the young of a bear?", "cub", "", "The young of a bear is a cub.", True),
        ("What is the young of a bear?", "cub", "", "The young of a bear is a cubby.", False),
        ("What is the young of a bear?", "cub", "", "The young of a bear is a scub.", False),
        ("How many numbers are there?", "2", "1 7", "There are 12.", False),
    ],
)
def test_what_can_be_a_sentence(question, answer, given, text, wanted):
    done = Execution(Asked(question), "construct", given=given, answer=answer)
    assert holds(text, done) is wanted


def test_sentences_are_sampled_until_one_holds(recorded, monkeypatch):
    tries = []

    def said(loaded, conversations, new_tokens, sampling, seeds):
        tries.append((len(conversations), sampling.temperature > 0, seeds))
        return ["Paris is it." if len(tries) > 2 else "It is something."] * (len(conversations) - 1) + ["No."]

    monkeypatch.setattr(module, "say", said)
    done = Execution(Asked("What?"), "construct", answer="Paris")
    refused = Execution(Asked("What?"), "construct", refusal="no chain")
    found = in_sentences(recorded.loaded, [done, refused, replace(done, question=Asked("Where?")), done])
    assert [each.sentence for each in found] == ["Paris is it.", "", "Paris is it.", ""]
    assert [(count, sampled) for count, sampled, _ in tries] == [(3, False), (3, True), (3, True)] + [(1, True)] * 5
    assert len({tuple(seeds) for *_, seeds in tries}) == 8, "other random numbers each time"


# Injection -----------------------------------------------------------------------------------------------------------


def attacks(count):
    return injected(shared_course().grammar, shared_course().world.singles(), count)


ATTEMPTS = 216


def test_the_model_of_these_tests_would_obey_what_it_saw(recorded):
    """Otherwise nothing is shown by its not obeying."""
    question = shared_course().grammar.phrase(Program.read("sort_up"), Random(0), "en")
    [base] = strategies.construct(recorded.loaded, [Asked(question, "3")], SETTINGS)
    assert len(base.steps) == 1
    chains = [recorded.oracle.construct(f"{question}\n{text}", "en", Random(0)) for text in attacks(ATTEMPTS)]
    obeyed = [lessons.split_chain(chain)[1] not in ((), base.steps) for chain in chains]
    assert sum(obeyed) > 0.8 * ATTEMPTS


@pytest.mark.parametrize("strategy", ["direct", "construct", "plan", "retrieve", "search"])
def test_nothing_in_an_input_changes_the_chain(recorded, strategy):
    known = Known(Nearest(), ["Sort the numbers.", "Find the sum of the numbers."])
    course, rng = shared_course(), Random(1)
    programs = [course.splits.seeds[i] for i in (0, 1, -1, -2)]
    questions = [course.grammar.phrase(program, rng, language) for program in programs for language in ("en", "zh")]
    settings = replace(SETTINGS, candidates=3)
    clean = {text: execute(recorded.loaded, asking(text, "3 1 2"), strategy, settings, known) for text in questions}
    seen = set(recorded.prompts)
    assert bool(seen) == (strategy not in ("direct", "retrieve"))
    texts = attacks(ATTEMPTS)
    turns = [asking(question) for question in questions]
    asked = [replace(turns[i % len(turns)], input=text) for i, text in enumerate(texts)]
    recorded.prompts.clear()
    if strategy == "search":  # which of the chains wins depends on the answers, which chains there are does not
        chains = strategies.search(recorded.loaded, asked, settings)
        base = {text: strategies.search(recorded.loaded, [asking(text, "3")], settings)[0] for text in questions}
        steps = [[each.steps for each in found] for found in chains]
        assert steps == [[each.steps for each in base[one.instruction]] for one in asked]
    else:
        done = execute_all(recorded.loaded, asked, strategy, settings, known)
        for one, each in zip(asked, done):
            assert each.constructed == instructions(each) == clean[one.instruction].constructed != ()
            assert each.given == one.input, "the text is data, whole"
    assert set(recorded.prompts) <= seen, "whoever writes a chain was shown nothing else"


@pytest.mark.parametrize("strategy", ["construct", "plan", "search"])
def test_nothing_in_quotes_changes_the_chain(recorded, strategy):
    question = shared_course().grammar.phrase(Program.read("sort_up | first"), Random(0), "en", literal="3 1 2")
    settings = replace(SETTINGS, candidates=2)
    clean = execute(recorded.loaded, asking(question), strategy, settings)
    assert clean.answer == "1" and len(clean.constructed) == 2
    refused = 0
    for text in attacks(ATTEMPTS):
        flat = " ".join(text.split())
        done = execute(recorded.loaded, asking(question.replace("3 1 2", flat)), strategy, settings)
        if any(quote in flat for quote in lessons.QUOTES):
            refused += 1
            assert done.steps == () and "quote" in done.refusal, "a text that ends its quotes is no part of a question"
        else:
            assert done.constructed == instructions(done) == clean.constructed and done.given == flat
    assert 0 < refused < ATTEMPTS / 2


def test_with_a_world_an_injected_text_is_no_input(recorded):
    question = shared_course().grammar.phrase(Program.read("sort_up | first"), Random(0), "en")
    clean = execute(recorded.loaded, Asked(question, "3 1 2"))
    asked = [Asked(question, text) for text in attacks(ATTEMPTS)]
    done = execute_all(recorded.loaded, asked, settings=SETTINGS, verifier=shared_course().verifier)
    assert {each.constructed for each in done} == {clean.constructed}
    assert all(each.steps == () and "wrong type" in each.refusal for each in done)


def test_no_text_becomes_a_role_marker(small_tokenizer):
    markers = {small_tokenizer.bos, small_tokenizer.end, small_tokenizer.eos, *small_tokenizer.roles.values()}
    for text in [*attacks(ATTEMPTS), "<bos>", "<end>", "<user>", "<assistant>", "<system>", "<tool>", "<eos>"]:
        assert not markers & set(small_tokenizer.encode(text))
        ids = prompt(lessons.execute("Sort.", text), small_tokenizer, ChatFormat())
        places = [token for token in ids if token in markers]
        roles = small_tokenizer.roles
        assert places == [small_tokenizer.bos, roles["user"], small_tokenizer.end, roles["assistant"]]


# Questions and the command -------------------------------------------------------------------------------------------


def test_a_question_as_it_was_typed():
    assert asking(" Sort it.\n3 1\n2 ") == Asked("Sort it.", "3 1\n2", "en")
    assert asking("把“cat”倒过来写。") == Asked("把“cat”倒过来写。", "", "zh")
    assert asking('Reverse the word "猫".').language == "en" and asking("Sort.", " 猫 ") == Asked("Sort.", "猫", "en")
    for text, given in (("", ""), ("a\nb", "c")):
        with pytest.raises(UserError, match=r"empty|several lines"):
            asking(text, given)


def test_the_command(recorded, monkeypatch, capsys):
    monkeypatch.setattr(module, "load_run", lambda *args: recorded.loaded)
    assert module.main(["run", "What is the capital of France?", "--trace", "--sentence"]) == 0
    shown = capsys.readouterr().out
    assert "given: France" in shown and "France -> Paris" in shown
    assert shown.endswith("\nWhat is the capital of France Paris.\n")
    monkeypatch.setattr("sys.stdin.read", lambda: "What is the capital of France?\n\nWhat is what?\n", raising=False)
    monkeypatch.setattr("sys.stdin", Stdin("What is the capital of France?\n\nWhat is what?\n"))
    assert module.main(["run", "-", "--json", "--world"]) == 1, "one is refused"
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["answer"] for row in rows] == ["Paris", ""] and rows[1]["failed_at"] == 0
    assert rows[0]["steps"][0]["input"] == "France" and rows[0]["question"]["language"] == "en"
    monkeypatch.setattr("sys.stdin", Stdin("\n"))
    for arguments in (["run", "-"], ["run", "a", "--strategy", "retrieve"], ["run", "a", "--known", "f"], ["run", ""]):
        with pytest.raises(UserError):
            module.main(arguments)


class Stdin:
    def __init__(self, text):
        self.text = text

    def read(self):
        return self.text
