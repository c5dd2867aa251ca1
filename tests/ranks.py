"""Several ranks within a test: `on_ranks(4, function, *arguments)` calls it on each, in a process of its own.

The processes are forked off a server that has imported the trainer once, so four of them start in a second. Function
and arguments travel by pickle: the function stands at the top of a module.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from train.distributed import Ranks

SECONDS = 120


def on_ranks(world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`function(ranks, *arguments)` of each rank. Fails when one of them does, with its traceback."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train.pretrain", "tests.ranks"])
    with tempfile.TemporaryDirectory() as folder:
        answers = context.SimpleQueue()
        processes = [
            context.Process(target=_rank, args=(rank, world, folder, answers, function, arguments))
            for rank in range(world)
        ]
        for process in processes:
            process.start()
        results = dict(_first(answers, processes) for _ in range(world))
        for process in processes:
            process.join(SECONDS)
    return [results[rank] for rank in range(world)]


def _first(answers, processes) -> tuple[int, Any]:
    """The next answer; where one is an error, or a process ends without any, all are stopped."""
    while answers.empty() and not any(process.exitcode for process in processes):
        multiprocessing.connection.wait([answers._reader, *(p.sentinel for p in processes if p.is_alive())], 1.0)
    rank, value, error = answers.get() if not answers.empty() else (-1, None, "a rank died")
    if error:
        for process in processes:
            process.kill()
        raise AssertionError(f"rank {rank}: {error}")
    return rank, value


def _rank(rank: int, world: int, folder: str, answers, function: Callable, arguments: tuple) -> None:
    torch.set_num_threads(1)
    os.environ.update(WORLD_SIZE=str(world), RANK=str(rank))
    try:
        if world > 1:
            store = dist.FileStore(str(Path(folder) / "store"), world)
            dist.init_process_group(
                "gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=SECONDS)
            )
        answers.put((rank, function(Ranks(rank, world, rank), *arguments), None))
    except BaseException:
        answers.put((rank, None, traceback.format_exc()))
    if dist.is_initialized():
        dist.destroy_process_group()
