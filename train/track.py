"""What a run can report beside its loss: norms per layer, the share of the hardware that it uses, and TensorBoard.

    figures = layer_norms(model)                     {"gradient.blocks.0": 0.31, "weight.blocks.0": 11.8, ...}
    figures |= utilisation(model, T, rate, ranks)    {"memory_gib": 21.3, "mfu": 0.41}, the latter where it is known
    Tracker(run, state.step).log(record)             needs the [track] extra

Model FLOPs utilisation (MFU; Chowdhery et al. 2022) is the operations that the formula of `model.count` demands, over
those that the hardware could do at its peak. The yardstick is always the published dense bfloat16 peak, also for a
run in float32. A device that is not in the table has no MFU: a wrong name would give a number that looks right.

What it leaves out: parameters that are sharded over ranks; `train.sharded` sums their norms over them.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from configs import UserError
from model.count import training_flops
from train.distributed import Ranks


@dataclass(frozen=True)
class Gpu:
    """peak: FLOP/s of dense bfloat16 products that are summed in float32. memory: published bytes, 10^9 a gigabyte,
    which is some percent less than the card has; the rest stays for CUDA itself. devices: the names CUDA gives it.
    """

    label: str
    peak: float
    memory: float
    source: str
    devices: tuple[str, ...]


GPUS = {
    "a100": Gpu(
        "A100 80 GB", 312e12, 80e9, "NVIDIA A100 datasheet", ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe")
    ),
    "a100-40": Gpu(
        "A100 40 GB", 312e12, 40e9, "NVIDIA A100 datasheet", ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB")
    ),
    "h100": Gpu("H100 SXM 80 GB", 989e12, 80e9, "NVIDIA H100 datasheet", ("NVIDIA H100 80GB HBM3",)),
    "h100-pcie": Gpu("H100 PCIe 80 GB", 756e12, 80e9, "NVIDIA H100 datasheet", ("NVIDIA H100 PCIe",)),
    "h200": Gpu("H200 SXM 141 GB", 989e12, 141e9, "NVIDIA H200 datasheet", ("NVIDIA H200",)),
    "4090": Gpu("RTX 4090 24 GB", 165.2e12, 24e9, "NVIDIA Ada whitepaper", ("NVIDIA GeForce RTX 4090",)),
}


def peak_flops(device: torch.device) -> float | None:
    """The published dense bfloat16 peak of this device in FLOP/s; None where it is not known, as for every CPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((gpu.peak for gpu in GPUS.values() if name in gpu.devices), None)


def utilisation(model: nn.Module, T: int, tokens_per_second: float, ranks: Ranks) -> dict[str, float]:
    """How well a GPU is used by a language model that trains on rows of T tokens, `tokens_per_second` on all ranks:
    "memory_gib", the most that this rank has held so far, and "mfu" where the peak is known. Empty on a CPU.
    """
    if ranks.device.type != "cuda":
        return {}
    found = {"memory_gib": torch.cuda.max_memory_allocated(ranks.device) / 2**30}
    peak = peak_flops(ranks.device)
    if peak is not None:
        work = training_flops(model.config, T, model.head_name)
        found["mfu"] = tokens_per_second * work / (peak * ranks.world)
    return found


def part_of(name: str) -> str:
    """The part of the model that a parameter belongs to: "blocks.3", "embedding", "head", ..."""
    path = name.removeprefix("trunk.").split(".")
    return ".".join(path[:2] if path[0] == "blocks" else path[:1])


@torch.no_grad()
def layer_norms(model: nn.Module) -> dict[str, float]:
    """Euclidean norms of each layer's gradients (where there are any) and weights as they stand, in one fetch from the
    device: {"gradient.blocks.0": ..., "weight.blocks.0": ..., ...}.
    """
    parameters = dict(model.named_parameters())
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    labels = [f"gradient.{part_of(name)}" for name in gradients] + [f"weight.{part_of(name)}" for name in parameters]
    norms = torch._foreach_norm([*gradients.values(), *parameters.values()])
    squares = torch.stack([norm.double() for norm in norms]).square().tolist()
    sums: dict[str, float] = {}
    for label, square in zip(labels, squares):
        sums[label] = sums.get(label, 0.0) + square
    return {label: math.sqrt(total) for label, total in sums.items()}


class Tracker:
    """Mirrors the records of `metrics.jsonl` to TensorBoard: `tensorboard --logdir RUN`.

    A continued run hides what was written about steps after `step`, as `RunFolder.forget_after` does.
    """

    def __init__(self, run: str | Path, step: int = 0):
        """Raises UserError when TensorBoard is not installed."""
        if importlib.util.find_spec("tensorboard") is None:
            raise UserError("tracking needs TensorBoard: pip install 'zhiling[track]'")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(Path(run) / "tensorboard"), purge_step=step + 1)

    def log(self, record: Mapping[str, Any]) -> None:
        """Every figure of the record, as KIND/NAME at its step; the first dot of a name becomes a slash."""
        for name, value in figures(record).items():
            self._writer.add_scalar(f"{record['kind']}/{name.replace('.', '/', 1)}", value, record["step"])

    def close(self) -> None:
        self._writer.close()


def figures(record: Mapping[str, Any]) -> dict[str, float]:
    """What can be drawn of a record: its numbers, without the step."""
    return {name: value for name, value in record.items() if name != "step" and type(value) in (int, float)}
