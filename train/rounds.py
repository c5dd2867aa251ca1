"""Rounds of construction: the model writes instructions, a program judges them, the model learns from what holds.

    python -m train.rounds configs/demo/rounds.toml [section.key=value ...]
    torchrun --standalone --nproc_per_node=2 -m train.rounds configs/demo/rounds.toml

A *base* model learns the single operations of the world and a finite number of seed compositions
(`instruct.curriculum`); before that, for `primer` steps, to carry out single operations and nothing else: this is
learnt many times faster alone than amid all other parts, and the others rest on it. Then each round: propose, filter,
verify, answer, expand (`instruct.construct`), and train on the seeds and the kept items together, for a fixed number of
steps. How items are judged is the *arm*; all arms start from the same base and see the same number of tokens, so that
they differ in their items only:

    seeds         nothing is added
    paraphrase    seeds in other words, with the answers of their parents
    unverified    own instructions after Self-Instruct's filters, own answers
    consistency   the same, kept where the model's own samples agree
    verified      own instructions and answers that a program accepts (ours)
    interpreter   own instructions that a program accepts, answers written by the interpreter (the ceiling)

Everything lies in the run folder: `seeds.jsonl`, `tokenizer.model`, `primer/`, `base/`, and for each arm
`round1/records.jsonl` (every item with its fate), `round1/train/`, `round1/exam.json`, and so on. What is there is not
done again: after an interruption the same command goes on. Deterministic by seed; ranks write disjoint parts.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from configs import UserError, check, run_main
from data.batches import ExamplePieces, PackedRows
from data.chat import ChatFormat, Conversation, fit_all, laid_out
from data.files import whole_file
from data.tokenizer import Tokenizer, TokenizerConfig
from instruct.construct import ConstructConfig, construct
from instruct.curriculum import Course, CurriculumConfig
from instruct.exam import grade, set_exam
from instruct.propose import Pool
from instruct.records import Record, read_records, write_records
from instruct.teach import ON_REQUEST, OWN_PARTS, SHARES, UNKNOWN_WORDS, teach
from instruct.world.program import Program
from model.config import ModelConfig
from model.heads import LanguageModel
from model.load import load_run, model_files
from model.storage import newest_intact
from train.distributed import Ranks
from train.objectives import language_modelling
from train.optim import OptimizerConfig, ScheduleConfig
from train.run import STATE, RunFolder, TrainState, write_text
from train.stage import stage_main
from train.trainer import TrainConfig, Trainer

CHAT = ChatFormat(spaced=True)  # and numbers are not cut up: what stands in a list is one token, wherever it stands
WORDS = 300  # times that the tokenizer sees each word beside the lessons: many stand in few of them, yet shall be whole


@dataclass(frozen=True)
class RoundsConfig:
    """A base and its rounds.

    rounds      how many; 0 trains the base only
    primer      steps before those of the base, on single operations only; otherwise as `base` says
    own_share   largest share of the lessons of a round that the model's own items give; the rest are of the seeds.
                While own items are few, it is less: no meaning of theirs is met more often than one of the seeds
    round_lr    peak of the learning rate in a round, as a share of that of the base
    exam        questions of each kind that an exam asks
    execution   whether the seeds also teach to answer questions by chains of one's own (`instruct.execute`): the parts
                of `instruct.teach.ON_REQUEST`
    base, train  how the base and each round are trained; device and threads are those of `train` for both
    """

    run: str = "runs/rounds"
    seed: int = 0
    rounds: int = 3
    primer: int = 0
    own_share: float = 0.5
    round_lr: float = 1.0
    exam: int = 300
    execution: bool = False
    vocab_size: int = 1500
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    construct: ConstructConfig = field(default_factory=ConstructConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    base: TrainConfig = field(default_factory=TrainConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self):
        problems = []
        if not 0 < self.own_share < 1:
            problems.append(f"own_share must lie between 0 and 1, got {self.own_share}")
        if not 0 < self.round_lr:
            problems.append(f"round_lr must be positive, got {self.round_lr}")
        problems += [
            f"{name} must be positive, got {getattr(self, name)}"
            for name in ("exam", "vocab_size")
            if getattr(self, name) < 1
        ]
        problems += [
            f"{name} must not be negative, got {getattr(self, name)}"
            for name in ("rounds", "primer")
            if getattr(self, name) < 0
        ]
        if not self.model.causal:
            problems.append("model.causal must be true: an encoder cannot write instructions")
        problems += [
            f"base.{name} is not read, train.{name} holds for the whole process; leave it out"
            for name, default in (("device", "auto"), ("threads", 0))
            if getattr(self.base, name) not in (default, getattr(self.train, name))
        ]
        check(problems)

    @property
    def parts(self) -> tuple[str, ...]:
        """What the seeds teach."""
        return (*SHARES, *(ON_REQUEST if self.execution else ()))


# Training ------------------------------------------------------------------------------------------------------------


def lesson_rows(
    conversations: Sequence[Conversation], tokenizer: Tokenizer, chat: ChatFormat, context: int
) -> PackedRows:
    examples, _ = fit_all(conversations, tokenizer, chat, context + 1)
    return PackedRows(ExamplePieces(examples), context, tokenizer.pad)


def lessons_for(
    config: RoundsConfig,
    steps: TrainConfig,
    seeds: Sequence[Record],
    own: Sequence[Record],
    tokenizer: Tokenizer,
    salt: int,
    parts: Sequence[str] | None = None,
) -> PackedRows:
    """Enough lessons for all steps once: of the seeds (their `parts`), and, up to `own_share`, of own items."""
    context, places = config.model.context, steps.steps * steps.batch_size * config.model.context
    seed = config.seed * 1000 + salt

    def drawn(records: Sequence[Record], share: float, parts: Sequence[str]) -> list[Conversation]:
        known = (*seeds, *own)
        sample = teach(records, 400, seed, parts, known)
        mean = sum(len(e) for e in fit_all(sample, tokenizer, CHAT, context + 1)[0]) / len(sample)
        return teach(records, math.ceil(1.1 * share * places / mean), seed, parts, known)

    meanings = [len({record.behaviour or record.instruction for record in records}) for records in (own, seeds)]
    own_share = min(config.own_share, meanings[0] / sum(meanings))
    conversations = drawn(seeds, 1 - own_share, parts or config.parts)
    if own:
        conversations += drawn(own, own_share, OWN_PARTS)
    return lesson_rows(conversations, tokenizer, CHAT, context)


def fit(
    config: RoundsConfig,
    steps: TrainConfig,
    folder: Path,
    init: Path | None,
    tokenizer: Tokenizer,
    rows: Callable[[], PackedRows],
    ranks: Ranks,
    lr: float = 1.0,
) -> TrainState:
    """Train a fresh model, or that of `init`, on the rows; the run lies in `folder`, whose settings are `config`.
    `lr`: factor of the learning rate. Nothing is made for a run that is finished."""
    run = RunFolder(folder, ranks.is_main)
    run.open(config)
    ranks.barrier()
    found = newest_intact(folder, [STATE])
    if found is not None and (state := TrainState.from_json(found[1][STATE])).finished:
        return state
    if init is None:
        torch.manual_seed(config.seed)
        model = LanguageModel(replace(config.model, vocab_size=tokenizer.vocab_size))
    else:
        model = load_run(init).model.train()
    return Trainer(
        config=steps,
        optimizer=replace(config.optimizer, lr=config.optimizer.lr * lr),
        schedule=config.schedule,
        model=model,
        objective=language_modelling,
        rows=rows(),
        run=run,
        ranks=ranks,
        files=lambda: model_files(model, tokenizer, CHAT),
        seed=config.seed,
    ).fit()


# Stages --------------------------------------------------------------------------------------------------------------


def prepare(config: RoundsConfig, course: Course, ranks: Ranks) -> tuple[list[Record], Tokenizer]:
    """The seeds and the tokenizer of a run, made by the main rank where they are not there yet."""
    seeds_path, tokenizer_path = Path(config.run) / "seeds.jsonl", Path(config.run) / "tokenizer.model"
    if ranks.is_main and not (seeds_path.exists() and tokenizer_path.exists()):
        seeds = course.seeds()
        lessons = teach(seeds, 20_000, config.seed, [part for part in config.parts if part != UNKNOWN_WORDS])
        texts = [message.content for lesson in lessons for message in lesson.messages]
        tokenizer = lesson_tokenizer(texts, words_of(seeds), config.vocab_size)
        write_records(seeds_path, seeds)
        with whole_file(tokenizer_path) as file:
            file.write(tokenizer.model_bytes)
    ranks.barrier()
    return list(read_records(seeds_path)), Tokenizer.load(tokenizer_path)


def words_of(seeds: Sequence[Record]) -> list[str]:
    """The words and numbers in the inputs and outputs of the seeds, each once."""
    texts = (text for record in seeds for instance in record.instances for text in (instance.input, instance.output))
    return sorted({word for text in texts for word in text.split()})


def lesson_tokenizer(texts: Iterable[str], words: Sequence[str], vocab_size: int) -> Tokenizer:
    """A tokenizer for texts as `CHAT` lays them out, in which the words are whole as far as there is room."""
    laid = [laid_out(text, CHAT) for text in (*texts, *(WORDS * list(words)))]
    return Tokenizer.train(laid, TokenizerConfig(vocab_size=vocab_size, split_digits=False, character_coverage=1.0))


def train_base(
    config: RoundsConfig, seeds: Sequence[Record], tokenizer: Tokenizer, ranks: Ranks
) -> tuple[Path, TrainState]:
    """The primer, where there is one, and the base: one for all arms, whatever their rounds are like."""
    train = TrainConfig(device=config.train.device, threads=config.train.threads)
    shared = replace(config, rounds=0, own_share=0.5, round_lr=1.0, construct=ConstructConfig(), train=train)
    folder, primer = Path(config.run) / "base", None
    if config.primer:
        primer, steps = Path(config.run) / "primer", replace(config.base, steps=config.primer)
        single = [record for record in seeds if len(Program.read(record.program or "")) == 1]
        rows = partial(lessons_for, config, steps, single, (), tokenizer, salt=1_000, parts=("execute",))
        state = fit(shared, steps, primer, None, tokenizer, rows, ranks)
        if not state.finished:
            return folder, state
    rows = partial(lessons_for, config, config.base, seeds, (), tokenizer, salt=0)
    return folder, fit(shared, config.base, folder, primer, tokenizer, rows, ranks)


def run_round(
    config: RoundsConfig,
    course: Course,
    seeds: Sequence[Record],
    own: list[Record],
    tokenizer: Tokenizer,
    init: Path,
    number: int,
    ranks: Ranks,
) -> tuple[Path, list[Record], TrainState]:
    """One round from the model in `init`: the new model's folder, and all own items kept so far."""
    folder = arm_folder(config) / f"round{number}"
    path = folder / "records.jsonl"
    writes = config.construct.arm != "seeds"
    settings = replace(config, rounds=0)  # more rounds may follow
    RunFolder(folder / "train", ranks.is_main).open(settings)  # before anything is written: records belong to settings
    if writes and not ranks.from_main(path.exists()):
        pool = Pool(seeds, own)
        records = construct(load_run(init), pool, course.verifier, config.construct, number, sharing(ranks))
        if ranks.is_main:
            write_records(path, records)
        ranks.barrier()
    if writes:
        own = own + [record for record in read_records(path) if record.kept]
    rows = partial(lessons_for, config, config.train, seeds, own, tokenizer, salt=number)
    state = fit(settings, config.train, folder / "train", init, tokenizer, rows, ranks, config.round_lr)
    return folder / "train", own, state


