"""What `train.classify` and `train.extract` share: where a model starts, rows of one text each, new texts from a file.

A text is `<bos>` and its tokens: what an encoder has seen in its pretraining. Each text is a row of its own, padded to
the longest of the batch, rounded up to whole multiples of `STEP`, so that a compiled model meets few shapes. Padding
has no document (`data.batches`), and nothing that is computed for a text depends on it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs import UserError
from data.batches import PADDING, Batch
from data.chat import ChatFormat
from data.files import whole_file
from data.formats import Row, read_rows
from data.tokenizer import Tokenizer
from data.vocabulary import TokenizerConfig
from model.config import ModelConfig
from model.embedder import text_ids
from model.heads import HEADS, Model
from model.load import LoadedModel, load_run
from model.transformer import Transformer
from train.config import TrainConfig
from train.distributed import Ranks
from train.pretrain import sized_model

STEP = 32
BATCH_ROWS = 64  # of an evaluation


class TextRows:
    """Rows for the trainer: text i is `ids[i]`, at most `context` of them, with `targets[i]` (N, ...).

    A batch has `targets` (B, ...), and `weights` (B, T): 1 at the real tokens from place `begins[i]` on (from the first
    where no `begins` are given), which are those that the objective looks at.
    """

    def __init__(
        self,
        ids: Sequence[Sequence[int]],
        targets: Tensor,
        context: int,
        pad: int,
        begins: Sequence[int] | None = None,
    ):
        self.ids, self.targets, self.context, self.pad = ids, targets, context, pad
        self.begins = begins or [0] * len(ids)

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, samples: np.ndarray, positions: np.ndarray) -> Batch:
        chosen = [self.ids[int(sample)] for sample in samples]
        length = min(self.context, -(-max(map(len, chosen)) // STEP) * STEP)
        tokens = torch.full((len(chosen), length), self.pad)
        documents = torch.full((len(chosen), length), PADDING, dtype=torch.int32)
        weights = torch.zeros(len(chosen), length)
        for row, (ids, sample) in enumerate(zip(chosen, samples)):
            tokens[row, : len(ids)] = torch.tensor(ids)
            documents[row, : len(ids)] = 0
            weights[row, self.begins[int(sample)] : len(ids)] = 1
        numbers = torch.from_numpy(np.asarray(samples, np.int64))
        places = torch.arange(length).expand(len(chosen), length)
        return Batch(tokens, self.targets[numbers], weights, documents, places, numbers)

    def batches_of(self, ranks: Ranks, device: torch.device) -> Iterator[Batch]:
        """This rank's part of all rows, once, in order."""
        mine = np.arange(ranks.rank, len(self), ranks.world)
        for start in range(0, len(mine), BATCH_ROWS):
            samples = mine[start : start + BATCH_ROWS]
            yield self.batch(samples, samples).to(device)


def encode_texts(texts: Sequence[str], tokenizer: Tokenizer, context: int) -> tuple[list[list[int]], int]:
    """What `text_ids` gives, and how many texts were cut."""
    found = text_ids(texts, tokenizer, context + 1)
    return [ids[:context] for ids in found], sum(len(ids) > context for ids in found)


# Where a model starts ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """The architecture, tokenizer and chat format of a new model, and the trunk that it takes over, if any."""

    config: ModelConfig
    tokenizer: Tokenizer
    chat: ChatFormat
    trunk: Transformer | None

    def give(self, model: Model) -> None:
        """Copy the trunk's weights into the model."""
        if self.trunk is not None:
            model.trunk.load_state_dict(self.trunk.state_dict())


def start_from(init: str, model: ModelConfig, tokenizer: TokenizerConfig, texts: Iterable[str], ranks: Ranks) -> Start:
    """The trunk of a run, whatever its head, with its tokenizer; or, where `init` is "", a fresh model of this
    configuration, with a tokenizer that is learnt from the texts to train on.
    """
    if init:
        loaded = load_run(init, heads=HEADS)
        return Start(loaded.model.config, loaded.tokenizer, loaded.chat, loaded.model.trunk)
    raw = Tokenizer.train(texts, tokenizer).model_bytes if ranks.is_main else b""
    learnt = Tokenizer(ranks.from_main(raw))
    return Start(sized_model(model, learnt), learnt, ChatFormat(), None)


def start_problems(config: Any) -> list[str]:
    """What is wrong with what a configuration starts from (`init` or `model` and `tokenizer`; `lora`, `epochs`)."""
    epochs = getattr(config, "epochs", 0)
    problems = [f"epochs must not be negative, got {epochs}"] if epochs < 0 else []
    if config.init and (config.model, config.tokenizer) != (ModelConfig(), TokenizerConfig()):
        problems.append("model and tokenizer are those of init: leave out either init or [model] and [tokenizer]")
    if config.lora.rank and not config.init:
        problems.append("lora.rank needs init: adapters stand beside a model that has learnt")
    return problems


def file_problems(data: Any, amount: str) -> list[str]:
    """What is wrong with data from files (`paths`, `validation_paths`, `validation`) or from the world (`amount`)."""
    problems = [] if 0 < data.validation < 1 else [f"validation must lie between 0 and 1, got {data.validation}"]
    if getattr(data, amount) < 1:
        problems.append(f"{amount} must be positive, got {getattr(data, amount)}")
    if data.validation_paths and not data.paths:
        problems.append("validation_paths need paths: files to train on")
    return problems


def in_epochs(training: TrainConfig, epochs: float, rows: int) -> TrainConfig:
    """`training` with as many steps as so many passes over the rows take; 0 epochs: with its own."""
    return replace(training, steps=max(1, math.ceil(epochs * rows / training.batch_size))) if epochs else training


# New texts -----------------------------------------------------------------------------------------------------------


Predictions = Callable[[LoadedModel, list[tuple[str, Row]]], Iterator[dict[str, Any]]]


def predict_main(argv: list[str], name: str, heads: Sequence[str], work: Predictions) -> None:
    """`python -m train.NAME predict RUN FILE`: what `work` gives for each row of the file, as JSON lines."""
    description = "What a run says of new texts, as JSON lines."
    parser = argparse.ArgumentParser(prog=f"python -m train.{name} predict", description=description)
    parser.add_argument("run", help="run folder (or checkpoint folder)")
    parser.add_argument("file", help="rows as in training, without what is asked for (.json, .jsonl, .jsonl.gz)")
    parser.add_argument("--out", help="file to write; without it, standard output")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    arguments = parser.parse_args(argv)
    loaded = load_run(arguments.run, arguments.device, heads=heads)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in work(loaded, list(read_rows(arguments.file)))]
    if arguments.out:
        with whole_file(arguments.out) as file:
            file.write("".join(lines).encode())
    else:
        sys.stdout.write("".join(lines))


def require_both(train: Sequence[Any], held_out: Sequence[Any], source: str) -> None:
    """Raise UserError unless there is something to train on and something to measure with."""
    if not train or not held_out:
        raise UserError(
            f"{source} give {len(train)} rows to train on and {len(held_out)} to hold out; both are needed: give more, "
            "or change data.validation, or name files in data.validation_paths"
        )
