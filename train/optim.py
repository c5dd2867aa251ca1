"""Optimizers and learning-rate schedules.

- `adamw` (Loshchilov and Hutter 2019) for everything, with torch's fused kernel (2.6 times faster on the CPU we
  measured).
- `muon` (Jordan et al. 2024): the matrices inside the blocks are updated by the orthogonalised
  momentum, everything else (embeddings, output matrix, norms, biases) by AdamW. The update is scaled to the root mean
  square of an AdamW update ("match_rms_adamw", Liu et al. 2025), so that one learning rate fits both.

Weight decay applies to matrices, not to vectors. Which parameter goes where is decided by `parameter_groups`, once.

Tuning a part. `frozen` names parameters that keep their values: no gradient is computed for them and nothing is
remembered. `layer_decay` makes layers near the input learn more slowly, for they hold what is most general (Howard and
Ruder 2018; as ELECTRA has it, Clark et al. 2020): the rate of a parameter is lr * layer_decay ** (layers above it).

Of parameters that are sharded over ranks (`train.sharded`) each rank updates its own rows, as plain tensors. That is
all there is to AdamW, which treats every number by itself; Muon needs whole matrices: see `orthogonalise_rows`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from configs import UserError, check
from model.lora import matching
from train.sharded import orthogonalise_rows, rows_here

COUNTER = "step"
MEMORY = {True: {COUNTER, "exp_avg", "exp_avg_sq"}, False: {"momentum_buffer"}}  # of a parameter: AdamW's, Muon's


@dataclass(frozen=True)
class OptimizerConfig:
    """lr is the peak of the schedule, for AdamW and (times `muon_factor`) for Muon's matrices.

    frozen: patterns of names of parameters that do not train; * stands for anything. layer_decay: see `layers_above`.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    muon_factor: float = 1.0
    momentum: float = 0.95
    clip: float = 1.0
    frozen: tuple[str, ...] = ()
    layer_decay: float = 1.0

    def __post_init__(self):
        problems = [
            f"{name} must be positive, got {getattr(self, name)}"
            for name in ("lr", "eps", "muon_factor", "clip")
            if not getattr(self, name) > 0
        ]
        problems += [
            f"{name} must be at least 0 and below 1, got {getattr(self, name)}"
            for name in ("beta1", "beta2", "momentum")
            if not 0 <= getattr(self, name) < 1
        ]
        if self.weight_decay < 0:
            problems.append(f"weight_decay must not be negative, got {self.weight_decay}")
        if not 0 < self.layer_decay <= 1:
            problems.append(f"layer_decay must be above 0 and at most 1, got {self.layer_decay}")
        check(problems)


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over the steps: linear warmup, then one of

    constant; linear or cosine (Loshchilov and Hutter 2017) down to `floor` times the peak at the last step; wsd:
    constant, then linear over the last `decay` share of the steps (warmup-stable-decay, Hu et al. 2024). `warmup` is
    in steps.
    """

    kind: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    warmup: int = 20
    floor: float = 0.0
    decay: float = 0.4

    def __post_init__(self):
        problems = []
        if self.warmup < 0:
            problems.append(f"warmup must not be negative, got {self.warmup}")
        if not 0 <= self.floor <= 1:
            problems.append(f"floor must lie between 0 and 1, got {self.floor}")
        if not 0 < self.decay <= 1:
            problems.append(f"decay must be above 0 and at most 1, got {self.decay}")
        check(problems)

    def factor(self, step: int, steps: int) -> float:
        """Learning rate of update number `step` (from 0) of `steps`, as a share of the peak."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        done = (step - self.warmup) / max(steps - self.warmup, 1)
        if self.kind == "constant":
            return 1.0
        if self.kind == "wsd":
            start = max(1 - self.decay, 0)
            done = max(done - start, 0) / (1 - start)
        down = 0.5 * (1 + math.cos(math.pi * done)) if self.kind == "cosine" else 1 - done
        return self.floor + (1 - self.floor) * down


