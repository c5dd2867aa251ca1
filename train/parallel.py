"""From a model to the module that is trained: activation checkpointing, compilation, a copy or a part on each rank.

    parallel = "ddp"     every rank holds the whole model; gradients are averaged over the ranks during the last
                         backward pass of a step (`DistributedDataParallel`)
    parallel = "fsdp"    every rank holds its rows of it, see `train.sharded`
    activation_checkpointing = "blocks"   a block keeps its input only and computes the rest again in the backward
                         pass (Chen et al. 2016): a third more work, the memory of one block instead of all

One process alone holds the whole model, whatever `parallel` says. All of these give the same numbers up to the order
of sums, and a run may be continued with another choice.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from configs import UserError
from model.heads import LanguageModel
from model.lora import LoraConfig, add_lora
from train.distributed import Ranks
from train.objectives import Objective, ObjectiveModule
from train.sharded import shard

Parallel = Literal["ddp", "fsdp"]


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of activations: see `train.config.TrainConfig.precision`."""
    if precision == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported()
        else:
            fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast else torch.float32
    return getattr(torch, precision)


def frozen_copy(model: LanguageModel, precision: str, device: torch.device) -> LanguageModel:
    """A copy of a model on the device that does not train: the reference of learning from feedback."""
    copied = copy.deepcopy(model).to(device).requires_grad_(False)
    copied.trunk.compute_dtype = compute_dtype(precision, device)
    return copied


def wants_compile(mode: str, ranks: Ranks) -> bool:
    """Whether to call torch.compile; it would fail at the first step, so the compiler is looked for before.

    Raises UserError when compile is "on" and there is no compiler.
    """
    if mode == "off":
        return False
    needs = "Triton" if ranks.device.type == "cuda" else "a C++ compiler (g++ or clang++)"
    if ranks.device.type == "cuda":
        found = importlib.util.find_spec("triton") is not None
    else:
        found = bool(os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++"))
    if not found and mode == "on":
        raise UserError(f"train.compile is on but {needs} was not found; install it or set train.compile=off")
    if not found and ranks.is_main:
        print(f"not compiled: {needs} was not found", file=sys.stderr)
    return found


def is_sharded(parallel: Parallel, ranks: Ranks) -> bool:
    return parallel == "fsdp" and ranks.world > 1


def with_adapters(model: nn.Module, lora: LoraConfig, parallel: Parallel, seed: int, ranks: Ranks) -> None:
    """Put adapters beside the layers of a model that is to be trained, alike on all ranks; of rank 0 none.

    Raises UserError for patterns and ranks that do not fit the model, and for a sharded run.
    """
    if not lora.rank:
        return
    if is_sharded(parallel, ranks):
        raise UserError("adapters are not divided over ranks; set train.parallel=ddp")
    torch.manual_seed(seed)
    add_lora(model, lora)


def prepare_module(
    model: nn.Module, objective: Objective, parallel: Parallel, checkpointing: str, compiled: bool, ranks: Ranks
) -> nn.Module:
    """The module that the trainer calls with a batch. The parameters must be equal on all ranks.

    `model` itself moves to the device of the rank; of a sharded one only this rank's part does.
    """
    if checkpointing == "blocks":
        checkpoint_blocks(model)
    module: nn.Module = ObjectiveModule(model, objective)
    if is_sharded(parallel, ranks):
        for block in model.trunk.blocks if compiled else ():
            block.compile(dynamic=False)  # each by itself: what gathers a block stands between them
        return shard(module, ranks)
    module.to(ranks.device)
    if compiled:
        module = torch.compile(module, dynamic=False)
    return DistributedDataParallel(module, gradient_as_bucket_view=True) if ranks.world > 1 else module


def checkpoint_blocks(model: nn.Module) -> None:
    """Have the blocks of `model.trunk` forget what their backward pass needs, and compute it again there."""
    for block in model.trunk.blocks:
        block.forward = functools.partial(recomputed, block.forward)


def recomputed(forward: Callable, *arguments: Any) -> Any:
    """`forward`, computed a second time in the backward pass, with the same dropout; without gradients, once."""
    if not torch.is_grad_enabled():
        return forward(*arguments)
    return checkpoint(forward, *arguments, use_reentrant=False)


def settle_buckets(module: nn.Module, batch: Any) -> None:
    """Have DDP lay out its buckets of gradients as it will have them, by a backward pass that is thrown away.

    It does so after the first backward pass, in the order in which gradients became ready. More than two ranks sum a
    number in an order that depends on its place in the bucket: without this, the first step after a restart would
    round unlike the same step of a run that was never stopped.
    """
    module.train()
    module(batch).total.backward()
