"""Small things to test with: invented text, and models whose every parameter is random."""

from __future__ import annotations

import random

import torch

from model import LanguageModel, ModelConfig
from model.heads import HeadName
from model.lora import adapted

SYLLABLES = ("ka", "to", "mi", "ren", "sol", "ve", "指", "令", "é")


def invented_texts(count: int, longest: int = 25, seed: int = 0) -> list[str]:
    """Texts of 1 to `longest` made-up words with numbers, lines and Chinese; all different."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(150)]
    return [
        f"{number}: {' '.join(draw.choices(words, k=draw.randint(1, longest)))}.\n    - {draw.choice(words)}\n"
        for number in range(count)
    ]


def small_model(head: HeadName = "language", dtype: torch.dtype = torch.float32, **switches) -> LanguageModel:
    """A model of two layers, in evaluation mode. Its own initialisation leaves much at zero or one, where no test sees
    anything; here every parameter is random. float64 computes in float64; other dtypes keep float32 parameters.
    """
    defaults = {"vocab_size": 61, "context": 48, "width": 24, "layers": 2, "heads": 3, "hidden": 40}
    model = LanguageModel(ModelConfig(**(defaults | switches)), head)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 1:  # norms and biases
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
        else:
            parameter.data = torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5
    model.trunk.compute_dtype = dtype
    return (model.double() if dtype == torch.float64 else model).eval()


def require_only_adapters_learnt(model, base) -> None:
    """That the model has adapters which have moved, on top of the weights of `base` as they were."""
    before = dict(base.named_parameters())
    after = {name: parameter for name, parameter in model.named_parameters() if name in before}
    assert after.keys() >= {name for name in before if name.startswith("trunk.")}
    frozen = [name for name, parameter in after.items() if not parameter.requires_grad]
    assert {name for name in after if name.startswith("trunk.")} <= {*frozen}
    assert all(torch.equal(after[name], before[name]) for name in frozen)
    layers = adapted(model).values()
    assert layers and all(layer.up.any() for layer in layers)
