"""The trainer: everything that all stages share, once.

Per step: this rank's rows of the global batch, in micro-batches; forward and backward of each (gradients are summed
over ranks during the last backward pass); sum(total) / sum(weight) over all of them as *the* loss; gradients scaled
to it; the global norm, clipped; a check that all is finite; the update. Then logging, evaluation, checkpoint,
signals.

Three properties hold by construction, and tests prove them:
- the loss and its gradient do not depend on how the global batch is split over micro-batches and ranks (but for
  rounding);
- data, masking and dropout are functions of (seed, position), so a resumed run repeats the uninterrupted one bit for
  bit (same device, same number of ranks, not compiled);
- a step whose loss or gradient is not finite is skipped on all ranks alike and counted.
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from configs import UserError
from data.batches import Batch, Rows
from data.order import key, rank_positions, samples_at
from model.load import WEIGHTS, restore_weights
from model.lora import ADAPTERS, trainable
from model.storage import encode_tensors
from train.checkpoint import Saver, newest_for_all
from train.config import TrainConfig
from train.distributed import Post, Ranks
from train.faults import Faults
from train.guard import Guard
from train.objectives import Objective
from train.optim import Optimizer, OptimizerConfig, ScheduleConfig, freeze
from train.parallel import compute_dtype, is_sharded, prepare_module, settle_buckets, wants_compile
from train.pieces import load_optimizer, save_optimizer
from train.run import STATE, RunFolder, TrainState, refuse_others
from train.sharded import gathered, global_norm, sharded_layer_norms, whole_weights
from train.track import Tracker, layer_norms, utilisation
from train.watchdog import Watchdog


class Pending(NamedTuple):
    """An update whose figures (loss, norm, weight, stop, healthy: float64 (5,)) are still on the device."""

    step: int
    first: int  # position of its first sample
    lr: float
    tokens: int
    figures: Tensor


class Trainer:
    """Trains `model` on `rows` with `objective` and writes to `run`.

    files: gives the files of a checkpoint that make the model usable (`model.load.model_files`).
    evaluate: gives a dictionary of figures for the metrics; called on all ranks.
    """

    def __init__(
        self,
        *,
        config: TrainConfig,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        model: nn.Module,
        objective: Objective,
        rows: Rows,
        run: RunFolder,
        ranks: Ranks,
        files: Callable[[], dict[str, bytes]],
        evaluate: Callable[[], dict[str, float]] | None = None,
        seed: int = 0,
    ):
        self.config, self.schedule, self.clip, self.seed = config, schedule, optimizer.clip, seed
        self.model, self.rows, self.run, self.ranks = model, rows, run, ranks
        self.files, self.evaluate = files, evaluate or dict
        rows_here = config.rows_per_rank(ranks.world)
        self.micro_batch = config.micro_batch or rows_here
        self.sharded = is_sharded(config.parallel, ranks)
        self.state = TrainState(world=ranks.world)
        self.guard = Guard(config.guard, ranks.device)
        self.faults = Faults(config.faults, ranks.rank)
        self.watchdog = Watchdog(ranks.rank, ranks.world, config.stall_seconds)
        self.saver = Saver(run.path, config.keep, self.faults, Post(ranks) if self.sharded else None)
        self.pending: list[Pending] = []
        freeze(model, optimizer.frozen)
        found = self.resume()
        self._say_what_trains(found is None)
        model.trunk.compute_dtype = compute_dtype(config.precision, ranks.device)
        compiled = wants_compile(config.compile, ranks)
        self.module = prepare_module(
            model, objective, config.parallel, config.activation_checkpointing, compiled, ranks
        )
        self.optimizer = Optimizer(model, optimizer)
        if found is not None:
            load_optimizer(self.optimizer, *found, self.sharded)
        self.settled = self.sharded or ranks.world <= 2
        if config.track and ranks.is_main:
            run.tracker = Tracker(run.path, self.state.step)
        self.asked = self.stop_signal = 0  # what this rank was told; what all have agreed on
        self.read_at = time.perf_counter()

    # Resume and save --------------------------------------------------------------------------------------------------

    def resume(self) -> tuple[Path, dict[str, bytes]] | None:
        """Take state and weights from the newest checkpoint that is intact for all ranks; the folder and its files.

        Every rank reads the whole weights, also where it will keep a part of them. None when there is no checkpoint.
        """
        found = newest_for_all(self.run.path, self.ranks, self.sharded)
        if found is None:
            self.run.forget_after(-1)
            return None
        folder, files = found
        refuse_others(folder, files, {STATE: b"", **self.files()}, unlike=(STATE, WEIGHTS, ADAPTERS))
        self.state = TrainState.from_json(files[STATE])
        self.guard.load_list(self.state.guard)
        restore_weights(self.model, files, str(folder))
        self.run.forget_after(self.state.step)
        if self.ranks.is_main:
            done = "finished" if self.state.finished else f"continuing at step {self.state.step}"
            print(f"{self.run.path}: {done} (checkpoint {folder.name})")
        return found

    def _say_what_trains(self, fresh: bool) -> None:
        """One line, and a record of a new run, where a part of the model is frozen."""
        some, all_of_them = trainable(self.model)
        if some < all_of_them and self.ranks.is_main:
            print(f"{some:,} of {all_of_them:,} parameters train ({some / all_of_them:.2%})")
            if fresh:
                self.run.log({"kind": "parameters", "step": 0, "trainable": some, "all": all_of_them})

    def save(self) -> None:
        """Copy this moment and have it written beside the training; old checkpoints are deleted after that."""
        self.state.guard = self.guard.to_list()
        files: dict[str, bytes] = {}
        weights = whole_weights(self.model, self.ranks) if self.sharded else {}
        if self.sharded or self.ranks.is_main:
            files = save_optimizer(self.optimizer, self.ranks, self.sharded)
        if self.ranks.is_main:
            files |= {WEIGHTS: encode_tensors(weights)} if self.sharded else {}
            files |= self.files()
            files[STATE] = self.state.to_json()
        if files:
            self.saver.save(self.state.step, files, self.state.best_step)

    # The loop ---------------------------------------------------------------------------------------------------------

    def fit(self) -> TrainState:
        """Train to the last step, or until SIGTERM or SIGINT, which save first. Returns the state reached.

        Raises UserError when the last checkpoint cannot be written or the guard has lost its patience.
        """
        config, state = self.config, self.state
        if state.finished:
            return state
        with self._signals(), self._tracking(), self.watchdog, self._bar() as bar:
            while state.step < config.steps and not self.stop_signal:
                self.launch()
                if self.reads_now():
                    record = self.read()
                    bar.update(state.step - bar.n)
                    bar.set_postfix(loss=f"{record['loss']:.3f}", tokens=f"{record['tokens_per_second']:,.0f}/s")
                    if self._due(config.log_every):
                        self.run.log({"kind": "train", "step": state.step, **record, **self._extras(record)})
                state.finished = state.step == config.steps
                improved = self._due(config.evaluate_every) and self._evaluate()
                if self.stop_signal or improved or self._due(config.save_every):
                    self.save()
        self.saver.finish()
        self.ranks.barrier()
        if self.stop_signal and self.ranks.is_main:
            name = signal.Signals(self.stop_signal).name
            print(f"{name}: saved step {state.step} in {self.run.path}; the same command continues", file=sys.stderr)
        return state

    def _due(self, every: int) -> bool:
        step = self.state.step
        return step == self.config.steps or bool(every and step % every == 0)

    def _extras(self, record: dict[str, float]) -> dict[str, float]:
        """Figures of the hardware, where they are known, and of the layers, where they are wanted."""
        extras = utilisation(self.model, self.model.config.context, record["tokens_per_second"], self.ranks)
        if not self.config.norms:
            return extras
        return extras | (
            sharded_layer_norms(self.optimizer.shards, self.ranks) if self.sharded else layer_norms(self.model)
        )

    def _evaluate(self) -> bool:
        """Log the held-out figures; whether their loss is the best so far. Each forward pass is progress."""
        progress = self.model.trunk.register_forward_hook(lambda *_: self.watchdog.mark())
        try:
            with gathered(self.module):
                figures = self.evaluate()
        finally:
            progress.remove()
        self.run.log({"kind": "evaluation", "step": self.state.step, **figures})
        improved = figures.get("loss", math.inf) < self.state.best_loss
        if improved:
            self.state.best_loss, self.state.best_step = figures["loss"], self.state.step
        return improved

    # One step ---------------------------------------------------------------------------------------------------------

    def step(self) -> dict[str, float]:
        """One update and its figures."""
        self.launch()
        return self.read()

    def launch(self) -> None:
        """One update. On a GPU the host does not wait for it; `read` fetches the figures of all updates since."""
        config, state, ranks = self.config, self.state, self.ranks
        if not self.pending:
            self.read_at = time.perf_counter()
        number = state.step + 1
        self.watchdog.begin(number)
        self.faults.before_step(number)
        positions = rank_positions(state.samples_seen, config.batch_size, ranks.rank, ranks.world)
        samples = samples_at(positions, len(self.rows), self.seed)
        batch = self.rows.batch(samples, positions).to(ranks.device)
        self.watchdog.mark()
        micro_batches = batch.split(self.micro_batch)
        if not self.settled:
            settle_buckets(self.module, micro_batches[0])
            self.settled = True
        torch.manual_seed(int(key(self.seed, state.step, ranks.rank) >> 1))  # dropout
        self.module.train()
        self.optimizer.zero_grad()
        sums = self._accumulate(micro_batches, number)
        total, weight, stop = ranks.sum(sums)
        loss = total / weight.clamp(min=1e-12)
        gradients = self.optimizer.gradients()
        norm = self._normalise_and_clip(gradients, weight)
        healthy = self.guard.judge(loss, norm) & (weight > 0)
        lr = self.schedule.factor(state.step, config.steps)
        self.optimizer.set_lr(lr)
        self.optimizer.step(healthy)
        figures = torch.stack([loss, norm.double(), weight, stop, healthy.double()])
        self.pending.append(Pending(number, state.samples_seen, lr, batch.tokens.numel() * ranks.world, figures))
        state.step += 1
        state.samples_seen += config.batch_size

    def _accumulate(self, micro_batches: list[Batch], number: int) -> Tensor:
        """Forward and backward of every micro-batch; (total, weight, stop signal) of this rank, float64 (3,)."""
        sums = torch.zeros(3, dtype=torch.float64, device=self.ranks.device)
        for index, micro in enumerate(micro_batches):
            with self._sync_if(index == len(micro_batches) - 1):
                terms = self.module(micro)
                self.watchdog.mark()
                total = self.faults.on_loss(terms.total, number)
                total.backward()
            self.watchdog.mark()
            sums[0] += total.detach()
            sums[1] += terms.weight
        sums[2] = self.asked
        return sums

    def _normalise_and_clip(self, gradients: list[Tensor], weight: Tensor) -> Tensor:
        """Turn summed gradients into those of the global mean and clip them; returns the norm before clipping."""
        factor = self.ranks.world / weight.clamp(min=1e-12)  # both kinds of parallelism have divided by the world
        torch._foreach_mul_(gradients, factor.to(gradients[0].dtype))
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.sharded:
            norm = global_norm(norm, self.ranks)
        torch.nn.utils.clip_grads_with_norm_(self.optimizer.shards.values(), self.clip, norm)
        return norm

    def reads_now(self) -> bool:
        """Whether to fetch figures after this step: on a CPU always, on a GPU where something is due."""
        config = self.config
        return self.ranks.device.type == "cpu" or any(
            self._due(every) for every in (config.log_every or 50, config.evaluate_every, config.save_every)
        )

    def read(self) -> dict[str, float]:
        """Count and judge the updates since the last reading; the figures of the newest.

        Raises UserError when the guard has refused `patience` steps in a row.
        """
        state, now = self.state, time.perf_counter()
        rows = torch.stack([pending.figures for pending in self.pending]).tolist()
        for pending, (loss, norm, weight, stop, healthy) in zip(self.pending, rows):
            self.stop_signal = self.stop_signal or int(stop > 0 and (self.asked or signal.SIGTERM))
            state.targets_seen += round(weight)
            state.skipped_in_a_row = 0 if healthy else state.skipped_in_a_row + 1
            if not healthy:
                state.skipped += 1
                positions = np.arange(pending.first, pending.first + self.config.batch_size)  # of all ranks
                samples = samples_at(positions, len(self.rows), self.seed).tolist()
                figures = {"loss": loss, "gradient_norm": norm, "samples": samples}
                self.run.log({"kind": "skipped", "step": pending.step, **figures})
                self._check_patience(pending.step)
        elapsed, self.read_at = now - self.read_at, now
        state.seconds += elapsed
        tokens = sum(pending.tokens for pending in self.pending)
        record = {"loss": loss, "lr_factor": self.pending[-1].lr, "gradient_norm": norm}
        self.pending.clear()
        return {**record, "tokens_per_second": tokens / elapsed}

    def _check_patience(self, step: int) -> None:
        patience = self.config.guard.patience
        if self.state.skipped_in_a_row >= patience:
            self.saver.finish()
            raise UserError(
                f"{patience} steps in a row up to step {step} had a loss or gradient that is not finite, or a spike; "
                "the weights are those of before. Lower optimizer.lr, or look at the samples named in "
                f"{self.run.path}/metrics.jsonl"
            )

    def _sync_if(self, last: bool):
        """DDP decides in the *forward* pass whether the backward pass will reduce (build-nanogpt#30)."""
        if last or not isinstance(self.module, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.module.no_sync()

    def _bar(self) -> tqdm:
        return tqdm(
            total=self.config.steps,
            initial=self.state.step,
            desc=self.run.path.name,
            unit="step",
            disable=not self.ranks.is_main,
            mininterval=0.5,
        )

    @contextlib.contextmanager
    def _tracking(self):
        """Close what mirrors the records; a later one would open it again."""
        try:
            yield
        finally:
            if self.run.tracker is not None:
                self.run.tracker.close()

    @contextlib.contextmanager
    def _signals(self):
        """SIGTERM and SIGINT ask for a save and the end; a second one acts at once.

        What one rank is asked goes to all with the sums of its next step, so that all end after the same one: a rank
        that left the loop by itself would leave the others waiting for it.
        """

        def ask(number, frame):
            self.asked = number
            if self.ranks.world == 1:
                self.stop_signal = number
            signal.signal(number, previous[number])

        previous = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
