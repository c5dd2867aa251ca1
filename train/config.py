"""How a stage trains: the table [train] of its TOML file, the same for all stages (see `train.trainer`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from configs import UserError, check
from train.faults import problems as fault_problems
from train.guard import GuardConfig
from train.parallel import Parallel


@dataclass(frozen=True)
class TrainConfig:
    """How long, how much at a time, and on what.

    steps            optimizer updates
    batch_size       rows of one update, over all ranks
    micro_batch      rows of one forward pass on one rank; 0: all of the rank's rows at once
    precision        "float32", "bfloat16" (activations and matrix products; parameters stay float32), or "auto":
                     bfloat16 where the hardware multiplies it
    compile          "on", "off", or "auto": where a compiler is found
    parallel         "ddp": a whole model on each rank; "fsdp": each rank holds its part, see `train.sharded`
    activation_checkpointing   "none", or "blocks": a block is computed again in the backward pass
    device, threads  see `train.distributed.setup`
    log_every, evaluate_every, save_every   in steps; 0: only at the end
    keep             checkpoints that are kept, besides the one with the best held-out loss; 0: all
    norms            log gradient and weight norms of every layer too
    track            mirror the records to TensorBoard (needs the [track] extra)
    stall_seconds    a rank without progress for so long ends the job, see `train.watchdog`; 0: never
    guard            which steps are refused, see `train.guard`
    faults           for tests, see `train.faults`
    """

    steps: int = 100
    batch_size: int = 16
    micro_batch: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    parallel: Parallel = "ddp"
    activation_checkpointing: Literal["none", "blocks"] = "none"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    log_every: int = 10
    evaluate_every: int = 0
    save_every: int = 0
    keep: int = 2
    norms: bool = False
    track: bool = False
    stall_seconds: float = 1800.0
    guard: GuardConfig = field(default_factory=GuardConfig)
    faults: tuple[str, ...] = ()

    def __post_init__(self):
        problems = [
            f"{n} must be positive, got {getattr(self, n)}" for n in ("steps", "batch_size") if getattr(self, n) < 1
        ]
        problems += [
            f"{name} must not be negative, got {getattr(self, name)}"
            for name in ("micro_batch", "threads", "log_every", "evaluate_every", "save_every", "keep", "stall_seconds")
            if getattr(self, name) < 0
        ]
        check(problems + fault_problems(self.faults))

    def rows_per_rank(self, world: int) -> int:
        """Raises UserError when the batch cannot be split evenly."""
        if self.batch_size % world:
            raise UserError(f"train.batch_size ({self.batch_size}) must be a multiple of the {world} ranks")
        rows = self.batch_size // world
        if rows % (self.micro_batch or rows):
            raise UserError(f"the {rows} rows of a rank must be a multiple of train.micro_batch ({self.micro_batch})")
        return rows
