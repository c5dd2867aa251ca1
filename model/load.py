"""From a run folder to a model that can be used: weights, tokenizer and chat format travel together in a checkpoint.

    loaded = load_run("runs/demo/sft")
    loaded.model, loaded.tokenizer, loaded.chat
    load_run("runs/demo/classify", heads=["classes"]).model.classes

What it leaves out: checkpoints of other programs, and weights that lie on several devices.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from configs import UserError, from_dict, to_dict
from data.chat import ChatFormat
from data.tokenizer import Tokenizer
from model.config import ModelConfig
from model.embedder import Embedder
from model.heads import HEADS, LANGUAGE_HEADS, Classifier, LanguageModel, Model, Scorer, SpanReader, ValuedModel
from model.lora import ADAPTERS, adapted, adapter_files, merged_parameters, restore_adapters
from model.storage import decode_tensors, encode_tensors, files_of_run

WEIGHTS, DESCRIPTION, TOKENIZER, CHAT = "model.safetensors", "model.json", "tokenizer.model", "chat.json"


@dataclass(frozen=True)
class LoadedModel:
    """A model with what belongs to it. `folder` is the checkpoint that it came from."""

    model: Model
    tokenizer: Tokenizer
    chat: ChatFormat
    folder: Path


def model_files(model: Model, tokenizer: Tokenizer, chat: ChatFormat) -> dict[str, bytes]:
    """The files of a checkpoint that make a model usable; `load_run` reads them.

    The weights of a model that is sharded over ranks are not among them: gathering them takes all ranks, and the
    trainer adds them (`train.sharded.whole_weights`), so that every checkpoint has them whole, in one file. Of a model
    with adapters (`model.lora`) they are merged, and what was trained comes in files of its own.
    """
    description = {
        "config": to_dict(model.config),
        "head": model.head_name,
        **({"classes": model.classes, "multiple": model.multiple} if isinstance(model, Classifier) else {}),
        **({"dimensions": model.dimensions} if isinstance(model, Embedder) else {}),
        "tokenizer_sha256": tokenizer.sha256,
    }
    parameters = merged_parameters(model)
    sharded = any(hasattr(parameter, "full_tensor") for parameter in parameters.values())  # a DTensor, unimported
    return {
        **({} if sharded else {WEIGHTS: encode_tensors(parameters)}),
        DESCRIPTION: json.dumps(description, indent=1).encode(),
        TOKENIZER: tokenizer.model_bytes,
        CHAT: json.dumps(to_dict(chat), indent=1).encode(),
        **adapter_files(model),
    }


def load_run(
    path: str | Path,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    heads: Collection[str] = LANGUAGE_HEADS,
) -> LoadedModel:
    """The model of a run folder (its newest intact checkpoint) or of one checkpoint folder.

    device: "cpu" or "cuda". dtype: of parameters and activations. heads: what the caller can use, of `HEADS`.
    Raises UserError when there is none, it is damaged, its parts do not belong together, it has another head, or the
    device is not there.
    """
    target = find_device(device)
    folder, files = files_of_run(path, [WEIGHTS, DESCRIPTION, TOKENIZER, CHAT])
    model, tokenizer, chat = model_from_files(files, folder)
    if isinstance(model, ValuedModel) and "value" not in heads:
        model = model.policy()
    if model.head_name not in heads:
        needed = " or ".join(map(repr, heads))
        raise UserError(f"{path} holds a model with the head {model.head_name!r}; use one with {needed}")
    model.to(device=target, dtype=dtype)
    model.trunk.compute_dtype = dtype
    return LoadedModel(model.eval(), tokenizer, chat, folder)


def find_device(name: str) -> torch.device:
    """The device of that name. Raises UserError when this machine or this PyTorch has none such."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):
        raise UserError(f"this PyTorch finds no device {name!r} here; use cpu") from None
    return torch.device(name)


