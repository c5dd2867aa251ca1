"""Log-probabilities of answers that lie side by side (`data.answers.AnswerRows`).

Answers of a batch are as wide as the longest of it; most are much shorter. So the model is run on answers of about
equal length together, cut where these end: what lies behind is padding, which nothing sees.
"""

from __future__ import annotations

import torch
from torch import Tensor

from data.batches import Batch
from model.heads import LanguageModel, ValuedModel

STEP = 16  # lengths are rounded up to multiples of it


def token_logs(model: LanguageModel, batch: Batch, used: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities of the tokens of answers, and the values before them if the model has values: (B, K, T), 0 at
    all other places. used (B, K) bool: the answers that the model is run on; of none the first one is taken, so that
    every parameter has a gradient on every rank."""
    places = batch.weights > 0
    chosen = torch.ones(places.shape[:2], dtype=torch.bool, device=places.device) if used is None else used.clone()
    chosen[0, 0] |= ~chosen.any()
    last = (places * torch.arange(1, places.shape[-1] + 1, device=places.device)).amax(-1)
    ends = (-(-last // STEP) * STEP).clamp(min=STEP)
    logs = values = None
    for end in ends[chosen].unique().tolist():
        rows = chosen & (ends == end)
        tokens, documents, positions = (part[rows, :end] for part in (batch.tokens, batch.documents, batch.positions))
        here = places & rows[..., None]
        hidden = model.trunk(tokens, documents, positions)[places[rows, :end]]  # (N, C)
        found = -model.head.losses(hidden[None], batch.targets[here][None])[0]
        logs = _with(logs, here, found)
        if isinstance(model, ValuedModel):
            values = _with(values, here, model.values(hidden).to(found.dtype))
    return logs, values


def _with(known: Tensor | None, places: Tensor, found: Tensor) -> Tensor:
    known = torch.zeros(places.shape, dtype=found.dtype, device=found.device) if known is None else known
    return known.masked_scatter(places, found)


def answer_logs(model: LanguageModel, batch: Batch) -> Tensor:
    """Those of whole answers: (B, K); of an empty place 0."""
    return (token_logs(model, batch)[0] * batch.weights).sum(-1)
