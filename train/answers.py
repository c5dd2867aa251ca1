"""Answering held-out questions: what instruction tuning is measured by.

A model gets the prompt of a conversation (everything before the last assistant message) and writes an answer,
greedily; it is right when it equals the expected one after runs of white space are made one space, or when a judge of
the question accepts it. Every answer is kept, so that a table can be checked by reading.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from data.chat import ChatFormat, Conversation
from data.tokenizer import Tokenizer
from model.complete import complete
from model.heads import LanguageModel
from model.load import LoadedModel
from model.sampling import Sampling
from train.distributed import Ranks


@dataclass(frozen=True)
class Asked:
    """A held-out conversation with the name of its task. `accepts`: says whether an answer is right, where not only the
    expected one is."""

    task: str
    conversation: Conversation
    accepts: Callable[[str], bool] | None = None

    @property
    def expected(self) -> str:
        return self.conversation.messages[-1].content


@dataclass(frozen=True)
class Answer:
    """What a model said to a question. `accepted`: it is right, though it may not be what was expected."""

    task: str
    question: str
    expected: str
    written: str
    accepted: bool = False

    @property
    def right(self) -> bool:
        return self.accepted or self.written.split() == self.expected.split()


def answer_all(
    model: LanguageModel,
    tokenizer: Tokenizer,
    chat: ChatFormat,
    asked: Sequence[Asked],
    new_tokens: int,
    sampling: Sampling | None = None,
    batch_rows: int = 64,
) -> list[Answer]:
    """One answer for each question, in order; questions of similar length are batched."""
    loaded = LoadedModel(model, tokenizer, chat, Path())
    said = complete(loaded, [item.conversation for item in asked], new_tokens, sampling, batch_rows=batch_rows)
    answers = []
    for item, answer in zip(asked, said):
        accepted = item.accepts is not None and item.accepts(answer.text)
        question = item.conversation.messages[-2].content
        answers.append(Answer(item.task, question, item.expected, answer.text, accepted))
    return answers


def accuracies(answers: Sequence[Answer]) -> dict[str, tuple[int, int]]:
    """Per task (right, asked), and for all of them together under "all"."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for answer in answers:
        for name in (answer.task, "all"):
            counts[name][0] += answer.right
            counts[name][1] += 1
    return {name: (right, total) for name, (right, total) in sorted(counts.items())}


def accuracy(
    model: LanguageModel,
    tokenizer: Tokenizer,
    chat: ChatFormat,
    asked: Sequence[Asked],
    new_tokens: int,
    ranks: Ranks,
) -> float:
    """Share of right answers; each rank asks its part."""
    mine = answer_all(model, tokenizer, chat, asked[ranks.rank :: ranks.world], new_tokens)
    counts = torch.tensor([sum(answer.right for answer in mine), len(mine)], dtype=torch.float64, device=ranks.device)
    right, total = ranks.sum(counts).tolist()
    return right / max(total, 1)
