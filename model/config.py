"""The switches in which papers differ, as one frozen dataclass.

    config = ModelConfig(vocab_size=4096, width=512, layers=8, heads=8, activation="swiglu")

Every stage that trains takes them from the table [model] of its TOML file. Each switch has a test that shows what it
changes (tests/test_model.py); `model.count` gives the price of a choice before anything is allocated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from configs import check


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of a Transformer. Decoder and encoder are one trunk: `causal` sets the mask.

    vocab_size  V, the number of token ids. In a stage that trains a tokenizer, 0 means "as the tokenizer has".
    context     longest sequence in tokens; a hard limit only for `position = "learned"`
    width       C, of the residual stream
    layers      L
    heads       H query heads; kv_heads K key-value heads (H a multiple of K; None: H), Ainslie et al. 2023
    head_width  D of one head (None: C / H)
    hidden      inner width of the feed-forward part (None: 4 C, or 8/3 C rounded up to 32 for swiglu)
    norm        "rms" (Zhang and Sennrich 2019) or "layer" (Ba et al. 2016), in front of each part or after it
                (`norm_place`: Xiong et al. 2020)
    activation  "gelu", "relu2" (So et al. 2021) or "swiglu" (Shazeer 2020)
    position    "rope" (Su et al. 2021), "learned", "alibi" (Press et al. 2022) or "none"
    rope_base   the slowest pair of a head of width D turns by rope_base ** (2 / D - 1) a token
    head_norm   RMS norm of every query and key head before the scores (Henry et al. 2020)
    windows     how many keys a query sees, itself and those to its left (without `causal` as many to its right),
                per layer, repeated over the layers; 0 sees all. (0,) is full attention; (256, 0) alternates a window
                with full attention, as in Gemma 2
    attention_softcap, softcap   cap * tanh(x / cap) on scores and on logits (Gemma 2); 0 is off
    bias        biases in linear layers and norms
    tie         the output matrix is the embedding matrix (Press and Wolf 2017)
    dropout     after the embedding, each attention and each feed-forward part
    init        "gpt2" (Radford et al. 2019: normal 0.02, output projections scaled by 1 / sqrt(2 L)),
                "small" (Nguyen and Salazar 2019: normal sqrt(2 / (5 C)), scaled likewise), or "zero" (as gpt2 with
                output projections 0, so that every layer starts as the identity; Zhang et al. 2019)
    """

    vocab_size: int = 0
    context: int = 1024
    width: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int | None = None
    head_width: int | None = None
    hidden: int | None = None
    causal: bool = True
    norm: Literal["rms", "layer"] = "rms"
    norm_place: Literal["pre", "post"] = "pre"
    activation: Literal["gelu", "swiglu", "relu2"] = "relu2"
    position: Literal["rope", "learned", "alibi", "none"] = "rope"
    rope_base: float = 10000.0
    head_norm: bool = True
    windows: tuple[int, ...] = (0,)
    attention_softcap: float = 0.0
    softcap: float = 0.0
    bias: bool = False
    tie: bool = True
    dropout: float = 0.0
    init: Literal["gpt2", "small", "zero"] = "zero"

    def __post_init__(self):
        problems = [
            f"{name} must be positive, got {getattr(self, name)}"
            for name in ("context", "width", "layers", "heads", "kv_heads", "head_width", "hidden")
            if getattr(self, name) is not None and getattr(self, name) < 1
        ]
        check(problems)  # the next ones divide by these
        if self.vocab_size < 0:
            problems.append(f"vocab_size must not be negative, got {self.vocab_size}")
        if self.heads % self.num_kv_heads:
            problems.append(f"heads ({self.heads}) must be a multiple of kv_heads ({self.num_kv_heads})")
        if self.head_width is None and self.width % self.heads:
            problems.append(f"width ({self.width}) must be a multiple of heads ({self.heads}), or give head_width")
        elif self.position == "rope" and self.D % 2:
            problems.append(f"rope turns pairs: the head width ({self.D}) must be even")
        if not self.windows or min(self.windows) < 0:
            problems.append(f"windows must be a list of numbers not below 0, got {list(self.windows)}")
        if not self.rope_base > 1:
            problems.append(f"rope_base must be above 1, got {self.rope_base}")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout must be at least 0 and below 1, got {self.dropout}")
        for name in ("attention_softcap", "softcap"):
            if not getattr(self, name) >= 0:
                problems.append(f"{name} must not be negative, got {getattr(self, name)}")
        check(problems)

    @property
    def num_kv_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def D(self) -> int:
        """Width of one head."""
        return self.head_width or self.width // self.heads

    @property
    def hidden_width(self) -> int:
        if self.hidden:
            return self.hidden
        return -(-self.width * 8 // 3 // 32) * 32 if self.activation == "swiglu" else 4 * self.width

    def window(self, layer: int) -> int:
        """How many keys a query sees in layer `layer`, itself included; 0 for all."""
        return self.windows[layer % len(self.windows)]
