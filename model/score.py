"""How likely a model finds what an assistant says: the other direction of `model.complete`.

    found = log_likelihood(loaded, conversations)
    found[0].total, found[0].tokens, found[0].per_token     # nats; math.exp(per_token) lies in [0, 1]

Each conversation ends with a message of the assistant; of it every token counts, and the `<end>` that closes it, given
all before. This ranks instructions by the outputs that they explain (APE), and measures how much an instruction helps
with its answer (IFD: the answer's likelihood with it against the one without).

Conversations of similar length share a batch, padded on the right, where a causal model never looks: every one gets
what it would get alone, but for the rounding of products of other shapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from configs import UserError
from data.chat import Conversation, Example, fit
from kernels.loss import default_chunk
from model.heads import LanguageModel
from model.load import LoadedModel


class Likelihood(NamedTuple):
    """Log-likelihood of a message in nats, summed in float64 over its tokens, and how many these are (at least 1)."""

    total: float
    tokens: int

    @property
    def per_token(self) -> float:
        return self.total / self.tokens


def log_likelihood(
    loaded: LoadedModel, conversations: Sequence[Conversation], batch_rows: int = 64
) -> list[Likelihood]:
    """The likelihood of the last message of each conversation, in order.

    What comes before it is shortened where both do not fit into the context (`data.chat.fit`); of a message that
    does not fit itself the total is -inf, over 1 token.
    Raises UserError for an encoder, and for a conversation that does not end with a message of the assistant.
    """
    if not loaded.model.config.causal:
        raise UserError("this model is an encoder (causal = false): it cannot score text; use a causal model")
    examples = [_example(loaded, conversation) for conversation in conversations]
    found = [Likelihood(-math.inf, 1)] * len(examples)
    order = sorted((i for i, each in enumerate(examples) if each is not None), key=lambda i: len(examples[i]))
    for start in range(0, len(order), batch_rows):
        rows = order[start : start + batch_rows]
        for i, likelihood in zip(rows, _batch(loaded.model, [examples[i] for i in rows])):
            found[i] = likelihood
    return found


def _example(loaded: LoadedModel, conversation: Conversation) -> Example | None:
    """Ids with weight 1 for the last message and 0 for all else, whatever the chat format learns; None: too long."""
    messages = conversation.messages
    if not messages or messages[-1].role != "assistant":
        raise UserError(f"{conversation.origin or 'a conversation'}: only a last message of the assistant is scored")
    judged = (*(replace(message, supervise=False) for message in messages[:-1]), replace(messages[-1], supervise=True))
    chat = replace(loaded.chat, prompt_weight=0.0)
    return fit(replace(conversation, messages=judged), loaded.tokenizer, chat, loaded.model.config.context)[0]


@torch.inference_mode()
def _batch(model: LanguageModel, examples: Sequence[Example]) -> list[Likelihood]:
    device = model.trunk.embedding.weight.device
    ids = pad_sequence([torch.from_numpy(each.ids) for each in examples], batch_first=True).to(device)
    counted = pad_sequence([torch.from_numpy(each.weights) > 0 for each in examples], batch_first=True).to(device)
    counted = counted[:, 1:]  # (B, T): of the token that is predicted there
    hidden = _evaluated(model, ids[:, :-1])[counted]  # (N, C)
    chunk = default_chunk(model.config.vocab_size, device.type)
    pieces = zip(hidden.split(chunk), ids[:, 1:][counted].split(chunk))
    losses = torch.cat([cross_entropy(model.head(states), targets, reduction="none") for states, targets in pieces])
    rows = counted.nonzero()[:, 0]
    totals = torch.zeros(len(examples), dtype=torch.float64, device=device).index_add_(0, rows, -losses.double())
    return [Likelihood(*each) for each in zip(totals.tolist(), counted.sum(1).tolist())]


def _evaluated(model: LanguageModel, tokens: Tensor) -> Tensor:
    """The hidden vectors of tokens (B, T), without dropout; the model's mode comes back."""
    was_training = model.training
    model.eval()
    try:
        return model.trunk(tokens)
    finally:
        model.train(was_training)
