"""What stands on the trunk: small modules that turn hidden vectors (B, T, C) into what a task needs.

A model is a trunk and a head. `LanguageModel` predicts tokens: the next one on a causal trunk (GPT), the hidden ones
on a bidirectional trunk (BERT), with the same loss over (targets, weights).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from kernels.loss import linear_cross_entropy
from model.cache import KeyValueCache
from model.config import ModelConfig
from model.transformer import Linear, Norm, Transformer, initialise, widen

HeadName = Literal["language", "masked"]


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
        weight = self.output.weight.to(flat.dtype)
        return linear_cross_entropy(flat, weight, targets.flatten(), weights.flatten(), softcap=self.softcap or None)

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
