"""Sharded training: weights, gradients and optimizer state divided over the ranks (FSDP2, `train.parallel = "fsdp"`).

Each rank keeps some rows of every parameter (a `DTensor`, divided along its first dimension). A block is gathered
whole just before it computes and let go again after it; the backward pass gathers it once more, and its gradients are
summed over the ranks and divided again, after every micro-batch. The two ends of the model (embeddings, last norm,
output matrix) stay gathered from the forward to the backward pass. (Rajbhandari et al. 2020, ZeRO stage 3; Zhao et al.
2023, FSDP.)

The loss, the gradients and the updates are those of `train.parallel = "ddp"`, up to the order of sums: parameters are
gathered in float32, clipping takes the norm over all ranks, and Muon sees whole matrices (`orthogonalise_rows`).

What it leaves out: gathering in bfloat16 (half the traffic; norms would see rounded weights); a model that does not
fit in the memory of one host, where each rank builds it before it is divided; an evaluation with divided weights (it
gathers them for its duration, `gathered`, because ranks evaluate unequal numbers of batches).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from train.distributed import Ranks
from train.track import layer_norms


def shard(module: nn.Module, ranks: Ranks) -> nn.Module:
    """Divide the parameters of an `ObjectiveModule` over all ranks, block by block and then the rest, in place.

    The parameters must be equal on all ranks; each keeps its rows, on its device.
    """
    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    for block in module.model.trunk.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(module, mesh=mesh)


def rows_here(parameter: nn.Parameter) -> nn.Parameter:
    """What of a parameter lies on this rank, in the same memory; the parameter itself when it is not divided."""
    return nn.Parameter(parameter.to_local().detach()) if isinstance(parameter, DTensor) else parameter


@contextlib.contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Every rank holds the whole weights within the block and may then compute alone; nothing for other modules."""
    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not module, recurse=False)
            part.reshard()


def whole_weights(model: nn.Module, ranks: Ranks) -> dict[str, Tensor]:
    """The parameters, gathered one by one: on the CPU of the main rank; empty on the others. All ranks call it."""
    weights = {}
    for name, parameter in model.named_parameters():
        whole = parameter.full_tensor()
        if ranks.is_main:
            weights[name] = whole.detach().cpu()
    return weights


def global_norm(norm: Tensor, ranks: Ranks) -> Tensor:
    """The norm of gradients of which each rank has a part with this norm."""
    return ranks.sum(norm.double().square()).sqrt().to(norm.dtype)


def sharded_layer_norms(shards: Mapping[str, Tensor], ranks: Ranks) -> dict[str, float]:
    """`train.track.layer_norms` of a model that is divided. All ranks call it."""
    here = layer_norms(SimpleNamespace(named_parameters=shards.items))
    squares = torch.tensor([norm**2 for norm in here.values()], dtype=torch.float64, device=ranks.device)
    return dict(zip(here, ranks.sum(squares).sqrt().tolist()))


# Muon ----------------------------------------------------------------------------------------------------------------


def rows_of_ranks(rows: int, world: int) -> list[int]:
    """How many of a parameter's rows each rank has: as `torch.chunk` divides, the last ones less or none."""
    most = -(-rows // world)
    return [max(0, min(most, rows - rank * most)) for rank in range(world)]


def orthogonalise_rows(
    orthogonalise: Callable[[Tensor], Tensor], rows: Iterable[Tensor], parameters: Iterable[DTensor]
) -> Iterator[Tensor]:
    """Apply a function of whole matrices (M, N) -> (M, N) to matrices of which each rank has some rows.

    rows: what this rank has of each. Yields as much of each result, in bfloat16. As many matrices as there are ranks
    at a time: every rank gets one of them whole (all-to-all), works on it, and gives the rows back; no work is done
    twice.
    """
    rows, parameters = iter(rows), iter(parameters)
    rank, world = dist.get_rank(), dist.get_world_size()
    while batch := [piece.bfloat16().contiguous() for piece in itertools.islice(rows, world)]:
        shapes = [parameter.shape for parameter in itertools.islice(parameters, len(batch))]
        sent = [piece.numel() for piece in batch] + [0] * (world - len(batch))
        received = [0] * world
        if rank < len(batch):
            M, N = shapes[rank]
            received = [count * N for count in rows_of_ranks(M, world)]
        mine = exchange(torch.cat([piece.flatten() for piece in batch]), sent, received)
        if rank < len(batch):
            mine = orthogonalise(mine.view(M, N)).contiguous().flatten()
        back = exchange(mine, received, sent)
        yield from (part.view_as(piece) for part, piece in zip(back.split(sent), batch))


def exchange(numbers: Tensor, sent: list[int], received: list[int]) -> Tensor:
    """All-to-all: `sent[r]` of the numbers go to rank r, `received[r]` come from it."""
    out = numbers.new_empty(sum(received))
    dist.all_to_all_single(out, numbers, received, sent)
    return out
