"""What stands on the trunk: small modules that turn hidden vectors (B, T, C) into what a task needs.

A model is a trunk and a head. `LanguageModel` predicts tokens: the next one on a causal trunk (GPT), the hidden ones
on a bidirectional trunk (BERT), with the same loss over (targets, weights). `Classifier` names the classes of a text;
`SpanReader` finds where in a text an answer begins and ends. `Scorer` gives a text one number.
`ValuedModel` is a language model that also guesses how its answer will be rewarded.
`model.embedder.Embedder` turns a text into a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.loss import linear_cross_entropy
from model.cache import KeyValueCache
from model.config import ModelConfig
from model.embedder import Embedder
from model.transformer import Linear, Norm, Transformer, initialise, widen

HeadName = Literal["language", "masked"]
LANGUAGE_HEADS: tuple[str, ...] = get_args(HeadName)
HEADS = (*LANGUAGE_HEADS, "classes", "spans", "vectors", "score", "value")  # `head_name` of all models


class LanguageHead(nn.Module):
    """hidden (..., C) -> logits (..., V) float32, with the embedding matrix as the output matrix when `tie`.

    transform: a linear layer, GELU and a norm before the output matrix (the masked head of BERT, Devlin et al. 2019).
    """

    def __init__(self, config: ModelConfig, embedding: nn.Embedding, transform: bool):
        super().__init__()
        self.softcap = config.softcap
        self.transform = None
        if transform:
            self.transform = nn.Sequential(
                Linear(config.width, config.width), nn.GELU(), Norm(config.width, config.norm, config.bias)
            )
        self.output = Linear(config.width, config.vocab_size, bias=False)
        initialise(self, config)
        if config.tie:
            self.output.weight = embedding.weight

    def forward(self, hidden: Tensor) -> Tensor:
        logits = widen(self.output(self._transformed(hidden)))
        return self.softcap * (logits / self.softcap).tanh() if self.softcap else logits

    def loss(self, hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Sum over all places of weights * cross-entropy, float32 scalar; never holds all logits at once.

        hidden (B, T, C), targets (B, T) int64, weights (B, T) float32.
        """
        flat = self._transformed(hidden).flatten(0, 1)
        weight = self.output.matrix().to(flat.dtype)
        return linear_cross_entropy(flat, weight, targets.flatten(), weights.flatten(), softcap=self.softcap or None)

    def losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy at each place, with gradient: hidden (B, T, C), targets (B, T) int64 -> (B, T) float32."""
        flat = self._transformed(hidden).flatten(0, 1)
        weight = self.output.matrix().to(flat.dtype)
        found = linear_cross_entropy(flat, weight, targets.flatten(), softcap=self.softcap or None, reduction="none")
        return found.view(targets.shape)

    def _transformed(self, hidden: Tensor) -> Tensor:
        return hidden if self.transform is None else self.transform(hidden)


class LanguageModel(nn.Module):
    """A trunk that predicts tokens. head: "language", or "masked", which transforms the hidden vectors before."""

    def __init__(self, config: ModelConfig, head: HeadName = "language"):
        super().__init__()
        self.config, self.head_name = config, head
        self.trunk = Transformer(config)
        self.head = LanguageHead(config, self.trunk.embedding, transform=head == "masked")

    def forward(
        self,
        tokens: Tensor,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """tokens (B, T) -> logits (B, T, V) float32; arguments as in `Transformer.forward`."""
        return self.head(self.trunk(tokens, documents, positions, cache))


class Classifier(nn.Module):
    """A trunk that names the classes of a text: N scores of the mean of its hidden vectors.

    classes: their names. multiple: whether each class is a question of its own (binary cross-entropy, several or no
    classes a text) or exactly one is right (cross-entropy).

    The mean over the real tokens serves both kinds of trunk. The first token would not: in a causal trunk it has seen
    nothing but itself, and our masked pretraining never asks anything of it.
    """

    head_name = "classes"

    def __init__(self, config: ModelConfig, classes: Sequence[str], multiple: bool = False):
        super().__init__()
        self.config, self.classes, self.multiple = config, tuple(classes), multiple
        self.trunk = Transformer(config)
        self.head = Linear(config.width, len(self.classes))
        initialise(self.head, config)

    def forward(self, tokens: Tensor, documents: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """tokens (B, T), one text a row -> logits (B, N) float32; arguments as in `Transformer.forward`."""
        hidden = widen(self.trunk(tokens, documents, positions))
        real = torch.ones_like(tokens, dtype=torch.bool) if documents is None else documents >= 0
        total = hidden.masked_fill(~real[..., None], 0).sum(1)
        return self.head(total / real.sum(1, keepdim=True).clamp(min=1))

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Of each text, in nats: logits (B, N), targets (B, N) floating, 1 for its classes and 0 for others -> (B,).

        Cross-entropy, or the mean over all classes of their binary cross-entropies.
        """
        if self.multiple:
            return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none").mean(-1)
        return F.cross_entropy(logits, targets.to(logits.dtype), reduction="none")


