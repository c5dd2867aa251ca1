"""What a reward model says of answers: the number that preferences have taught it to give.

    loaded = load_run("runs/demo/reward", heads=["score"])
    rewards(loaded, conversations)      # one number for each, of its last message, the higher the better

Each conversation ends with a message of the assistant. Only differences between answers to the same prompt mean
anything: a reward model has learnt from pairs (`train.reward`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from configs import UserError
from data.answers import AnswerRows, fit_answers
from data.batches import Batch
from data.chat import Conversation, Example
from model.heads import Scorer
from model.load import LoadedModel


def rewards(loaded: LoadedModel, conversations: Sequence[Conversation], batch_rows: int = 64) -> list[float]:
    """The reward of each conversation's last message, in order; -inf of an answer that does not fit into the context.

    Raises UserError for a conversation that does not end with a message of the assistant.
    """
    context, found = loaded.model.config.context, []
    for each in conversations:
        if len(each.messages) < 2 or each.messages[-1].role != "assistant":
            raise UserError(f"{each.origin or 'a conversation'}: only an answer of the assistant has a reward")
        said = (each.messages[-1].content,)
        found.append(fit_answers(each.messages[:-1], said, loaded.tokenizer, loaded.chat, context, each.origin))
    order = sorted((i for i, each in enumerate(found) if each), key=lambda i: len(found[i][0]))
    rows, scores = scored_rows([found[i] for i in order], context, loaded.tokenizer.pad), [float("-inf")] * len(found)
    device, was_training = loaded.model.trunk.embedding.weight.device, loaded.model.training
    loaded.model.eval()
    with torch.inference_mode():
        batches = rows.batches(range(len(order)), batch_rows, device)
        given = [score for batch in batches for score in row_scores(loaded.model, batch)[:, 0].tolist()]
    loaded.model.train(was_training)
    for i, score in zip(order, given):
        scores[i] = score
    return scores


def scored_rows(groups: Sequence[Sequence[Example]], context: int, pad: int) -> AnswerRows:
    """Rows whose inputs are whole answers with their `<end>`, at which a `Scorer` is read: as `AnswerRows` has them
    (inputs are all ids but the last), with one id more behind, which is nobody's.
    """
    longer = [
        [Example(np.append(e.ids, pad), np.append(e.weights, e.weights[:1]), e.origin) for e in g] for g in groups
    ]
    return AnswerRows(longer, context, pad)


def row_scores(model: Scorer, batch: Batch) -> torch.Tensor:
    """The score of every answer of a batch of `scored_rows`: (B, K)."""
    shape = batch.tokens.shape
    flat = (part.flatten(0, 1) for part in (batch.tokens, batch.documents, batch.positions))
    return model(*flat).view(shape[:2])
