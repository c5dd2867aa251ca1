"""LoRA: a trained model is tuned by small matrices beside its own, which stay as they are (Hu et al. 2021).

    add_lora(model, LoraConfig(rank=8))         # wraps linear layers; nothing else of the model trains from now on
    merge(model), unmerge(model)                # into the weights and out again, bit for bit
    load_adapters(load_run(base).model, run)    # what a run learnt, onto the model that it started from

What it is. A linear layer W (N, M) becomes W x + alpha / rank * B A x with A (rank, M) random and B (N, rank) zero, so
that at first nothing changes. Only A and B are trained: rank * (N + M) numbers instead of N * M, and so much less for
the optimizer to remember. Added up, W + alpha / rank * B A is a layer like any other.

Checkpoints of such a run hold the sums where other runs have their weights, so all that reads a model reads these; and,
apart in `adapters.safetensors`, what was trained, with which the run itself goes on. They fit one base only, so the
digest of that is kept with them.

Queries, keys and values are layers of their own here, each with its adapter. An embedding can have one too
("trunk.embedding"): its rows are E + alpha / rank * B A, and where the output matrix is tied to it, that is this sum as
well; for a task that writes otherwise than the base does, that was what adapters of the blocks missed (results/LOG.md).
A head that names classes or finds spans is new in its run: it is trained whole.

What it leaves out. Adapters of norms, several adapters at a time, and weights divided over ranks.
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs import UserError, check, from_dict, to_dict
from model.heads import LanguageHead
from model.storage import decode_tensors, encode_tensors, files_of_run, read_folder
from model.transformer import Linear

ADAPTERS, NOTES = "adapters.safetensors", "adapters.json"


@dataclass(frozen=True)
class LoraConfig:
    """rank: of the update of each layer; 0: no adapters, the model trains as it is. alpha: the update counts alpha /
    rank. dropout: of what the adapter of a linear layer reads. targets: patterns of names of linear layers and
    embeddings; * stands for anything.
    """

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("trunk.blocks.*",)

    def __post_init__(self):
        problems = [] if self.rank >= 0 else [f"rank must not be negative, got {self.rank}"]
        if not self.alpha > 0:
            problems.append(f"alpha must be positive, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if self.rank and not self.targets:
            problems.append("targets must name layers, such as 'trunk.blocks.*'")
        check(problems)


class Adapted(nn.Module):
    """A layer with a matrix W (N, M) and an adapter: `down` (rank, M) is A, `up` (N, rank) is B. `kept`: W, while it
    is merged."""

    weight: nn.Parameter

    def _adapt(self, weight: nn.Parameter, config: LoraConfig) -> None:
        self.weight, self.scale = weight, config.alpha / config.rank
        self.down = nn.Parameter(weight.new_empty(config.rank, weight.shape[1]))
        self.up = nn.Parameter(weight.new_zeros(weight.shape[0], config.rank))
        nn.init.normal_(self.down, std=weight.shape[1] ** -0.5)
        self.kept: Tensor | None = None

    def matrix(self) -> Tensor:
        """W + alpha / rank * B A."""
        return self.weight if self.kept is not None else self.weight + self.scale * (self.up @ self.down)

    def beside(self, x: Tensor, dropout: float = 0.0) -> Tensor | float:
        """alpha / rank * B A x, or 0 while it is merged."""
        if self.kept is not None:
            return 0.0
        low = F.linear(F.dropout(x, dropout, self.training), self.down.to(x.dtype))
        return self.scale * F.linear(low, self.up.to(x.dtype))


class LoraLinear(Adapted, Linear):
    """A linear layer with an adapter."""

    def __init__(self, layer: Linear, config: LoraConfig):
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.bias, self.dropout = layer.bias, config.dropout
        self._adapt(layer.weight, config)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.beside(x, self.dropout)


class LoraEmbedding(Adapted, nn.Embedding):
    """An embedding with an adapter."""

    def __init__(self, layer: nn.Embedding, config: LoraConfig):
        super().__init__(*layer.weight.shape, device="meta")
        self._adapt(layer.weight, config)

    def forward(self, tokens: Tensor) -> Tensor:
        rows = super().forward(tokens)
        return rows if self.kept is not None else rows + self.scale * (F.embedding(tokens, self.up) @ self.down)


class TiedOutput(Linear):
    """The output matrix of a language model that is its embedding, where this has an adapter."""

    def __init__(self, embedding: LoraEmbedding):
        super().__init__(embedding.embedding_dim, embedding.num_embeddings, bias=False, device="meta")
        self.weight = embedding.weight
        self.embedding = (embedding,)  # in a tuple: it is a part of the trunk, and not one of this layer

    def matrix(self) -> Tensor:
        return self.embedding[0].matrix()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.embedding[0].beside(x)


def add_lora(model: nn.Module, config: LoraConfig) -> None:
    """Put adapters beside the layers that `config.targets` names, and freeze the rest but for a head that is new.

    Does nothing where the rank is 0. A is drawn from torch's generator: seed it alike on all ranks.
    Raises UserError for a pattern that names no such layer, and for a rank that is no saving in one of them.
    """
    if not config.rank:
        return
    embedding = model.trunk.embedding
    tied = isinstance(model.head, LanguageHead) and model.head.output.weight is embedding.weight
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, Linear | nn.Embedding) and not (tied and name == "head.output")
    }
    chosen = matching(config.targets, layers, "lora.targets")
    for name in chosen:
        smaller = min(layers[name].weight.shape)
        if config.rank > smaller:
            raise UserError(f"lora.rank={config.rank} is above {smaller}, the smaller side of {name}; give less")
    model.lora_notes = {"config": to_dict(config), "base_sha256": digest(model.trunk.named_parameters())}
    for part in (model.trunk, model.head) if isinstance(model.head, LanguageHead) else (model.trunk,):
        part.requires_grad_(False)
    for name in chosen:
        parent, _, last = name.rpartition(".")
        kind = LoraEmbedding if isinstance(layers[name], nn.Embedding) else LoraLinear
        setattr(model.get_submodule(parent), last, kind(layers[name], config).train(model.training))
    if tied and model.trunk.embedding is not embedding:
        model.head.output = TiedOutput(model.trunk.embedding).train(model.training)


def adapted(model: nn.Module) -> dict[str, Adapted]:
    """The layers that have an adapter, by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, Adapted)}


