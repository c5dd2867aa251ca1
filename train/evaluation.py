"""Figures on held-out data: loss in nats per token, bits per byte, accuracy of hidden tokens.

Bits per byte compare models with different tokenizers: the nats of all predicted tokens, as bits, over the bytes of
the text that these tokens stand for. The end of a document costs bits and stands for no byte. The whole held-out set
is used (or its first `max_rows` rows), always the same rows in the same order; batch means are never averaged. And how
sure a mean over seeds is (`interval`).
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence

import numpy as np
import torch

from data.batches import Batch, Rows
from data.tokenizer import Tokenizer
from model.heads import LanguageModel
from train.distributed import Ranks
from train.objectives import language_modelling

RESAMPLES = 10_000


@torch.no_grad()
def evaluate_language(
    model: LanguageModel, rows: Rows, tokenizer: Tokenizer, ranks: Ranks, batch_rows: int, max_rows: int = 0
) -> dict[str, float]:
    """Held-out loss of a language model.

    Returns {"loss", "bits_per_byte"} for a causal trunk, {"loss", "masked_accuracy"} for a bidirectional one.
    """
    model.eval()
    count = min(len(rows), max_rows) if max_rows else len(rows)
    mine = np.arange(ranks.rank, count, ranks.world)
    lengths = torch.from_numpy(np.asarray(tokenizer.byte_lengths, np.int64)).to(ranks.device)
    sums = torch.zeros(3, dtype=torch.float64, device=ranks.device)
    for start in range(0, len(mine), batch_rows):
        samples = mine[start : start + batch_rows]
        batch = rows.batch(samples, samples).to(ranks.device)
        terms = language_modelling(model, batch)
        sums[0] += terms.total
        sums[1] += terms.weight
        if model.config.causal:
            sums[2] += (lengths[batch.targets] * (batch.weights > 0)).sum()
        else:
            sums[2] += _hits(model, batch)
    total, weight, extra = ranks.sum(sums).tolist()
    figures = {"loss": total / max(weight, 1)}
    if model.config.causal:
        return {**figures, "bits_per_byte": total / math.log(2) / max(extra, 1)}
    return {**figures, "masked_accuracy": extra / max(weight, 1)}


def _hits(model: LanguageModel, batch: Batch) -> torch.Tensor:
    """How many of the hidden tokens the model's first choice gets right."""
    return (first_choices(model, batch) == batch.targets[batch.weights > 0]).sum()


def first_choices(model: LanguageModel, batch: Batch) -> torch.Tensor:
    """The token that the model finds likeliest at each place of weight above 0, in order: (N,) int64."""
    hidden = model.trunk(batch.tokens, batch.documents, batch.positions)[batch.weights > 0]
    return model.head(hidden[None])[0].argmax(-1)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of a figure over seeds (Efron 1979)."""
    rng = random.Random(0)
    means = sorted(statistics.mean(rng.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES)]