def arm_folder(config: RoundsConfig) -> Path:
    return Path(config.run) / config.construct.arm


def sharing(ranks: Ranks) -> Callable[[Callable[[Sequence], list], Sequence], list]:
    """Work divided over the ranks by strides, put together in the order of the items, on every rank."""

    def share(work: Callable[[Sequence], list], items: Sequence) -> list:
        parts = ranks.gather(work(items[ranks.rank :: ranks.world]))
        return [parts[i % ranks.world][i // ranks.world] for i in range(len(items))]

    return share


def examine(config: RoundsConfig, course: Course, model: Path, path: Path, ranks: Ranks) -> dict[str, Any]:
    """The marks of a model, from `path` where they lie already."""
    if not ranks.from_main(path.exists()):
        marks = grade(load_run(model), course, set_exam(course, config.exam), sharing(ranks))
        if ranks.is_main:
            write_text(path, json.dumps(marks, indent=1) + "\n")
        ranks.barrier()
    return json.loads(path.read_text("utf-8"))


def marks_of(config: RoundsConfig) -> list[dict[str, Any]] | None:
    """The marks of the base and of each round of an arm; None while one is missing."""
    paths = [Path(config.run) / "base" / "exam.json"]
    paths += [arm_folder(config) / f"round{number}" / "exam.json" for number in range(1, config.rounds + 1)]
    if not all(path.exists() for path in paths):
        return None
    return [json.loads(path.read_text("utf-8")) for path in paths]


def run(config: RoundsConfig, ranks: Ranks, fresh: bool = False) -> None:
    """Base, rounds and exams of one arm; says the marks as they come. `fresh`: what all arms did is deleted first."""
    if fresh:
        delete(Path(config.run), ranks)
    course = Course(config.curriculum, config.seed)
    seeds, tokenizer = prepare(config, course, ranks)
    model, state = train_base(config, seeds, tokenizer, ranks)
    if not state.finished:
        return
    _say(ranks, "base", examine(config, course, model, Path(config.run) / "base" / "exam.json", ranks))
    own: list[Record] = []
    for number in range(1, config.rounds + 1):
        model, own, state = run_round(config, course, seeds, own, tokenizer, model, number, ranks)
        if not state.finished:
            return
        path = arm_folder(config) / f"round{number}" / "exam.json"
        _say(ranks, f"round {number}, {len(own):,} own items", examine(config, course, model, path, ranks))


def delete(folder: Path, ranks: Ranks) -> None:
    """Delete a folder of rounds. Raises UserError when it holds something else."""
    is_other = folder.exists() and any(folder.iterdir()) and not (folder / "seeds.jsonl").exists()
    if ranks.from_main(is_other):
        raise UserError(f"{folder} is not a folder of rounds, it is not deleted; choose another run=FOLDER")
    if ranks.is_main:
        shutil.rmtree(folder, ignore_errors=True)
    ranks.barrier()


def _say(ranks: Ranks, title: str, marks: dict[str, dict[str, float]]) -> None:
    if ranks.is_main:
        shown = [f"{kind} " + "/".join(f"{v:.3f}" for k, v in of.items() if k != "asked") for kind, of in marks.items()]
        print(f"{title}: {', '.join(shown)}", flush=True)


def main(argv: list[str]) -> None:
    stage_main(argv, "rounds", RoundsConfig, run, "Rounds of proposing, judging and learning.")


if __name__ == "__main__":
    run_main(main)
