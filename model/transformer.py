"""The trunk: token ids in, hidden vectors out. Decoder and encoder differ in the mask alone.

    x = embedding(tokens) [+ position embedding]                                   (B, T, C)
    x = norm(x)                                                                     post-norm only (as BERT)
    repeat L times:  x = x + attention(norm(x));  x = x + feed_forward(norm(x))      pre-norm
                     x = norm(x + attention(x));  x = norm(x + feed_forward(x))      post-norm
    x = norm(x)                                                                     pre-norm only

Precision. Parameters stay in the dtype that they have (float32 in training); `compute_dtype` is the dtype of the
residual stream, and every linear layer casts its weight to the dtype of its input. That is mixed precision in one
readable line, without autocast: gradients arrive in the dtype of the parameter.

What a token may see is said by masks from `kernels`: causal or not, its document (`documents`), its window, its
padding. With a `cache`, keys and values of earlier tokens are kept and `tokens` are the new ones only; see
`model.cache`.

What it leaves out: cross-attention, experts, parallel attention and feed-forward, and weights spread over devices.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from configs import UserError
from kernels import ALiBi, Causal, Document, Full, Mask, Window, attention
from kernels.fused import rotary, rotary_tables, squared_relu, swiglu
from model.cache import KeyValueCache, LayerCache
from model.config import ModelConfig


def widen(x: Tensor) -> Tensor:
    """float32, or float64 where that is what comes in."""
    return x if x.dtype == torch.float64 else x.float()


class Linear(nn.Linear):
    """A linear layer that computes in the dtype of its input."""

    def matrix(self) -> Tensor:
        """What it multiplies by: (N, M)."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class Norm(nn.Module):
    """RMS ("rms") or layer ("layer") normalisation over the last axis, computed in float32."""

    def __init__(self, width: int, kind: str, bias: bool):
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias and kind == "layer" else None

    def forward(self, x: Tensor) -> Tensor:
        wide = widen(x)
        if self.kind == "layer":
            bias = None if self.bias is None else self.bias.to(wide.dtype)
            out = F.layer_norm(wide, wide.shape[-1:], self.weight.to(wide.dtype), bias, 1e-5)
        else:
            out = F.rms_norm(wide, wide.shape[-1:], self.weight.to(wide.dtype), 1e-6)
        return out.to(x.dtype)


class Context(NamedTuple):
    """What attention needs to know besides the activations: the mask of its layer, the positions (cos and sin of the
    rotation, or ALiBi), and its part of the cache."""

    mask: Mask
    rotation: tuple[Tensor, Tensor] | None
    alibi: ALiBi | None
    cached: LayerCache | None


