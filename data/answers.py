"""Answers side by side: several answers in one row of a batch, each a sequence of its own.

    group = fit_answers(pair.prompt, (pair.chosen, pair.rejected), tokenizer, ChatFormat(), context + 1)
    rows = AnswerRows([group, ...], context, tokenizer.pad)
    rows.batch(samples, positions)      # tokens (B, K, T): K answers in each row, with weight 1 at their own tokens

What it is. Learning from preferences compares answers, so those that are compared must be in the memory at the same
time. A row is a *group* of K answers (two for a pair); batches are cut between rows only, into micro-batches and over
ranks, so that no split ever parts a pair.

Why one prompt for all. A prompt that is too long is shortened by the room that the longest answer of the group leaves,
and all of them follow the same ids: else the shorter answer would be judged in another situation than the longer one.

What it leaves out. Packing: answers of a row are padded to the longest of the batch, rounded up to multiples of `STEP`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from configs import UserError
from data.batches import PADDING, Batch
from data.chat import ChatFormat, Conversation, Example, Message, laid_out, prompt

if TYPE_CHECKING:
    from data.tokenizer import Tokenizer

STEP = 32
Group = Sequence[Example | None]


def fit_answers(
    messages: Sequence[Message],
    answers: Sequence[str],
    tokenizer: Tokenizer,
    format: ChatFormat,
    context: int,
    origin: str = "",
) -> list[Example] | None:
    """One example for each answer, in at most `context` ids, after the same ids of the prompt; weight 1 for the answer
    and for the `<end>` that closes it, 0 for the prompt. None when an answer leaves no room for a prompt.

    Raises UserError, with the origin, for text that the tokenizer refuses.
    """
    try:
        said = [[*tokenizer.encode(laid_out(answer, format)), tokenizer.end] for answer in answers]
    except UserError as error:
        raise UserError(f"{origin}: {error}" if origin else str(error)) from None
    asked, room = Conversation(tuple(messages), origin), context - max(map(len, said))
    given = prompt(asked, tokenizer, format)
    if len(given) > room:
        try:
            given = prompt(asked, tokenizer, format, room)
        except UserError:
            return None
    return [example_of(given, answer, origin) for answer in said]


def example_of(given: Sequence[int], answer: Sequence[int], origin: str = "") -> Example:
    """The ids of a prompt and of an answer to it, which alone has weight."""
    weights = np.array([0.0] * len(given) + [1.0] * len(answer), dtype=np.float32)
    return Example(np.array([*given, *answer], dtype=np.int64), weights, origin)


class AnswerRows:
    """Rows for the trainer: row i holds the K answers of `groups[i]`, each of at most `context` pairs; None: no answer.

    A batch has tokens, targets, weights, documents and positions (B, K, T); all weights of an empty place are 0.
    """

    def __init__(self, groups: Sequence[Group], context: int, pad: int):
        self.groups, self.context, self.pad = groups, context, pad

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def size(self) -> int:
        """K."""
        return len(self.groups[0])

    @property
    def digest(self) -> str:
        """A hash of all ids and weights in their places."""
        found = hashlib.sha256()
        for group in self.groups:
            for each in group:
                found.update(b"none" if each is None else b"%d " % len(each) + each.ids.tobytes())
                found.update(b"" if each is None else each.weights.tobytes())
        return found.hexdigest()

    def batch(self, samples: np.ndarray, positions: np.ndarray) -> Batch:
        chosen = [self.groups[int(sample)] for sample in samples]
        longest = max((len(each) - 1 for group in chosen for each in group if each is not None), default=1)
        shape = (len(chosen), self.size, min(self.context, -(-longest // STEP) * STEP))
        tokens, targets = np.full(shape, self.pad, np.int64), np.full(shape, self.pad, np.int64)
        weights, documents = np.zeros(shape, np.float32), np.full(shape, PADDING, np.int32)
        for row, group in enumerate(chosen):
            for place, each in enumerate(group):
                if each is not None:
                    here = (row, place, slice(len(each) - 1))
                    tokens[here], targets[here], weights[here] = each.ids[:-1], each.ids[1:], each.weights[1:]
                    documents[here] = 0
        arrays = [torch.from_numpy(array) for array in (tokens, targets, weights, documents)]
        numbers = torch.from_numpy(np.asarray(samples, np.int64))
        return Batch(*arrays, torch.arange(shape[2]).expand(shape).contiguous(), numbers)

    def batches(self, rows: Sequence[int], batch_rows: int, device: torch.device) -> Iterator[Batch]:
        """These rows, once, in order."""
        for start in range(0, len(rows), batch_rows):
            samples = np.asarray(rows[start : start + batch_rows], np.int64)
            yield self.batch(samples, samples).to(device)