def merge(model: nn.Module) -> None:
    """Add the adapters to the weights; they are at rest until `unmerge`."""
    for layer in adapted(model).values():
        if layer.kept is None:
            whole, layer.kept = layer.matrix().detach(), layer.weight.detach().clone()
            layer.weight.data.copy_(whole)


def unmerge(model: nn.Module) -> None:
    """The weights as they were before `merge`, bit for bit."""
    for layer in adapted(model).values():
        if layer.kept is not None:
            layer.weight.data.copy_(layer.kept)
            layer.kept = None


def trainable(model: nn.Module) -> tuple[int, int]:
    """How many numbers are trained, and how many there are (of a model with adapters, with these)."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)


# Checkpoints ---------------------------------------------------------------------------------------------------------


def merged_parameters(model: nn.Module) -> dict[str, Tensor]:
    """The parameters of the model without adapters that computes the same; of one that has none, its own."""
    layers = adapted(model)
    own = {f"{name}.{side}" for name in layers for side in ("down", "up")}
    wholes = {f"{name}.weight": layer.matrix().detach() for name, layer in layers.items()}
    return {name: wholes.get(name, p) for name, p in model.named_parameters() if name not in own}


def adapter_files(model: nn.Module) -> dict[str, bytes]:
    """Everything that was trained, and what it belongs to; no file for a model without adapters."""
    if not adapted(model):
        return {}
    notes = json.dumps(model.lora_notes, indent=1).encode()
    return {ADAPTERS: encode_tensors(dict(_own(model))), NOTES: notes}


def _own(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """What a run with adapters does not share with its base; adapters that are frozen too."""
    layers = adapted(model)
    for name, parameter in model.named_parameters():
        layer, _, side = name.rpartition(".")
        if parameter.requires_grad or (layer in layers and side in ("down", "up")):
            yield name, parameter


@torch.no_grad()
def restore_adapters(model: nn.Module, raw: bytes, source: str) -> None:
    """Give a model with adapters what `adapter_files` wrote. Raises UserError for those of other layers."""
    tensors, own = decode_tensors(raw, source), dict(_own(model))
    shapes = [{name: tuple(each.shape) for name, each in part.items()} for part in (tensors, own)]
    if shapes[0] != shapes[1]:
        first = min(name for name, _ in shapes[0].items() ^ shapes[1].items())
        raise UserError(f"the adapters in {source} are those of other layers or of another rank, as for {first}")
    for name, parameter in own.items():
        parameter.copy_(tensors[name])


def load_adapters(model: nn.Module, path: str | Path) -> None:
    """Add the adapters of a run folder (or a checkpoint folder) to the model that this run started from.

    Raises UserError when there are none, or when the model is another one.
    """
    folder, _ = files_of_run(path, [])
    if not (folder / NOTES).exists():
        raise UserError(f"{folder} holds no adapters; give the folder of a run with lora.rank above 0")
    files = read_folder(folder, [ADAPTERS, NOTES])
    try:
        notes = json.loads(files[NOTES])
        config, base = from_dict(LoraConfig, notes["config"]), notes["base_sha256"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}/{NOTES} does not describe adapters of this version ({error})") from None
    if base != digest(model.trunk.named_parameters()):
        raise UserError(f"the adapters in {folder} belong to another model; load the one that their run started from")
    add_lora(model, config)
    restore_adapters(model, files[ADAPTERS], str(folder))


def digest(parameters: Iterable[tuple[str, Tensor]]) -> str:
    """A hash of names and numbers."""
    found = hashlib.sha256()
    for name, parameter in parameters:
        found.update(name.encode())
        found.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


# Names ---------------------------------------------------------------------------------------------------------------


def matching(patterns: Iterable[str], names: Collection[str], setting: str) -> list[str]:
    """The names that fit one of the patterns (`fnmatch`), in their order.

    Raises UserError, which says what is near, for a pattern that no name fits.
    """
    found: set[str] = set()
    for pattern in patterns:
        fitting = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not fitting:
            kinds = list(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names))
            near = ", ".join(difflib.get_close_matches(pattern, kinds, 4, 0))
            raise UserError(f"{setting}: {pattern!r} names nothing in this model; near are {near}")
        found.update(fitting)
    return [name for name in names if name in found]
