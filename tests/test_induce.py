"""Induction: a model that learnt three small meanings finds them again; candidates, scores, budgets; wrong input.

The model is trained here, in some seconds, on three lessons (execute, induce, paraphrase) over inputs of one digit.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from configs import ConfigError, UserError
from data.chat import ChatFormat, Conversation, encode, prompt
from data.tokenizer import Tokenizer, TokenizerConfig
from instruct import induce as module
from instruct import lessons
from instruct.induce import SearchConfig, induce, induce_greedily, main, model_executor, read_pairs, write_candidates
from model.config import ModelConfig
from model.heads import LanguageModel
from model.load import LoadedModel, model_files
from model.score import log_likelihood
from model.storage import checkpoint_folder, write_folder

MEANINGS = {"same": lambda text: text, "letter": lambda text: "oabcdef"[int(text) % 7], "zero": lambda text: "0"}
VERBS = ("say", "give")
SMALL = SearchConfig(candidates=12, shown=3, new_tokens=12, answer_tokens=6)


def pairs_of(meaning: str, count: int, seed: int = 0) -> list[tuple[str, str]]:
    rng = random.Random(f"{meaning} {seed}")
    inputs = [rng.choice("123456") for _ in range(count)]
    return [(given, MEANINGS[meaning](given)) for given in inputs]


def lesson(rng: random.Random, part: str) -> Conversation:
    meaning = rng.choice(list(MEANINGS))
    instruction, pairs = f"{rng.choice(VERBS)} {meaning}", pairs_of(meaning, 3, rng.getrandbits(32))
    if part == "execute":
        return lessons.execute(instruction, *pairs[0])
    if part == "induce":
        return lessons.induce(pairs, "en", instruction)
    return lessons.paraphrase(instruction, "en", f"{rng.choice(VERBS)} {meaning}")


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    rng = random.Random(0)
    parts = ["execute", "execute", "induce", "execute", "paraphrase"]
    texts = [message.content for i in range(400) for message in lesson(rng, parts[i % 5]).messages]
    tokenizer = Tokenizer.train(texts, TokenizerConfig(vocab_size=340))
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(vocab_size=tokenizer.vocab_size, context=96, width=48, layers=2, heads=4))
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98))
    steps = 360
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1, (step + 1) / 20, (steps - step) / 100)
        examples = [encode(lesson(rng, parts[step % 5]), tokenizer, ChatFormat()) for _ in range(32)]
        ids = pad_sequence([torch.from_numpy(each.ids) for each in examples], batch_first=True)
        weights = pad_sequence([torch.from_numpy(each.weights) for each in examples], batch_first=True)[:, 1:]
        loss = model.head.loss(model.trunk(ids[:, :-1]), ids[:, 1:], weights) / weights.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return LoadedModel(model.eval(), tokenizer, ChatFormat(), Path("none"))


def by_program(asked):
    """An executor that knows the three meanings."""
    return [MEANINGS.get(text.split()[-1], lambda given: "")(given) for text, given in asked]


# What it finds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("meaning", MEANINGS)
def test_the_instruction_is_found_by_every_search_and_score(loaded, meaning):
    pairs = pairs_of(meaning, 8)
    for search in module.SEARCHES:
        for score in module.SCORES:
            found = induce(loaded, pairs, "en", replace(SMALL, search=search, score=score))
            assert found.instruction.split()[-1] == meaning and found.score > 0.8
            assert found.ranking[0][:2] == (found.instruction, found.score)
            assert len({each.instruction for each in found.ranking}) == len(found.ranking)


def test_many_tasks_at_once_equal_one_at_a_time(loaded):
    tasks = [pairs_of(meaning, 2 + i) for i, meaning in enumerate(MEANINGS)]
    together = induce_greedily(loaded, tasks, ["en", "en", "zh"], 3, 12)
    assert together == [
        induce_greedily(loaded, [pairs], [language], 3, 12)[0]
        for pairs, language in zip(tasks, ["en", "en", "zh"])
    ]  # fmt: skip
    assert [text.split()[-1] for text in together[:2]] == ["same", "letter"]


def test_search_mends_what_greedy_gets_wrong(loaded, monkeypatch):
    """Whatever the model writes first, searching scores it too and finds what explains more."""
    pairs = pairs_of("same", 8)
    written = ["say letter", "say zero", "give same"]
    monkeypatch.setattr(module, "write_candidates", lambda *given: written[: 1 if given[3].search == "greedy" else 3])
    for search in module.SEARCHES:
        for score in module.SCORES:
            found = induce(loaded, pairs, "en", replace(SMALL, search=search, score=score))
            assert found.instruction == ("say letter" if search == "greedy" else "give same")


def test_the_same_seed_gives_the_same(loaded):
    pairs, config = pairs_of("same", 6), replace(SMALL, temperature=2.0, resampling=1)
    runs = [induce(loaded, pairs, "en", config, seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


# Candidates ----------------------------------------------------------------------------------------------------------


def said_by_turns(monkeypatch, *rounds):
    """Let the model say the given texts, one list after the other; returns the conversations that it was asked in."""
    asked, waiting = [], list(rounds)

    def say(loaded, conversations, *more):
        asked.append(list(conversations))
        texts = waiting.pop(0)
        return [texts[i % len(texts)] for i in range(len(conversations))]

    monkeypatch.setattr(module, "say", say)
    return asked


def test_candidates_are_whole_lines_said_more_often_first(loaded, monkeypatch):
    """Never cut at a full stop; nothing for what did not end (""), nor for several lines."""
    said = ["Add 3.5.", "Add 2. Then sort.", "", "Add\n4.", "Add 2.  Then sort.", "Add −1,000.75"]
    asked = said_by_turns(monkeypatch, ["Add 2.5 twice."], said)
    config = replace(SMALL, candidates=6)
    found = write_candidates(loaded, pairs_of("same", 5), "en", config, seed=0)
    assert found == ["Add 2. Then sort.", "Add 2.5 twice.", "Add 3.5.", "Add −1,000.75"]
    assert len(asked[1]) == 6 and len(set(asked[1])) > 1, "each from other pairs"


def test_paraphrases_of_the_best_compete_again(loaded, monkeypatch):
    pairs = pairs_of("same", 8)
    asked = said_by_turns(monkeypatch, ["say letter"], ["say zero", "give letter"], ["give same", "say letter", ""])
    config = replace(SMALL, search="exhaustive", score="execution", resampling=1, parents=2)
    executed = []
    found = induce(loaded, pairs, "en", config, executor=lambda each: executed.extend(each) or by_program(each))
    assert found.instruction == "give same" and found.score == 1
    assert {each.instruction for each in found.ranking} == {"say letter", "say zero", "give letter", "give same"}
    parents = {conversation.messages[1].content for conversation in asked[2]}
    assert len(asked[2]) == config.candidates and len(parents) == 2
    assert found.evaluations == len(executed) == 4 * len(pairs), "what competes again is not computed again"


def test_as_many_pairs_are_shown_as_there_is_room_for(loaded):
    pairs = pairs_of("same", 40)
    [conversation] = [module._asking(loaded, pairs, "en", 12)]
    lines = conversation.messages[1].content.splitlines()
    room = loaded.model.config.context - 12
    assert lines == [lessons.pair(*pair) for pair in pairs[: len(lines)]] and 1 < len(lines) < 40
    assert len(prompt(conversation, loaded.tokenizer, loaded.chat)) <= room
    longer = lessons.induce(pairs[: len(lines) + 1], "en")
    assert len(prompt(longer, loaded.tokenizer, loaded.chat)) > room


def test_no_candidate_is_an_answer_too(loaded, monkeypatch):
    said_by_turns(monkeypatch, [""], ["two\nlines"], [""])
    found = induce(loaded, pairs_of("same", 5), "en", replace(SMALL, resampling=1))
    assert (found.instruction, found.score, found.evaluations, found.ranking) == ("", 0.0, 0, ())


# Scores --------------------------------------------------------------------------------------------------------------


def test_scores_are_what_they_are_called(loaded, monkeypatch):
    """likelihood: the mean over pairs of the output's probability per token. execution: the share of right answers."""
    pairs, texts = pairs_of("same", 5), ["say letter", "say zero", "give same"]
    monkeypatch.setattr(module, "write_candidates", lambda *given: texts)
    found = induce(loaded, pairs, "en", replace(SMALL, search="exhaustive"))
    for each in found.ranking:
        likelihoods = log_likelihood(loaded, [lessons.execute(each.instruction, *pair) for pair in pairs])
        probabilities = [torch.tensor(one.total / one.tokens).exp().item() for one in likelihoods]
        assert each.score == pytest.approx(sum(probabilities) / 5, rel=1e-4) and each.pairs == 5
    found = induce(loaded, pairs, "en", replace(SMALL, search="exhaustive", score="execution"))
    for each in found.ranking:
        answers = model_executor(loaded, 6)([(each.instruction, given) for given, _ in pairs])
        assert each.score == sum(answer == right for answer, (_, right) in zip(answers, pairs)) / 5
    assert all(better.score >= worse.score for better, worse in pairwise(found.ranking))