class Attention(nn.Module):
    """Multi-head attention with grouped queries. x (B, T, C) -> (B, T, C)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        H, K, D, C = config.heads, config.num_kv_heads, config.D, config.width
        self.config = config
        self.query = Linear(C, H * D, bias=config.bias)
        self.key = Linear(C, K * D, bias=config.bias)
        self.value = Linear(C, K * D, bias=config.bias)
        self.output = Linear(H * D, C, bias=config.bias)
        self.query_norm = Norm(D, "rms", bias=False) if config.head_norm else nn.Identity()
        self.key_norm = Norm(D, "rms", bias=False) if config.head_norm else nn.Identity()

    def forward(self, x: Tensor, context: Context) -> Tensor:
        D = self.config.D
        q = self.query_norm(rearrange(self.query(x), "B T (H D) -> B H T D", D=D))
        k = self.key_norm(rearrange(self.key(x), "B T (K D) -> B K T D", D=D))
        v = rearrange(self.value(x), "B T (K D) -> B K T D", D=D)
        if context.rotation is not None:
            q, k = rotary(q, *context.rotation), rotary(k, *context.rotation)
        if context.cached is not None:
            k, v = context.cached.append(k, v)  # (B, K, S, D): old and new
        out = attention(q, k, v, context.mask, softcap=self.config.attention_softcap or None, bias=context.alibi)
        return self.output(rearrange(out, "B H T D -> B T (H D)"))


class FeedForward(nn.Module):
    """Two linear layers with a nonlinearity between; three for swiglu. x (B, T, C) -> (B, T, C)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.activation = config.activation
        self.input = Linear(config.width, config.hidden_width, bias=config.bias)
        self.gate = Linear(config.width, config.hidden_width, bias=config.bias) if self.activation == "swiglu" else None
        self.output = Linear(config.hidden_width, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.input(x)
        if self.activation == "swiglu":
            hidden = swiglu(self.gate(x), hidden)
        elif self.activation == "relu2":
            hidden = squared_relu(hidden)
        else:
            hidden = F.gelu(hidden)
        return self.output(hidden)


class Block(nn.Module):
    """One layer: attention and feed-forward, each with its norm and a residual connection."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.pre = config.norm_place == "pre"
        self.attention_norm = Norm(config.width, config.norm, config.bias)
        self.attention = Attention(config)
        self.feed_forward_norm = Norm(config.width, config.norm, config.bias)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        if self.pre:
            x = x + self.dropout(self.attention(self.attention_norm(x), context))
            return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        x = self.attention_norm(x + self.dropout(self.attention(x, context)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


class Transformer(nn.Module):
    """Embedding, L blocks, final norm.

    `compute_dtype` (a plain attribute, float32) is the dtype of the activations.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        if config.vocab_size < 1:
            raise UserError("model.vocab_size is 0: set it to the tokenizer's vocab_size")
        self.config = config
        self.compute_dtype = torch.float32
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.position = nn.Embedding(config.context, config.width) if config.position == "learned" else None
        self.embedding_norm = Norm(config.width, config.norm, config.bias) if config.norm_place == "post" else None
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = Norm(config.width, config.norm, config.bias) if config.norm_place == "pre" else None
        initialise(self, config)

    def forward(
        self,
        tokens: Tensor,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """tokens (B, T) int64 -> hidden (B, T, C).

        documents: (B, T) int, tokens see only their own document; negative numbers are padding.
        positions: (B, T) int64, by default 0 .. T-1, or the places after what the cache holds.
        Raises UserError when learned positions are exceeded.
        """
        config, (_, T) = self.config, tokens.shape
        offset = None if cache is None else cache.lengths
        if positions is None:
            places = torch.arange(T, device=tokens.device)
            positions = places[None] if offset is None else offset[:, None] + places
        x = self.embed(tokens, positions, T if cache is None else cache.longest + T)
        rotation = alibi = None
        if config.position == "rope":
            rotation = rotary_tables(positions, config.D, config.rope_base)  # two (B or 1, T, D / 2)
        elif config.position == "alibi":
            alibi = ALiBi.for_heads(config.heads, x.device, offset)
        for layer, block in enumerate(self.blocks):
            mask = self.mask(layer, documents, offset)
            x = block(x, Context(mask, rotation, alibi, None if cache is None else cache.layer(layer)))
        if cache is not None:
            cache.advance(T)
        return x if self.norm is None else self.norm(x)

    def embed(self, tokens: Tensor, positions: Tensor, end: int) -> Tensor:
        """What the first layer gets: tokens (B, T), positions (B or 1, T), all below `end` -> (B, T, C)."""
        x = self.embedding(tokens)
        if self.position is not None:
            if end > self.config.context:
                raise UserError(f"{end} tokens exceed the {self.config.context} learned positions; use shorter texts")
            x = x + self.position(positions)
        x = x.to(self.compute_dtype)
        return self.dropout(x if self.embedding_norm is None else self.embedding_norm(x))

    def mask(self, layer: int, documents: Tensor | None = None, offset: Tensor | None = None) -> Mask:
        """What tokens may attend to in one layer; `offset` (B,) is the position of each row's first query."""
        causal, window = self.config.causal, self.config.window(layer)
        mask: Mask = Causal(offset) if causal else Full()
        if window:
            mask = mask & Window(window - 1, 0 if causal else window - 1, offset)
        if documents is not None:
            mask = mask & Document(documents)
        return mask


def initialise(model: nn.Module, config: ModelConfig) -> None:
    """Set all weights as `config.init` names it; biases are zero, norms are one."""
    spread = 0.02 if config.init in ("gpt2", "zero") else math.sqrt(2 / (5 * config.width))
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            is_output = name.endswith(("attention.output", "feed_forward.output"))
            deviation = spread / math.sqrt(2 * config.layers) if is_output else spread
            if is_output and config.init == "zero":
                nn.init.zeros_(module.weight)
            else:
                nn.init.normal_(module.weight, std=deviation)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
