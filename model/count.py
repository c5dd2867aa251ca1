"""Parameters, floating-point operations and memory of a model, by formula: no weights are allocated.

    print(describe(load(PretrainConfig, "configs/gpt2-124m.toml").model, T=1024))

A multiplication and an addition count as two operations. Training counts three times the forward pass (one forward,
two for the gradients of inputs and weights; Kaplan et al. 2020). Attention counts the pairs that its mask lets
through, not T x T. A test compares every formula with the built model and with a count by hand.

What it leaves out: norms, biases, activations and the softmax, which are few operations, and the memory of activations.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.config import ModelConfig
from model.heads import HeadName


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters by part."""

    embedding: int
    position: int
    attention: int
    feed_forward: int
    norms: int
    head: int

    @property
    def total(self) -> int:
        return sum(vars(self).values())


def matrix_parameters(config: ModelConfig) -> tuple[int, int]:
    """Weights of the matrices of one layer: (attention, feed-forward), without biases."""
    C, H, K, D, F = config.width, config.heads, config.num_kv_heads, config.D, config.hidden_width
    return C * D * (H + 2 * K) + H * D * C, (3 if config.activation == "swiglu" else 2) * C * F


def count_parameters(config: ModelConfig, head: HeadName = "language") -> Parameters:
    """Parameters of `LanguageModel(config, head)`."""
    C, L, H, K, D, F = (
        config.width, config.layers, config.heads, config.num_kv_heads, config.D, config.hidden_width,
    )  # fmt: skip
    attention, feed_forward = matrix_parameters(config)
    if config.bias:
        attention += D * (H + 2 * K) + C
        feed_forward += F * (2 if config.activation == "swiglu" else 1) + C
    norm = 2 * C if config.norm == "layer" and config.bias else C
    head_norms = 2 * D if config.head_norm else 0
    output = 0 if config.tie else config.vocab_size * C
    if head == "masked":
        output += C * C + C + norm
    return Parameters(
        embedding=config.vocab_size * C,
        position=config.context * C if config.position == "learned" else 0,
        attention=L * attention,
        feed_forward=L * feed_forward,
        norms=L * (2 * norm + head_norms) + norm,
        head=output,
    )


def visible_pairs(T: int, causal: bool, window: int) -> int:
    """(query, key) pairs that one sequence of T tokens lets through."""
    side = min(window or T, T)
    left = side * (side + 1) // 2 + (T - side) * side  # a query sees itself and side - 1 keys to its left
    return left if causal else 2 * left - T


def forward_flops(config: ModelConfig, T: int, head: HeadName = "language") -> float:
    """Operations of one forward pass per token, in a sequence of T tokens, output matrix included."""
    C = config.width
    matrices = (
        config.layers * sum(matrix_parameters(config)) + config.vocab_size * C + (C * C if head == "masked" else 0)
    )
    pairs = sum(visible_pairs(T, config.causal, config.window(layer)) for layer in range(config.layers))
    return 2 * matrices + 4 * config.heads * config.D * pairs / T


def training_flops(config: ModelConfig, T: int, head: HeadName = "language") -> float:
    """Operations of one training step per token."""
    return 3 * forward_flops(config, T, head)


def training_bytes(config: ModelConfig, head: HeadName = "language") -> dict[str, int]:
    """Memory that does not depend on the batch: float32 weights, gradients and the two moments of AdamW."""
    total = count_parameters(config, head).total
    return {"weights": 4 * total, "gradients": 4 * total, "optimizer": 8 * total}


def cache_bytes(config: ModelConfig, tokens: int, element_bytes: int = 2) -> int:
    """Memory of the keys and values of `tokens` tokens."""
    return 2 * config.layers * config.num_kv_heads * config.D * tokens * element_bytes


def describe(config: ModelConfig, T: int, head: HeadName = "language") -> str:
    """A table for people: what `--dry-run` prints."""
    parameters = count_parameters(config, head)
    memory = training_bytes(config, head)
    rows = [f"  {name:<14}{value:>16,}" for name, value in vars(parameters).items() if value]
    rows = ["parameters", *rows, f"  {'total':<14}{parameters.total:>16,}"]
    rows += ["memory before activations (float32 weights, AdamW)"]
    rows += [f"  {name:<14}{value / 2**20:>12,.1f} MiB" for name, value in memory.items()]
    rows += [f"  {'total':<14}{sum(memory.values()) / 2**20:>12,.1f} MiB"]
    rows += [f"operations per token at T = {T}"]
    rows += [f"  {'forward':<14}{forward_flops(config, T, head) / 1e6:>12,.1f} MFLOP"]
    rows += [f"  {'training':<14}{training_flops(config, T, head) / 1e6:>12,.1f} MFLOP"]
    return "\n".join(rows)
