"""Objectives: functions `(model, batch) -> LossTerms`. The trainer owns everything else.

The loss of a step is sum(total) / sum(weight) over all micro-batches and ranks: one global mean, whatever the split.
A mean per micro-batch, averaged again, weighs tokens unequally when rows have unequal numbers of targets: the most
repeated mistake of this field (training.md, item 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from data.batches import Batch
from model.heads import LanguageModel


class LossTerms(NamedTuple):
    """total: weighted sum of losses (scalar with gradient, in nats). weight: what to divide it by (scalar)."""

    total: Tensor
    weight: Tensor


Objective = Callable[[nn.Module, Batch], LossTerms]


def language_modelling(model: LanguageModel, batch: Batch) -> LossTerms:
    """Cross-entropy of `batch.targets` with `batch.weights`.

    One objective for next-token prediction, infilling, instruction tuning (all on a causal trunk) and masked
    prediction (on a bidirectional one): they differ in how the batch was made and in what the trunk may see.
    """
    hidden = model.trunk(batch.tokens, batch.documents, batch.positions)
    total = model.head.loss(hidden, batch.targets, batch.weights)
    return LossTerms(total, batch.weights.sum())


class ObjectiveModule(nn.Module):
    """A model with its objective as one module, so that DDP and torch.compile wrap the whole of it."""

    def __init__(self, model: nn.Module, objective: Objective):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch) -> LossTerms:
        return self.objective(self.model, batch)