@pytest.mark.parametrize(
    ("answer", "output", "is_right"),
    [
        ("3.14", "3.14", True),
        ("3", "3.14", False),
        ("5", "-5", False),
        ("１２ ", "12", True),
        ("Paris.", "Paris", True),
        ("", "0", False),
        ("猫  狗", "猫 狗", True),
    ],
)
def test_answers_are_compared_whole(loaded, answer, output, is_right):
    config = replace(SMALL, search="greedy", score="execution")
    found = induce(loaded, [("12", output)], "en", config, executor=lambda asked: [answer for _ in asked])
    assert found.score == float(is_right)


@pytest.mark.parametrize("search", ["halving", "ucb"])
def test_the_budget_is_kept_and_nothing_is_executed_twice(loaded, monkeypatch, search):
    texts, pairs, asked = [f"say {name}" for name in "abcdefghijk"] + ["say same"], pairs_of("same", 30), []
    pairs = [(f"{i} {given}",) * 2 for i, (given, _) in enumerate(pairs)]  # all different
    monkeypatch.setattr(module, "write_candidates", lambda *given: texts)

    def executor(questions):
        asked.extend(questions)
        return by_program(questions)

    config = replace(SMALL, search=search, score="execution", budget=0.3)
    found = induce(loaded, pairs, "en", config, executor=executor)
    assert found.instruction == "say same"
    assert found.evaluations == len(asked) == len(set(asked)) <= 108 == round(0.3 * 12 * 30)