def model_from_files(files: dict[str, bytes], folder: Path) -> tuple[Model, Tokenizer, ChatFormat]:
    """Build the model that `model_files` described; `folder` is named in errors."""
    try:
        description = json.loads(files[DESCRIPTION])
        config, head = from_dict(ModelConfig, description["config"]), description["head"]
        chat = from_dict(ChatFormat, json.loads(files[CHAT]))
        if head not in HEADS:
            raise ValueError(f"unknown head {head!r}")
        if head == "classes":
            _require_classes(description["classes"], description["multiple"])
        if head == "vectors" and (type(description["dimensions"]) is not int or description["dimensions"] < 0):
            raise ValueError("its dimensions are no whole number from 0")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{folder}/{DESCRIPTION} does not describe a model of this version ({error})") from None
    tokenizer = Tokenizer(files[TOKENIZER])
    if tokenizer.sha256 != description.get("tokenizer_sha256") or tokenizer.vocab_size > config.vocab_size:
        raise UserError(f"the tokenizer in {folder} is not the one that its model was trained with")
    tensors = decode_tensors(files[WEIGHTS], f"{folder}/{WEIGHTS}")
    if config.layers > len(tensors):
        raise UserError(f"{folder} holds another architecture: {config.layers} layers in {len(tensors)} tensors")
    try:
        with torch.device("meta"):
            model = _build(config, description)
    except RuntimeError as error:  # more numbers than can be counted
        raise UserError(f"{folder}/{DESCRIPTION} describes a model that cannot be ({error})") from None
    require_same(model, tensors, str(folder))  # before there is memory for it
    model.to_empty(device="cpu")
    if config.tie and isinstance(model, LanguageModel):
        model.head.output.weight = model.trunk.embedding.weight
    load_weights(model, tensors, str(folder))
    return model, tokenizer, chat


def _require_classes(classes: Any, multiple: Any) -> None:
    named = isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes)
    if not named or type(multiple) is not bool:
        raise ValueError("its classes have no names")


def _build(config: ModelConfig, description: dict[str, Any]) -> Model:
    if description["head"] == "classes":
        return Classifier(config, description["classes"], description["multiple"])
    if description["head"] == "vectors":
        return Embedder(config, description["dimensions"])
    plain = {"spans": SpanReader, "score": Scorer, "value": ValuedModel}.get(description["head"])
    return plain(config) if plain else LanguageModel(config, description["head"])


def restore_weights(model: torch.nn.Module, files: Mapping[str, bytes], source: str) -> None:
    """Give a model what was trained in the run whose checkpoint these files are: all of it, or its adapters.

    Raises UserError when it is that of another architecture.
    """
    if adapted(model):
        restore_adapters(model, files[ADAPTERS], f"{source}/{ADAPTERS}")
    else:
        load_weights(model, decode_tensors(files[WEIGHTS], source), source)


@torch.no_grad()
def load_weights(model: torch.nn.Module, tensors: dict[str, torch.Tensor], source: str) -> None:
    """Copy tensors into the parameters of the same names.

    Raises UserError, naming the first difference, when they are those of another architecture.
    """
    require_same(model, tensors, source)
    for name, parameter in model.named_parameters():
        parameter.copy_(tensors[name])


def require_same(model: torch.nn.Module, tensors: dict[str, torch.Tensor], source: str) -> None:
    """Raise UserError, naming the first difference, unless these are tensors for the parameters of the model."""
    parameters = dict(model.named_parameters())
    for name in sorted(parameters.keys() ^ tensors.keys()):
        where = "the model has no" if name in tensors else "the checkpoint lacks"
        raise UserError(
            f"{source} holds another architecture: {where} {name}; use the configuration that it was made with"
        )
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            raise UserError(
                f"{source} holds another architecture: {name} is {tuple(tensors[name].shape)} there and "
                f"{tuple(parameter.shape)} here; use the configuration that it was made with"
            )