def freeze(model: nn.Module, patterns: Iterable[str]) -> None:
    """Parameters that a pattern names do not train from now on; to be called before the model is divided or copied.

    Raises UserError for a pattern that names none, and where nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    for name in matching(patterns, parameters, "optimizer.frozen"):
        parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UserError("optimizer.frozen leaves nothing to train; name fewer parameters")


def layers_above(name: str, blocks: int) -> int:
    """How many layers lie above a parameter: 0 for a head and the last norm, 1 for those of the last of so many blocks,
    blocks + 1 for embeddings (a tied output matrix is one of these)."""
    if found := re.search(r"(?:^|\.)blocks\.(\d+)\.", name):
        return blocks - int(found[1])
    return blocks + 1 if re.search(r"(?:^|\.)trunk\.(?:embedding|position)", name) else 0


def parameter_groups(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """Parameters by name in three groups: `hidden` matrices (those inside blocks), other `matrices`, `vectors`."""
    groups: dict[str, dict[str, nn.Parameter]] = {"hidden": {}, "matrices": {}, "vectors": {}}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            groups["vectors"][name] = parameter
        else:
            groups["hidden" if ".blocks." in f".{name}" else "matrices"][name] = parameter
    return groups


# Muon ----------------------------------------------------------------------------------------------------------------

COEFFICIENTS = (3.4445, -4.775, 2.0315)  # of the quintic iteration; they make its slope at zero steep
ITERATIONS = 5


def newton_schulz(matrix: Tensor) -> Tensor:
    """The nearest (half-)orthogonal matrix, roughly: singular values between 0.5 and 1.5 or so. (M, N) -> bfloat16."""
    a, b, c = COEFFICIENTS
    x = matrix.bfloat16()
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Momentum of matrices, made orthogonal, with Nesterov's look ahead and decoupled weight decay.

    Equal to `torch.optim.Muon(..., adjust_lr_fn="match_rms_adamw")` to the bit; this one can be given rows only.
    params: matrices, or groups of them with settings of their own. shapes: of the whole matrices. orthogonalise: takes
    what this rank has of some matrices, and the parameters that these are of, and gives as much of the orthogonal ones,
    in order; by default the matrices are whole.
    """

    def __init__(
        self,
        params: list[nn.Parameter] | list[dict[str, Any]],
        shapes: list[torch.Size],
        lr: float,
        weight_decay: float,
        momentum: float,
        orthogonalise: Callable[[Iterable[Tensor], list[nn.Parameter]], Iterable[Tensor]] | None = None,
    ):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.shapes = dict(zip((p for group in self.param_groups for p in group["params"]), shapes))
        self.orthogonalise = orthogonalise or (lambda matrices, params: map(newton_schulz, matrices))

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            ahead = (self._look_ahead(p, group["momentum"]) for p in params)
            for p, update in zip(params, self.orthogonalise(ahead, params)):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * (0.2 * math.sqrt(max(self.shapes[p]))))

    def _look_ahead(self, p: nn.Parameter, momentum: float) -> Tensor:
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        return p.grad.lerp(state["momentum_buffer"].lerp_(p.grad, 1 - momentum), momentum)


# Both together -------------------------------------------------------------------------------------------------------


