"""The likelihood of an answer: its definition, one at a time and in a batch, what is counted, what does not fit."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from configs import UserError
from data.chat import ChatFormat, Conversation, Message, prompt
from model import score
from model.load import LoadedModel
from model.score import Likelihood, log_likelihood
from tests.small import invented_texts, small_model


def loaded_with(tokenizer, tmp_path, **switches) -> LoadedModel:
    model = small_model(vocab_size=tokenizer.vocab_size, **switches)
    return LoadedModel(model, tokenizer, ChatFormat(), tmp_path)


@pytest.fixture
def loaded(small_tokenizer, tmp_path):
    return loaded_with(small_tokenizer, tmp_path, dtype=torch.float64)


def said(question: str, answer: str) -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer)))


TEXTS = invented_texts(9, longest=4)
CONVERSATIONS = [said(question, answer) for question, answer in zip(TEXTS, reversed(TEXTS))] + [said("ka", "")]


def by_definition(loaded: LoadedModel, conversation: Conversation) -> Likelihood:
    """One token after the other: log-softmax over all logits, nothing batched, nothing padded."""
    tokenizer = loaded.tokenizer
    given = prompt(conversation, tokenizer, loaded.chat)
    answer = [*tokenizer.encode(conversation.messages[-1].content), tokenizer.end]
    total = 0.0
    for place, token in enumerate(answer):
        logits = loaded.model(torch.tensor([given + answer[:place]]))[0, -1].double()
        total += torch.log_softmax(logits, 0)[token].item()
    return Likelihood(total, len(answer))


@pytest.mark.parametrize("batch_rows", [1, 3, 64])
def test_any_batch_gives_the_definition(loaded, batch_rows, monkeypatch):
    monkeypatch.setattr(score, "default_chunk", lambda vocabulary, device: 7)  # pieces that no row ends with
    found = log_likelihood(loaded, CONVERSATIONS, batch_rows)
    expected = [by_definition(loaded, conversation) for conversation in CONVERSATIONS]
    assert [each.tokens for each in found] == [each.tokens for each in expected]
    assert [each.total for each in found] == pytest.approx([each.total for each in expected], rel=1e-6)
    assert found[0].per_token == found[0].total / found[0].tokens < 0


def test_one_precision_does_not_depend_on_the_batch(small_tokenizer, tmp_path):
    """Only rounding differs: 64-bit sums of 32-bit terms."""
    loaded = loaded_with(small_tokenizer, tmp_path)
    together = log_likelihood(loaded, CONVERSATIONS)
    alone = [log_likelihood(loaded, [conversation])[0] for conversation in CONVERSATIONS]
    assert [each.total for each in together] == pytest.approx([each.total for each in alone], rel=1e-5)


def test_only_the_last_message_counts_whatever_is_learnt(loaded):
    """Neither the chat format nor the marks on messages change what is measured."""
    conversation = Conversation((*said("to mi", "ren").messages, *said("sol", "ve ka").messages))
    marked = Conversation(tuple(replace(m, supervise=m.role == "user") for m in conversation.messages))
    learning = replace(loaded, chat=ChatFormat(prompt_weight=1.0))
    expected = by_definition(loaded, conversation)
    for case, texts in [(loaded, conversation), (loaded, marked), (learning, conversation)]:
        [found] = log_likelihood(case, [texts])
        assert found.tokens == expected.tokens and found.total == pytest.approx(expected.total, rel=1e-6)


def test_dropout_is_off_and_the_mode_comes_back(small_tokenizer, tmp_path):
    loaded = loaded_with(small_tokenizer, tmp_path, dropout=0.5)
    quiet = log_likelihood(loaded, CONVERSATIONS)
    loaded.model.train()
    assert log_likelihood(loaded, CONVERSATIONS) == quiet
    assert loaded.model.training


def test_the_question_is_shortened_and_an_answer_is_not(loaded):
    long = "ka mi ren " * 60
    [shortened, too_long] = log_likelihood(loaded, [said(long, "sol"), said("sol", long)])
    room = loaded.model.config.context - len(loaded.tokenizer.encode("sol")) - 1
    given = prompt(said(long, "sol"), loaded.tokenizer, loaded.chat, room)
    assert len(given) == room and math.isfinite(shortened.total)
    assert too_long == (-math.inf, 1) and math.exp(too_long.per_token) == 0


def test_wrong_input(loaded, small_tokenizer, tmp_path):
    assert log_likelihood(loaded, []) == []
    for messages in [(), (Message("user", "ka"),)]:
        with pytest.raises(UserError, match="last message of the assistant"):
            log_likelihood(loaded, [Conversation(messages)])
    encoder = loaded_with(small_tokenizer, tmp_path, causal=False)
    with pytest.raises(UserError, match="encoder"):
        log_likelihood(encoder, CONVERSATIONS)
