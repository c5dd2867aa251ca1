"""Supervised fine-tuning on instructions: the model learns to answer, and to stop.

    python -m train.sft configs/demo/sft.toml [section.key=value ...]
    torchrun --standalone --nproc_per_node=2 -m train.sft configs/demo/sft.toml

    python -m train.sft configs/tasks/question_answering.toml init=RUN [lora.rank=16]

`init` is the run folder of a pretrained model. The conversations come from files in any format of `data.formats`; or
from a task of the world (`instruct.tasks`), where every answer that the world accepts is right; or, when neither is
named, from the documentation of this Python (`instruct.documentation`). What is held out is never trained on. Only what
the assistant says is learnt (`data.chat`); conversations are packed without seeing each other. With `lora.rank` the
model stays as it is and adapters are trained (`model.lora`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from configs import UserError, check, run_main
from data.batches import ExamplePieces, PackedRows
from data.chat import ChatFormat, Conversation, fit_all
from data.corpus import builtin_documents
from data.formats import read_conversations
from instruct.documentation import construct
from instruct.labelled import divide
from instruct.lessons import execute
from instruct.tasks import is_right, task
from model.load import load_run, model_files
from model.lora import LoraConfig
from train.answers import Asked, accuracy
from train.distributed import Ranks
from train.evaluation import evaluate_language
from train.objectives import language_modelling
from train.optim import OptimizerConfig, ScheduleConfig, freeze
from train.parallel import with_adapters
from train.run import TrainState
from train.stage import open_run, stage_main
from train.texts import in_epochs
from train.trainer import TrainConfig, Trainer


@dataclass(frozen=True)
class InstructionData:
    """Which conversations.

    paths          files of conversations; empty: those of `world`
    world          "questions", "plans" or "writing"; "": instructions made from the built-in documentation
    validation     share of the conversations of `paths` that is held out (by a hash of the first user message)
    train_per_task, heldout_per_task   limits of the built-in instructions
    lessons, asked   of the world: conversations to train on, and items to ask of each kind that is held out
    """

    paths: tuple[str, ...] = ()
    validation: float = 0.05
    world: Literal["", "questions", "plans", "writing"] = ""
    train_per_task: int = 1000
    heldout_per_task: int = 50
    lessons: int = 20_000
    asked: int = 100

    def __post_init__(self):
        problems = [] if 0 < self.validation < 1 else [f"validation must lie between 0 and 1, got {self.validation}"]
        if self.paths and self.world:
            problems.append("paths and world both say which conversations: leave out one of them")
        problems += [
            f"{name} must be positive, got {getattr(self, name)}"
            for name in ("lessons", "asked")
            if getattr(self, name) < 1
        ]
        check(problems)


@dataclass(frozen=True)
class SftConfig:
    """A fine-tuning run.

    init           run folder (or checkpoint folder) of the model to start from
    epochs         passes over the data; 0: `train.steps` decides
    answer_tokens  longest answer that is generated when accuracy is measured
    asked          held-out questions that each evaluation asks; 0: all
    lora           adapters that are trained instead of the model
    """

    run: str = "runs/sft"
    init: str = "runs/pretrain"
    seed: int = 0
    epochs: float = 0.0
    answer_tokens: int = 48
    asked: int = 0
    data: InstructionData = field(default_factory=InstructionData)
    chat: ChatFormat = field(default_factory=ChatFormat)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self):
        problems = [] if self.init else ["init must name the run folder of a pretrained model"]
        if self.epochs < 0:
            problems.append(f"epochs must not be negative, got {self.epochs}")
        if self.answer_tokens < 1:
            problems.append(f"answer_tokens must be positive, got {self.answer_tokens}")
        check(problems)


def read_instructions(config: InstructionData, seed: int) -> tuple[list[Conversation], list[Asked]]:
    """The conversations to train on, and the held-out ones with their tasks."""
    if config.world:
        lessons, items = task(config.world, config.lessons, config.asked, seed)
        return lessons, [
            Asked(
                f"{config.world}/{item.split}",
                execute(item.instruction, item.input, item.output),
                partial(is_right, config.world, item, seed=seed),
            )
            for item in items
        ]
    if not config.paths:
        items = construct(builtin_documents(), seed, config.train_per_task, config.heldout_per_task)
        train = [item.conversation for item in items if item.split == "train"]
        return train, [Asked(item.task, item.conversation) for item in items if item.split == "heldout"]
    found = (each for path in config.paths for each in read_conversations(path, split="train"))
    train, rest = divide(found, config.validation, first_said)
    held_out = [Asked("all", conversation) for conversation in rest]
    if not train or not held_out:
        raise UserError(
            f"{', '.join(config.paths)} give {len(train)} conversations to train on and {len(held_out)} to hold out; "
            "both are needed: give more, or change data.validation"
        )
    return train, held_out


def first_said(conversation: Conversation) -> str:
    """The first thing a user says, by which conversations are told apart."""
    return next((m.content for m in conversation.messages if m.role == "user"), conversation.messages[0].content)


def questions_of(held_out: Sequence[Asked]) -> list[Asked]:
    """Those that end with an answer of the assistant to something that was said before."""
    return [a for a in held_out if len(a.conversation.messages) > 1 and a.conversation.messages[-1].role == "assistant"]


def build_trainer(config: SftConfig, ranks: Ranks, fresh: bool = False) -> Trainer:
    """Everything a run needs, from its configuration."""
    loaded = load_run(config.init)
    model, tokenizer, context = loaded.model, loaded.tokenizer, loaded.model.config.context
    with_adapters(model, config.lora, config.train.parallel, config.seed, ranks)
    freeze(model, config.optimizer.frozen)  # the trainer does it too; here nothing has been written yet
    train, held_out = read_instructions(config.data, config.seed)
    examples, fitting = fit_all(train, tokenizer, config.chat, context + 1)
    rows = PackedRows(ExamplePieces(examples), context, tokenizer.pad)
    held_examples, _ = fit_all([a.conversation for a in held_out], tokenizer, config.chat, context + 1)
    held_rows = PackedRows(ExamplePieces(held_examples), context, tokenizer.pad)
    questions = questions_of(held_out)[: config.asked or None]
    if ranks.is_main:
        print(f"{fitting}; packed into {len(rows)} rows of {context} tokens, {rows.fill:.0%} full")
    run = open_run(config, ranks, fresh)

    def evaluate() -> dict[str, float]:
        figures = evaluate_language(model, held_rows, tokenizer, ranks, max(1, 4096 // context))
        if questions:
            figures["accuracy"] = accuracy(model, tokenizer, config.chat, questions, config.answer_tokens, ranks)
        return figures

    return Trainer(
        config=in_epochs(config.train, config.epochs, len(rows)),
        optimizer=config.optimizer,
        schedule=config.schedule,
        model=model,
        objective=language_modelling,
        rows=rows,
        run=run,
        ranks=ranks,
        files=lambda: model_files(model, tokenizer, config.chat),
        evaluate=evaluate,
        seed=config.seed,
    )


def fine_tune(config: SftConfig, ranks: Ranks, fresh: bool = False) -> TrainState:
    """Tune one model as `config` says; returns the state that was reached."""
    return build_trainer(config, ranks, fresh).fit()


def main(argv: list[str]) -> None:
    stage_main(argv, "sft", SftConfig, fine_tune, "Tune a pretrained model on instructions.")


if __name__ == "__main__":
    run_main(main)
