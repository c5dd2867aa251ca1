"""The contrastive loss of an embedder: InfoNCE over everything in a batch, on all ranks, in little memory.

    total(i) = mean over positives p of i of   log(1 + sum over negatives n of exp(s (cos(i, n) - cos(i, p))))

Every text is an anchor once, so the loss is symmetric. *Positives* are all other texts of its behaviour in the batch,
*negatives* all texts of other behaviours; other positives stand in no denominator, for a text of the same behaviour is
no wrong answer, whichever pair it came with (false negatives are masked; InfoNCE: van den Oord et al. 2018, several
positives: Khosla et al. 2020). s is one over the temperature. Texts on other ranks count like those here, and their
gradients come back to them. The loss is the mean over the sizes of `sizes` (Matryoshka, Kusupati et al. 2022).

Large batches. A contrastive loss needs all vectors at once, so micro-batches would change it. Instead the vectors are
made in chunks: a first forward pass keeps vectors only, the loss gives the gradient of each, and the backward pass
computes each chunk a second time, with the same dropout (GradCache, Gao et al. 2021). That is what `checkpoint` around
the forward pass of a chunk does; so this objective fits the trainer (`train.trainer`) as it is, with `micro_batch = 0`.
Chunks hold texts of like length and are cut to the longest, so that little is spent on padding.

What it leaves out. Hard negatives of unequal weight; a queue of vectors of former batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from data.batches import Batch
from model.embedder import Embedder, prefix
from train.distributed import Ranks
from train.objectives import LossTerms

NOTHING = -1  # the behaviour of a place without a text


def info_nce(anchors: Tensor, everyone: Tensor, mine: Tensor, theirs: Tensor, first: int, scale: Tensor) -> LossTerms:
    """The sum of the losses of `anchors`, and how many of them have a positive.

    anchors (N, E): places `first` to `first` + N of `everyone` (M, E); mine (N,), theirs (M,): their behaviours,
    `NOTHING` where there is no text. scale: one over the temperature.
    """
    logits = scale * anchors @ everyone.T
    same = mine[:, None] == theirs
    present = (mine[:, None] != NOTHING) & (theirs != NOTHING)
    places = torch.arange(len(theirs), device=theirs.device)
    itself = places == places[first : first + len(mine), None]
    least = torch.finfo(logits.dtype).min  # not -inf, whose gradients are not defined where there is no negative
    negatives = logits.masked_fill(same | ~present, least).logsumexp(1, keepdim=True)
    positives = same & present & ~itself
    losses = F.softplus(negatives - logits).masked_fill(~positives, 0)
    counts = positives.sum(1)
    return LossTerms((losses.sum(1) / counts.clamp(min=1)).sum(), (counts > 0).sum().to(logits.dtype))


class _Gather(torch.autograd.Function):
    """The rows of all ranks, in their order; gradients of all ranks come back to the rows of this one."""

    @staticmethod
    def forward(context: Any, rows: Tensor, ranks: Ranks) -> Tensor:
        context.ranks = ranks
        parts = [torch.empty_like(rows) for _ in range(ranks.world)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = context.ranks.sum(gradient.clone(memory_format=torch.contiguous_format))
        return total.chunk(context.ranks.world)[context.ranks.rank], None


def gather(rows: Tensor, ranks: Ranks) -> Tensor:
    """The rows of all ranks (as many on each), with gradients."""
    return _Gather.apply(rows, ranks) if ranks.world > 1 else rows


def vectors_in_chunks(model: Embedder, tokens: Tensor, documents: Tensor, chunk: int) -> Tensor:
    """tokens, documents (N, T) -> (N, E), `chunk` texts at a time; 0: all at once, and nothing is computed twice."""
    if not chunk:
        return model(tokens, documents)
    lengths = (documents >= 0).sum(1)
    order = lengths.argsort(stable=True)
    parts = []
    for places in order.split(chunk):
        longest = max(int(lengths[places[-1]]), 1)
        given = tokens[places, :longest], documents[places, :longest]
        parts.append(checkpoint(model, *given, use_reentrant=False) if torch.is_grad_enabled() else model(*given))
    return torch.cat(parts)[order.argsort()]


@dataclass(frozen=True)
class Contrastive:
    """The objective for the trainer. A batch has tokens and documents (B, V, T), V texts a row, and targets (B, V),
    their behaviours.

    sizes: of the embeddings that are learnt at once; the whole size is one of them.
    """

    sizes: Sequence[int]
    chunk: int
    ranks: Ranks

    def __call__(self, model: Embedder, batch: Batch) -> LossTerms:
        vectors = vectors_in_chunks(model, batch.tokens.flatten(0, 1), batch.documents.flatten(0, 1), self.chunk)
        return self.loss(vectors, batch.targets.flatten(), model.scale)

    @torch.compiler.disable
    def loss(self, vectors: Tensor, behaviours: Tensor, scale: Tensor) -> LossTerms:
        """vectors (N, E) and behaviours (N,) of this rank."""
        everyone, theirs = gather(vectors, self.ranks), gather(behaviours, self.ranks)
        first = self.ranks.rank * len(vectors)
        total = vectors.new_zeros(())
        for size in self.sizes:
            small, all_small = prefix(vectors, size), prefix(everyone, size)
            terms = info_nce(small, all_small, behaviours, theirs, first, scale)
            total = total + terms.total / len(self.sizes)
        return LossTerms(total, terms.weight)
