"""Ranks: what this process is among the others, and the few collectives that the trainer needs.

Started by `torchrun`, a process finds its rank in the environment; started alone, it is rank 0 of 1 and no process
group exists. gloo is used on CPUs, NCCL on GPUs. `torchrun` sets OMP_NUM_THREADS=1; `setup` gives each rank its share
of the cores instead.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from configs import UserError

T = TypeVar("T")
TIMEOUT = timedelta(minutes=10)
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Ranks:
    """This process among `world`. `local` is its number on this machine."""

    rank: int = 0
    world: int = 1
    local: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, in place; every rank gets the same bits."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether it is true on one of the ranks; the same answer on all."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device)))

    def from_main(self, value: T) -> T:
        """What the main rank has, on all ranks."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """What each rank has, in the order of the ranks, on all of them."""
        values = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()


class Post:
    """Short messages between ranks, through the store of the process group: for threads beside the training, which
    must not use collectives. All ranks make one at the same place of the program, then its topics are its own.
    """

    def __init__(self, ranks: Ranks):
        self.rank, self.world, self.is_main = ranks.rank, ranks.world, ranks.is_main
        store = dist.distributed_c10d._get_default_store()
        self._store = dist.PrefixStore(f"post {store.add(f'posts of {ranks.rank}', 1)}", store)

    def say(self, topic: str, text: str) -> None:
        """Leave a message, not empty, for all others."""
        self._store.set(f"{self.rank} {topic}", text)

    def hear(self, topic: str, rank: int) -> str:
        """Wait for what that rank says. Raises UserError when it says nothing within `TIMEOUT`."""
        deadline = time.monotonic() + TIMEOUT.total_seconds()
        while not self._store.check([f"{rank} {topic}"]):
            if time.monotonic() > deadline:
                raise UserError(f"rank {rank} has not answered for {TIMEOUT}; look at its output")
            time.sleep(POLL_SECONDS)
        return self._store.get(f"{rank} {topic}").decode()


def setup(device: str = "auto", threads: int = 0) -> Ranks:
    """Join the process group (when started by torchrun), choose the device and the number of threads.

    device: "auto", "cpu" or "cuda". threads: per rank on a CPU, 0 for an equal share of the cores.
    Raises UserError when CUDA is asked for and not there.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    local, here = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device is cuda, but this PyTorch sees no CUDA device; use train.device=cpu")
    use_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if use_cuda:
        torch.cuda.set_device(local)
    chosen = torch.device("cuda", local) if use_cuda else torch.device("cpu")
    if not use_cuda:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(threads or max(1, cores // here))
    if world > 1 and not dist.is_initialized():
        join("nccl" if use_cuda else "gloo")
    return Ranks(rank, world, local, chosen)


def join(backend: str) -> None:
    """Join the process group, in a part of the store that belongs to this life of the job.

    torchrun keeps one store over its restarts, in which the addresses of the ranks before still stand; ranks that
    read those try to reach the dead, for ever or until they give up (4 of 8 restarts that we tried).
    """
    life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store, rank, world = next(rendezvous("env://", timeout=TIMEOUT))
    dist.init_process_group(
        backend, store=dist.PrefixStore(f"life {life}", store), rank=rank, world_size=world, timeout=TIMEOUT
    )


def teardown() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