class Optimizer:
    """One or two torch optimizers that act as one; its state is a flat dictionary of named tensors.

    `set_lr(factor)`, `gradients()`, `step(healthy)`, `zero_grad()`, `state_tensors()`, `load_state_tensors(tensors)`.

    parameters: those of the model, by name. shards: what of each lies on this rank, in the same memory; where nothing
    is sharded, the parameters themselves.
    """

    def __init__(self, model: nn.Module, config: OptimizerConfig):
        groups = parameter_groups(model)
        self.parameters = {name: p for group in groups.values() for name, p in group.items()}
        self.shards = {name: rows_here(p) for name, p in self.parameters.items()}
        self.parts: list[torch.optim.Optimizer] = []
        self.base_lr: list[list[float]] = []
        self.owner: dict[nn.Parameter, torch.optim.Optimizer] = {}
        self.rates = self._rates(model, config.layer_decay)
        decayed = [*groups["matrices"]]
        if config.kind == "muon":
            self._add_muon(groups["hidden"], config)
        else:
            decayed += groups["hidden"]
        adamw = [
            *self._by_rate(decayed, config.lr, weight_decay=config.weight_decay),
            *self._by_rate(groups["vectors"], config.lr, weight_decay=0.0),
        ]
        betas = (config.beta1, config.beta2)
        if adamw:
            self._add(torch.optim.AdamW(adamw, config.lr, betas, config.eps, fused=True))

    def _add_muon(self, hidden: dict[str, nn.Parameter], config: OptimizerConfig) -> None:
        if not hidden:
            return
        wholes = {self.shards[name]: p for name, p in hidden.items()}
        divided = any(shard is not p for shard, p in wholes.items())

        def work(rows: Iterable[Tensor], params: list[nn.Parameter]) -> Iterable[Tensor]:
            return orthogonalise_rows(newton_schulz, rows, [wholes[p] for p in params])

        lr = config.lr * config.muon_factor
        by_rate = self._by_rate(hidden, lr)
        shapes = [wholes[p].shape for group in by_rate for p in group["params"]]
        self._add(Muon(by_rate, shapes, lr, config.weight_decay, config.momentum, work if divided else None))

    def _rates(self, model: nn.Module, decay: float) -> dict[str, float]:
        """The learning rate of each parameter as a share of the full one."""
        names = [name for name, _ in model.named_parameters()]
        numbers = [int(found[1]) for name in names if (found := re.search(r"(?:^|\.)blocks\.(\d+)\.", name))]
        blocks = max(numbers, default=-1) + 1
        return {name: decay ** layers_above(name, blocks) for name in self.parameters}

    def _by_rate(self, names: Iterable[str], lr: float, **settings: float) -> list[dict[str, Any]]:
        """Groups for torch, one for each rate."""
        found: dict[float, list[Tensor]] = {}
        for name in names:
            found.setdefault(self.rates[name], []).append(self.shards[name])
        return [{"params": shards, "lr": lr * rate, **settings} for rate, shards in found.items()]

    def _add(self, part: torch.optim.Optimizer) -> None:
        self.parts.append(part)
        self.base_lr.append([group["lr"] for group in part.param_groups])
        self.owner |= {parameter: part for group in part.param_groups for parameter in group["params"]}

    def set_lr(self, factor: float) -> None:
        """Set every learning rate to `factor` times its peak."""
        for part, peaks in zip(self.parts, self.base_lr):
            for group, peak in zip(part.param_groups, peaks):
                group["lr"] = peak * factor

    def gradients(self) -> list[Tensor]:
        """What of each gradient lies on this rank, after the backward pass; from now on `shards` have them too."""
        for name, p in self.parameters.items():
            if self.shards[name] is not p:
                self.shards[name].grad = None if p.grad is None else p.grad.to_local()
        return [shard.grad for shard in self.shards.values() if shard.grad is not None]

    def step(self, healthy: Tensor) -> None:
        """Update where `healthy` (bool scalar on the device) is true; else nothing changes, no counter either.

        On a CPU its value is simply read. On a GPU it is not, so that the host does not wait: AdamW's kernel takes it
        as "an infinity was found", and what Muon changed is put back.
        """
        if healthy.device.type == "cpu":
            if healthy:
                for part in self.parts:
                    part.step()
            return
        for part in self.parts:
            if isinstance(part, torch.optim.AdamW):
                part.grad_scale, part.found_inf = None, (~healthy).float()
                part.step()
                continue
            tensors = [p for group in part.param_groups for p in group["params"]]
            before = {tensor: tensor.detach().clone() for tensor in self._touched(part, tensors)}
            part.step()
            for tensor in self._touched(part, tensors):
                kept = before.get(tensor)
                tensor.data.copy_(torch.where(healthy, tensor, torch.zeros_like(tensor) if kept is None else kept))

    @staticmethod
    def _touched(part: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> list[Tensor]:
        states = [v for p in parameters for v in part.state.get(p, {}).values() if isinstance(v, Tensor)]
        return [*parameters, *states]

    def zero_grad(self) -> None:
        for parameter in (*self.parameters.values(), *self.shards.values()):
            parameter.grad = None

    def state_tensors(self) -> dict[str, Tensor]:
        """Everything the optimizer remembers on this rank, as `name of the parameter/name of the state`."""
        return {
            f"{name}/{key}": value
            for name, shard in self.shards.items()
            for key, value in self.owner[shard].state.get(shard, {}).items()
        }

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state_tensors`. Raises UserError for a state of other parameters or another optimizer."""
        for part in self.parts:
            part.state.clear()
        for full_name, value in tensors.items():
            name, _, key = full_name.rpartition("/")
            if name not in self.shards:
                raise UserError(f"the optimizer state has {name!r}, which is no parameter of this model")
            shard = self.shards[name]
            if value.shape != (torch.Size() if key == COUNTER else shard.shape):
                raise UserError(f"the optimizer state {full_name} is {tuple(value.shape)}, unlike its parameter")
            self.owner[shard].state[shard][key] = value.to(shard.device, copy=True)
        for name, shard in self.shards.items():
            found = self.owner[shard].state.get(shard, {}).keys()
            if found and found != MEMORY[isinstance(self.owner[shard], torch.optim.AdamW)]:
                raise UserError(f"the optimizer state of {name} ({', '.join(found)}) is that of another optimizer")
