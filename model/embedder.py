"""Instruction embeddings: a text becomes a unit vector, so that texts which ask for the same stand close together.

    embedder = Embedder(config, dimensions=128)
    vectors = embedder(tokens, documents)       # (N, 128), each of length 1; `pad_rows` makes both from lists of ids
    prefix(vectors, 32)                         # (N, 32): an embedding too, where those sizes were trained

What it is. A trunk (encoder or decoder), the mean of its hidden vectors over the real tokens, and a linear layer to E
dimensions, or none. Two texts are compared by the inner product of their vectors, which is the cosine.

Why the mean. In a causal trunk the first token has seen nothing and the last one everything, in an encoder neither is
special; the mean serves both, and it works before anything was trained (Reimers and Gurevych 2019).

Why prefixes. Trained at several sizes at once, the first m dimensions, made unit vectors again, are the embedding of m
dimensions (Matryoshka, Kusupati et al. 2022): a large collection can be searched by few of them.

What it leaves out. Other weights than equal ones in the mean; leaving the instruction out of the mean of a text with
an instruction in front (INSTRUCTOR, Su et al. 2023): here the instruction is what is embedded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.batches import PADDING
from data.tokenizer import Tokenizer
from model.config import ModelConfig
from model.transformer import Linear, Transformer, initialise, widen

LARGEST_SCALE = 100.0  # of cosines; beyond it a learnt temperature makes steps unsteady (CLIP, Radford et al. 2021)


class Embedder(nn.Module):
    """A trunk whose texts become unit vectors of E dimensions.

    dimensions: E; 0: no projection, E is the width of the trunk. temperature: that of its loss, at the beginning;
    learnable: whether training may change it. It has no influence on the vectors.
    """

    head_name = "vectors"

    def __init__(self, config: ModelConfig, dimensions: int = 0, temperature: float = 0.05, learnable: bool = True):
        super().__init__()
        self.config, self.dimensions = config, dimensions
        self.trunk = Transformer(config)
        self.head = Linear(config.width, dimensions, bias=False) if dimensions else None
        if self.head is not None:
            initialise(self.head, config)
        self.log_scale = nn.Parameter(torch.full((1,), -math.log(temperature)), requires_grad=learnable)

    @property
    def size(self) -> int:
        """E."""
        return self.dimensions or self.config.width

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied with in the loss, one over the temperature; (1,)."""
        return self.log_scale.exp().clamp(max=LARGEST_SCALE)

    def forward(self, tokens: Tensor, documents: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """tokens (N, T), one text a row -> (N, E) float32, of length 1; arguments as in `Transformer.forward`."""
        hidden = widen(self.trunk(tokens, documents, positions))
        real = torch.ones_like(tokens, dtype=torch.bool) if documents is None else documents >= 0
        total = hidden.masked_fill(~real[..., None], 0).sum(1)
        mean = total / real.sum(1, keepdim=True).clamp(min=1)
        return F.normalize(mean if self.head is None else self.head(mean), dim=-1)


def prefix(vectors: Tensor, size: int) -> Tensor:
    """The embedding of `size` dimensions that is contained in a larger one: (..., E) -> (..., size), of length 1."""
    return F.normalize(vectors[..., :size], dim=-1)


def text_ids(texts: Sequence[str], tokenizer: Tokenizer, context: int) -> list[list[int]]:
    """`<bos>` and the ids of each text, cut where they do not fit into the context."""
    return [[tokenizer.bos, *ids][:context] for ids in tokenizer.encode_batch(texts)]


def pad_rows(ids: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """(tokens (N, T) int64, documents (N, T) int32) of texts; T is the length of the longest."""
    length = max(map(len, ids))
    tokens = torch.full((len(ids), length), pad)
    documents = torch.full((len(ids), length), PADDING, dtype=torch.int32)
    for row, each in enumerate(ids):
        tokens[row, : len(each)] = torch.tensor(each)
        documents[row, : len(each)] = 0
    return tokens, documents


@torch.no_grad()
def embed(embedder: Embedder, ids: Sequence[Sequence[int]], pad: int, batch_rows: int = 64) -> Tensor:
    """The vectors of texts (N, E) float32, on the CPU, in their order; they are computed in the order of their lengths.

    The embedder is in evaluation mode then.
    """
    embedder.eval()
    device = embedder.log_scale.device
    found = torch.empty(len(ids), embedder.size)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for start in range(0, len(order), batch_rows):
        places = order[start : start + batch_rows]
        tokens, documents = pad_rows([ids[i] for i in places], pad)
        found[places] = embedder(tokens.to(device), documents.to(device)).float().cpu()
    return found