# Wrong input, and the command ----------------------------------------------------------------------------------------


def test_wrong_settings_are_named_together():
    with pytest.raises(ConfigError) as error:
        SearchConfig(search="magic", score="taste", candidates=0, budget=0, resampling=-1)
    for part in ("magic", "taste", "candidates", "budget", "resampling"):
        assert part in str(error.value)
    with pytest.raises(ConfigError, match="nothing to resample"):
        SearchConfig(search="greedy", resampling=1)


def test_wrong_pairs(loaded):
    good = pairs_of("same", 3)
    for pairs, language, text in [
        ([], "en", "no pairs"),
        ([*good, ("12", " . ")], "en", "has no text"),
        (good, "fr", "unknown language 'fr'"),
    ]:
        with pytest.raises(UserError, match=text):
            induce(loaded, pairs, language, SMALL)
        with pytest.raises(UserError, match=text):
            induce_greedily(loaded, [pairs], [language])
    with pytest.raises(UserError, match="only asked for"):
        induce(loaded, good, "en", SMALL, executor=by_program)


@pytest.fixture
def run(loaded, tmp_path) -> str:
    files = model_files(loaded.model, loaded.tokenizer, loaded.chat)
    write_folder(checkpoint_folder(tmp_path / "run", 1), files)
    return str(tmp_path / "run")


def test_the_command(loaded, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "SearchConfig", lambda *given, **more: SearchConfig(*given, **more, new_tokens=12))
    path = tmp_path / "pairs.jsonl"
    pairs = pairs_of("same", 6)
    path.write_text("".join(json.dumps({"input": a, "output": b}) + "\n" for a, b in pairs), "utf-8")
    assert read_pairs(path) == pairs
    arguments = [run, str(path), "--search", "ucb", "--candidates", "8", "--seed", "3"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].split()[-1] == "same" and "evaluations on 6 pairs" in shown
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["instruction"] == shown.splitlines()[0]
    assert found["ranking"][0] == {k: found[k] for k in ("instruction", "score")} | {
        "pairs": found["ranking"][0]["pairs"]
    }


@pytest.mark.parametrize(
    "row", ['{"input": "1"}', '{"input": 1, "output": "2"}', '{"input": "1", "output": " "}', "[1]"]
)
def test_the_command_names_the_wrong_line(tmp_path, row):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"input": "1", "output": "1"}\n' + row + "\n", "utf-8")
    with pytest.raises(UserError, match=r"pairs\.jsonl:2: "):
        main(["no run", str(path)])


def test_the_command_refuses(tmp_path, capsys):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"input": "1", "output": "1"}\n', "utf-8")
    with pytest.raises(UserError, match="no checkpoint"):
        main([str(tmp_path / "nothing"), str(path)])
    with pytest.raises(UserError, match="candidates must be positive"):
        main(["no run", str(path), "--candidates", "0"])
    with pytest.raises(SystemExit) as stop:
        main(["no run", str(path), "--search", "magic"])
    assert stop.value.code == 2 and "invalid choice" in capsys.readouterr().err
