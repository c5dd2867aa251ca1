"""Pretraining on unlabelled text: GPT-style (causal), BERT-style (masked), or filling in the middle (infill).

    python -m train.pretrain configs/demo/pretrain.toml [section.key=value ...]
    torchrun --standalone --nproc_per_node=2 -m train.pretrain configs/demo/pretrain.toml
    python -m train.pretrain configs/gpt2-124m.toml --dry-run        # count, do not allocate

The tokenizer is trained and the corpus tokenized when that has not happened yet. The same command continues a run
that was interrupted; `--fresh` starts anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch

from configs import UserError, check, load, run_main
from data.batches import DocumentPieces, FlatRows, PackedRows, Rows
from data.chat import ChatFormat
from data.corpus import builtin_documents
from data.corruption import Infill, MaskedRows, MaskingConfig
from data.prepare import DataConfig, ExtraText, PreparedData, describe, prepare
from data.tokenizer import Tokenizer
from instruct.documentation import construct
from model.config import ModelConfig
from model.count import describe as describe_model
from model.heads import LanguageModel
from model.load import model_files
from train.distributed import Ranks
from train.evaluation import evaluate_language
from train.objectives import language_modelling
from train.optim import OptimizerConfig, ScheduleConfig
from train.run import RunFolder, TrainState
from train.stage import run_stage, stage_parser
from train.trainer import TrainConfig, Trainer


@dataclass(frozen=True)
class PretrainConfig:
    """A pretraining run.

    objective      "causal", "masked" (needs model.causal = false) or "infill"
    packing        "flat": the stream is cut every `model.context` tokens; "best_fit": documents are packed whole
    isolate        documents in a row do not see each other
    validation_rows  rows of the held-out split that an evaluation uses; 0: all
    instruction_text  the tokenizer also sees the instructions that `train.sft` makes from the documentation
    """

    run: str = "runs/pretrain"
    seed: int = 0
    objective: Literal["causal", "masked", "infill"] = "causal"
    packing: Literal["flat", "best_fit"] = "flat"
    isolate: bool = True
    infill_rate: float = 0.5
    validation_rows: int = 0
    instruction_text: bool = False
    data: DataConfig = field(default_factory=DataConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self):
        problems = []
        if (self.objective == "masked") == self.model.causal:
            problems.append(f"objective {self.objective!r} does not go with model.causal = {self.model.causal}")
        if not self.isolate and self.packing == "best_fit":
            problems.append("isolate = false needs packing = 'flat': packed documents are always kept apart")
        if self.objective == "infill" and self.packing != "best_fit":
            problems.append("objective 'infill' rewrites whole pieces: it needs packing = 'best_fit'")
        if not 0 <= self.infill_rate <= 1:
            problems.append(f"infill_rate must lie between 0 and 1, got {self.infill_rate}")
        check(problems)

    @property
    def head(self) -> str:
        return "masked" if self.objective == "masked" else "language"


def build_rows(config: PretrainConfig, data: PreparedData, split: str) -> Rows:
    """The rows of one split as the objective wants them."""
    stream, tokenizer, context = data.stream(split), data.tokenizer, config.model.context
    rows: Rows
    if config.packing == "flat":
        rows = FlatRows(stream, context, tokenizer.pad, tokenizer.bos, config.isolate)
    else:
        transform = Infill(tokenizer, config.infill_rate) if config.objective == "infill" and split == "train" else None
        rows = PackedRows(DocumentPieces(stream, context), context, tokenizer.pad, transform, config.seed)
    return MaskedRows(rows, tokenizer, config.masking, config.seed) if config.objective == "masked" else rows


def sized_model(config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """The model configuration with the vocabulary of the tokenizer, where it leaves it open."""
    if config.vocab_size and config.vocab_size < tokenizer.vocab_size:
        raise UserError(
            f"model.vocab_size ({config.vocab_size}) is smaller than the tokenizer's {tokenizer.vocab_size}; "
            "leave it out, or give at least as many"
        )
    return dataclasses.replace(config, vocab_size=config.vocab_size or tokenizer.vocab_size)


def instruction_text() -> ExtraText:
    """What the built-in instructions say, training part only."""

    def texts() -> Iterator[str]:
        for item in construct(builtin_documents()):
            if item.split == "train":
                yield "\n".join(message.content for message in item.conversation.messages)

    return ExtraText("instructions from the documentation", texts)


def build_trainer(config: PretrainConfig, ranks: Ranks, fresh: bool = False) -> Trainer:
    """Everything a run needs, from its configuration."""
    run = RunFolder(config.run, ranks.is_main)
    run.check(config, fresh)
    extra = instruction_text() if config.instruction_text else None
    data = prepare(config.data, extra, writes=ranks.local == 0, progress=ranks.is_main)
    if ranks.is_main:
        print(describe(data))
    run.open(config, fresh)
    ranks.barrier()
    torch.manual_seed(config.seed)
    model = LanguageModel(sized_model(config.model, data.tokenizer), config.head)
    held_out = build_rows(config, data, "validation")
    rows_at_once = max(1, 4096 // config.model.context)
    return Trainer(
        config=config.train,
        optimizer=config.optimizer,
        schedule=config.schedule,
        model=model,
        objective=language_modelling,
        rows=build_rows(config, data, "train"),
        run=run,
        ranks=ranks,
        files=lambda: model_files(model, data.tokenizer, ChatFormat()),
        evaluate=lambda: evaluate_language(
            model, held_out, data.tokenizer, ranks, rows_at_once, config.validation_rows
        ),
        seed=config.seed,
    )


def pretrain(config: PretrainConfig, ranks: Ranks, fresh: bool = False) -> TrainState:
    """Train one model as `config` says; returns the state that was reached."""
    return build_trainer(config, ranks, fresh).fit()


def main(argv: list[str]) -> None:
    parser = stage_parser("pretrain", "Pretrain a model on text.")
    parser.add_argument("--dry-run", action="store_true", help="print sizes and costs; allocate and write nothing")
    arguments = parser.parse_args(argv)
    config = load(PretrainConfig, arguments.config, arguments.overrides)
    if arguments.dry_run:
        vocabulary = config.model.vocab_size or config.data.tokenizer.vocab_size
        model = dataclasses.replace(config.model, vocab_size=vocabulary)
        print(describe_model(model, model.context, config.head))
        return
    run_stage(config, pretrain, arguments.fresh)


if __name__ == "__main__":
    run_main(main)
