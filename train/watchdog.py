"""The watchdog: a rank that is stuck ends the job, and says which rank it was.

A collective waits for all ranks; when one hangs, the others wait with it, for minutes by default, and then complain
about themselves. Here every rank has a thread that publishes how far it is (in the store of the process group) and
watches its own: the step, and the marks it has passed within the step (batch ready, each forward pass, each backward
pass), because the ranks that wait stand in the same step as the one that hangs. When that has not moved for
`seconds`, the thread reads what the others published, prints the culprit with its step and the stack of this process,
and ends it with exit code 3; torchrun then ends the rest. A rank that *dies* needs no watchdog: torchrun sees it at
once.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time

import torch.distributed as dist

EXIT_CODE = 3


Place = tuple[int, int]  # step, marks passed in it


class Watchdog:
    """Watches one rank: a context manager around the training loop.

    `begin(step)` says that a step has begun, `mark()` that one more of its parts is done. seconds: 0 watches nothing.
    """

    def __init__(self, rank: int, world: int, seconds: float):
        self.rank, self.world, self.seconds = rank, world, seconds
        self.place: Place = (0, 0)
        self.moved = time.monotonic()
        self._stop = threading.Event()

    def __enter__(self) -> Watchdog:
        self.moved = time.monotonic()
        if self.seconds:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self._stop.set()
        if isinstance(error, RuntimeError) and self.world > 1:  # what a collective raises when another rank is gone
            print(f"error: rank {self.rank} ends in step {self.place[0]}: {error}", file=sys.stderr, flush=True)

    def begin(self, step: int) -> None:
        self.place, self.moved = (step, 0), time.monotonic()

    def mark(self) -> None:
        self.place, self.moved = (self.place[0], self.place[1] + 1), time.monotonic()

    def _watch(self) -> None:
        store = dist.PrefixStore("watchdog", dist.distributed_c10d._get_default_store()) if self.world > 1 else None
        while not self._stop.wait(min(1.0, self.seconds / 5)):
            with contextlib.suppress(RuntimeError):  # the store is gone with the process that held it
                if store is not None:
                    store.set(str(self.rank), "{} {}".format(*self.place))
            if time.monotonic() - self.moved > self.seconds:
                print(self.verdict(self._places(store)), file=sys.stderr, flush=True)
                faulthandler.dump_traceback(all_threads=True)
                os._exit(EXIT_CODE)

    def _places(self, store) -> dict[int, Place]:
        """Where each rank said it was; (-1, 0) for a rank that never did. Our own alone when none can be asked."""
        if store is None:
            return {self.rank: self.place}
        keys = [str(rank) for rank in range(self.world)]
        try:
            found = [tuple(map(int, store.get(key).split())) if store.check([key]) else (-1, 0) for key in keys]
        except RuntimeError:
            return {self.rank: self.place}
        return dict(enumerate(found))

    def verdict(self, places: dict[int, Place]) -> str:
        """One sentence that names the ranks that are behind, or all where none is."""
        furthest = max(places.values())
        behind = [rank for rank, place in places.items() if place < furthest] or list(places)
        named = ", ".join(f"rank {rank} in step {places[rank][0]}" for rank in behind)
        others = "" if len(behind) == len(places) else f" (the others wait for it in step {furthest[0]})"
        return f"error: no progress for {self.seconds:g} s: {named}{others}; rank {self.rank} ends the job"
