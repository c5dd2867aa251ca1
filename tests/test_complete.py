"""Answering many conversations at once equals answering each alone, and says what was cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from configs import UserError
from data.chat import ChatFormat, Conversation, Message
from data.tokenizer import Tokenizer, TokenizerConfig
from model.chat import Session
from model.complete import complete, complete_prompts
from model.config import ModelConfig
from model.generation import generate
from model.heads import LanguageModel
from model.load import LoadedModel
from model.sampling import Sampling


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    texts = [f"the cat number {i} counts {i * 7 % 13} birds and says hello" for i in range(300)]
    tokenizer = Tokenizer.train(texts, TokenizerConfig(vocab_size=320))
    torch.manual_seed(3)
    config = ModelConfig(vocab_size=tokenizer.vocab_size, context=48, width=32, layers=2, heads=2)
    return LoadedModel(LanguageModel(config).eval(), tokenizer, ChatFormat(), tmp_path_factory.mktemp("none"))


def asking(text: str) -> Conversation:
    return Conversation((Message("user", text),))


QUESTIONS = [asking(text) for text in ("the cat", "birds", "the cat counts 7 birds", "hello", "", "cat " * 60)]


@pytest.mark.parametrize("sampling", [None, Sampling(temperature=1.0)])
def test_a_batch_equals_each_alone(loaded, sampling):
    together = complete(loaded, QUESTIONS, 7, sampling, seeds=range(40, 46), batch_rows=4)
    alone = [complete(loaded, [q], 7, sampling, seeds=[40 + i])[0] for i, q in enumerate(QUESTIONS)]
    assert together == alone
    assert sampling is None or len({said.text for said in together}) > 1


def test_finished_says_whether_the_end_came_before_the_length(loaded):
    prompts, stops = [[loaded.tokenizer.bos]] * 60, [loaded.tokenizer.end, loaded.tokenizer.eos]
    lengths = [len(ids) for ids in generate(loaded.model, prompts, 20, Sampling(temperature=3.0), stops)]
    said = complete_prompts(loaded, prompts, 20, Sampling(temperature=3.0), batch_rows=60)
    assert [answer.finished for answer in said] == [length < 20 for length in lengths]
    assert len(set(lengths)) > 1 and 20 in lengths


def test_what_is_said_comes_back_without_the_spaces_of_the_layout(loaded, monkeypatch):
    ids = loaded.tokenizer.encode(" the cat\n says  hello")
    monkeypatch.setattr("model.complete.generate", lambda *given: [ids])
    spaced = replace(loaded, chat=ChatFormat(spaced=True))
    assert complete(spaced, [asking("x")], 40)[0].text == "the cat\nsays  hello"
    assert complete(loaded, [asking("x")], 40)[0].text == " the cat\n says  hello"
    monkeypatch.setattr("model.chat.stream", lambda *given: iter(ids))
    session = Session(spaced, Sampling(), 20)
    assert "".join(session.say("hello")) == "the cat\nsays  hello" == session.messages[-1].content


def test_nothing_asked_and_nothing_fitting(loaded):
    assert complete(loaded, [], 5) == []
    with pytest.raises(UserError, match="does not fit"):
        complete(loaded, [asking("cat")], 47)