class SpanReader(nn.Module):
    """A trunk that finds a span: two scores of each token, for being the first and the last of it (Devlin et al. 2019).

    On a causal trunk the question must stand before the text.
    """

    head_name = "spans"

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.trunk = Transformer(config)
        self.head = Linear(config.width, 2)
        initialise(self.head, config)

    def forward(
        self,
        tokens: Tensor,
        candidates: Tensor,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """tokens (B, T), candidates (B, T) bool -> two log-probabilities (B, T) float32, of start and of end: 1 in sum
        over the candidates, -inf elsewhere. Every row needs a candidate.
        """
        scores = widen(self.head(self.trunk(tokens, documents, positions)))
        scores = scores.masked_fill(~candidates[..., None], -torch.inf).log_softmax(1)
        return scores[..., 0], scores[..., 1]


class Scorer(nn.Module):
    """A trunk that gives a text one number, the higher the better: a reward model (Stiennon et al. 2020).

    It is read at the last token of the text, the only one that has seen all of it in a causal trunk; a conversation
    ends with `<end>`, so that this is always the same token.
    """

    head_name = "score"

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.trunk = Transformer(config)
        self.head = Linear(config.width, 1)
        initialise(self.head, config)

    def forward(self, tokens: Tensor, documents: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """tokens (B, T), one text a row -> (B,) float32; arguments as in `Transformer.forward`. Padding, which has no
        document, stands behind the text; of a row of nothing but padding the number means nothing.
        """
        hidden = self.trunk(tokens, documents, positions)
        real = torch.ones_like(tokens) if documents is None else (documents >= 0).long()
        last = (real.sum(1) - 1).clamp(min=0)[:, None, None].expand(-1, 1, hidden.shape[-1])
        return self.head(widen(hidden.gather(1, last))[:, 0])[:, 0]


class ValuedModel(LanguageModel):
    """A language model that, at each token, also guesses the reward of the answer that it is writing: the policy and
    the value of PPO (Schulman et al. 2017) on one trunk. At first all values are 0.
    """

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.head_name = "value"
        self.value = Linear(config.width, 1)
        nn.init.zeros_(self.value.weight)
        if self.value.bias is not None:
            nn.init.zeros_(self.value.bias)

    @classmethod
    def of(cls, model: LanguageModel) -> ValuedModel:
        """One with the trunk and the head of this model, which it shares."""
        valued = cls(model.config)
        valued.trunk, valued.head = model.trunk, model.head
        return valued

    def policy(self) -> LanguageModel:
        """The language model alone, with the same weights."""
        with torch.device("meta"):
            plain = LanguageModel(self.config)
        plain.trunk, plain.head = self.trunk, self.head
        return plain

    def values(self, hidden: Tensor) -> Tensor:
        """hidden (..., C) -> (...) float32."""
        return widen(self.value(hidden))[..., 0]


Model = LanguageModel | Classifier | SpanReader | Embedder | Scorer
