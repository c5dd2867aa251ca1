"""The causal experiment: does constructing an instruction reach what the model cannot say at once?

    python -m train.crosslingual configs/crosslingual.toml [section.key=value ...] [--seeds 5] [--out results]

Facts are stated in English only, a lexicon is taught, questions come in Chinese (`instruct.crosslingual`). For each
seed two models are trained from the same start on equally many tokens: one with the lexicon, one (*ablated*) without
the translations of the names that are English-only. Then every question is answered in several ways:

    direct        at once
    random        by the steps of any known chain
    retrieved     by the steps of the nearest known question (BM25 over the words; what the first step is given is what
                  the model itself names when it constructs)
    constructed   by the chain that the model writes for the question
    oracle        by the right chain, run by the model
    ablated       constructed, in the model without the lexicon: what the chain adds must vanish
    control       constructed minus direct where the facts were taught in Chinese too: near zero

Every step is carried out by the model itself (`instruct.execute.carry_out`), no program helps. `direct`, `constructed`
and so on in the report are means over the relations whose answers are entities (`ENTITIES`), on English-only facts,
asked for in words in which lessons ask about others; beside them stand the same figures for words that no lesson has.
What goes wrong in a constructed answer is counted by the first step at fault.

Writes `crosslingual.json` and `crosslingual.md`. What is finished is not done again: a run folder has `seed0/full`,
`seed0/ablated`, `seed0/marks.json`, and so on, and the same command goes on after an interruption. Under torchrun the
ranks train together, and the first one measures.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from configs import UserError, check, load, run_main
from configs.machine import machine
from data.batches import PackedRows
from data.chat import ChatFormat, fit_all
from data.files import whole_file
from data.tokenizer import Tokenizer, TokenizerConfig
from instruct import strategies
from instruct.answer import directly
from instruct.crosslingual import (
    ENTITIES,
    FEW,
    HOPS,
    PLANNED,
    RELATIONS,
    UNTAUGHT,
    Exposure,
    Question,
    Teacher,
    pieces_of,
)
from instruct.execute import Execution, carry_out
from instruct.retrieval import BM25
from instruct.strategies import Chain, Settings
from instruct.world.program import normalise
from model.config import ModelConfig
from model.heads import LanguageModel
from model.load import LoadedModel, load_run, model_files
from train.config import TrainConfig
from train.crosslingual_report import markdown, summary
from train.distributed import Ranks, setup, teardown
from train.objectives import language_modelling
from train.optim import OptimizerConfig, ScheduleConfig
from train.rounds import lesson_rows
from train.run import RunFolder, write_text
from train.trainer import Trainer

MODELS = ("full", "ablated")
WAYS = ("direct", "random", "retrieved", "constructed", "oracle", "ablated")
SETTINGS = Settings(chain_tokens=72, answer_tokens=24, confidences=False)
SAMPLE = 2000  # lessons that the tokenizer sees: few, so that names become pieces before phrases do
WORDS = 20  # times that the tokenizer sees each name beside the lessons, so that it is whole


@dataclass(frozen=True)
class CrosslingualConfig:
    """What is trained and asked.

    lessons        that are drawn, at most; where the steps ask for more, they are met again
    english_only   share of the countries and animals whose facts are never stated in Chinese
    wordings       of each question are twice as many: half are as the grammar says it; the others, of questions in new
                   words, in words that it does not know
    """

    run: str = "runs/crosslingual"
    seed: int = 0
    vocab_size: int = 3000
    lessons: int = 100_000
    english_only: float = 0.5
    wordings: int = 2
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self):
        problems = [
            f"{name} must be positive, got {getattr(self, name)}"
            for name in ("vocab_size", "lessons", "wordings")
            if getattr(self, name) < 1
        ]
        if not 0.2 <= self.english_only <= 0.8:
            problems.append(f"english_only must lie between 0.2 and 0.8, got {self.english_only}")
        if not self.model.causal:
            problems.append("model.causal must be true: an encoder cannot answer")
        if self.model.context < 112:
            problems.append(f"model.context must be at least 112 to hold a chain, got {self.model.context}")
        check(problems)


# Training ------------------------------------------------------------------------------------------------------------


def tokenizer_of(config: CrosslingualConfig, exposure: Exposure, ranks: Ranks) -> Tokenizer:
    """The tokenizer of one seed, trained where it is not there yet; names are whole pieces of it."""
    path = Path(config.run) / "tokenizer.model"
    if ranks.is_main and not path.exists():
        texts = pieces_of(Teacher(exposure).lessons(SAMPLE, config.seed), exposure.names)
        words = [text for name in exposure.names for text in name]
        trained = Tokenizer.train(
            texts + WORDS * words, TokenizerConfig(vocab_size=config.vocab_size, character_coverage=1.0)
        )
        with whole_file(path) as file:
            file.write(trained.model_bytes)
    ranks.barrier()
    return Tokenizer.load(path)


def rows_for(config: CrosslingualConfig, teacher: Teacher, tokenizer: Tokenizer) -> PackedRows:
    """Lessons for all steps once, or as many as there may be."""
    context = config.model.context
    sample = fit_all(teacher.lessons(500, config.seed), tokenizer, ChatFormat(), context + 1)[0]
    places = config.train.steps * config.train.batch_size * context
    enough = math.ceil(1.05 * places / (sum(map(len, sample)) / len(sample) - 1))
    return lesson_rows(teacher.lessons(min(enough, config.lessons), config.seed), tokenizer, ChatFormat(), context)


def trained(config: CrosslingualConfig, name: str, exposure: Exposure, tokenizer: Tokenizer, ranks: Ranks) -> Path:
    """The folder of a model, trained as far as it was not yet. Raises UserError when it was interrupted."""
    torch.manual_seed(config.seed)
    model = LanguageModel(replace(config.model, vocab_size=tokenizer.vocab_size))
    folder = Path(config.run) / name
    run = RunFolder(folder, ranks.is_main)
    run.open(config)
    ranks.barrier()
    trainer = Trainer(
        config=config.train,
        optimizer=config.optimizer,
        schedule=config.schedule,
        model=model,
        objective=language_modelling,
        rows=rows_for(config, Teacher(exposure, lexicon=name == "full"), tokenizer),
        run=run,
        ranks=ranks,
        files=lambda: model_files(model, tokenizer, ChatFormat()),
        seed=config.seed,
    )
    trainer.fit().require_finished(folder)
    return folder


def one_seed(config: CrosslingualConfig, ranks: Ranks) -> dict[str, Any]:
    """The figures of one seed, from its folder where they lie already."""
    path = Path(config.run) / "marks.json"
    RunFolder(config.run, ranks.is_main).open(config)
    if not ranks.from_main(path.exists()):
        exposure = Exposure(config.seed, config.english_only)
        tokenizer = tokenizer_of(config, exposure, ranks)
        full, ablated = (trained(config, name, exposure, tokenizer, ranks) for name in MODELS)
        if ranks.is_main:
            marks = Measuring(load_run(full), load_run(ablated), exposure, config).marks()
            write_text(path, json.dumps(marks, ensure_ascii=False, indent=1) + "\n")
        ranks.barrier()
    return json.loads(path.read_text("utf-8"))


# Measuring -----------------------------------------------------------------------------------------------------------


class Measuring:
    """All figures of one seed."""

    def __init__(self, full: LoadedModel, ablated: LoadedModel, exposure: Exposure, config: CrosslingualConfig):
        self.full, self.ablated, self.exposure, self.config = full, ablated, exposure, config
        self.known = Teacher(exposure).known(seed=config.seed)
        self.index = BM25([text for text, _ in self.known])

    def marks(self) -> dict[str, Any]:
        """{"relations", "two_hops", "new_words", "planning": {name: figures}, "errors": counts}."""
        errors: Counter[str] = Counter()
        found: dict[str, Any] = {}
        for kind, names in (("relations", RELATIONS), ("two_hops", HOPS)):
            found[kind] = {name: self.relation(name, errors if name in ENTITIES else Counter()) for name in names}
        found["new_words"] = {name: self.relation(name, Counter(), new_words=True) for name in (*RELATIONS, *HOPS)}
        found["planning"] = {name: self.planning(name) for name in PLANNED}
        found["errors"] = dict(errors)
        return found

    def relation(self, name: str, errors: Counter[str], new_words: bool = False) -> dict[str, Any]:
        """Shares of right answers by every way; `errors` counts the constructed ones by where they fail."""
        asked = self._questions(name, True, new_words=new_words)
        figures: dict[str, Any] = {way: share(answers, asked) for way, answers in self._ways(asked, errors).items()}
        control = self._questions(name, False, new_words=new_words)
        figures["control_direct"] = share(self._directly(control), control)
        figures["control_constructed"] = share(answers_of(self._constructed(self.full, control)), control)
        figures["control"] = figures["control_constructed"] - figures["control_direct"]
        return figures | {"guess": guess(asked), "asked": len(asked), "control_asked": len(control)}

    def planning(self, name: str) -> dict[str, float]:
        """Of English-only facts, the name beside the question: whether the plan has the right steps in the right order
        (each takes what the one before gives), and whether carrying it out by the model gives the answer; beside
        answering at once, by the right plan, and by the plan of the model without the lexicon."""
        asked = self._questions(name, True, beside=True)
        done = self._planned(self.full, asked)
        return {
            "direct": share(self._directly(asked), asked),
            "plan": sum(each.constructed == one.steps for each, one in zip(done, asked)) / len(asked),
            "planned": share(answers_of(done), asked),
            "oracle": share(answers_of(self._oracle(asked)), asked),
            "ablated": share(answers_of(self._planned(self.ablated, asked)), asked),
            "guess": guess(asked),
            "asked": len(asked),
        }

    def _questions(
        self, name: str, english_only: bool, beside: bool = False, new_words: bool = False
    ) -> list[Question]:
        return self.exposure.questions(name, english_only, self.config.wordings, beside, self.config.seed, new_words)

    def _ways(self, asked: Sequence[Question], errors: Counter[str]) -> dict[str, list[str]]:
        rng = random.Random(f"random chains {self.config.seed} {asked[0].program}")
        constructed = self._constructed(self.full, asked)
        errors.update(fault(each, one) for each, one in zip(constructed, asked))
        chosen = [rng.choice(self.known)[1] for _ in asked]
        nearest = [self.known[int(self.index.scores(one.asked.instruction).argmax())][1] for one in asked]
        return {
            "direct": self._directly(asked),
            "random": answers_of(self._run(self.full, asked, chosen, [one.given for one in asked])),
            "retrieved": answers_of(self._run(self.full, asked, nearest, [each.given for each in constructed])),
            "constructed": answers_of(constructed),
            "oracle": answers_of(self._oracle(asked)),
            "ablated": answers_of(self._constructed(self.ablated, asked)),
        }

    def _directly(self, asked: Sequence[Question]) -> list[str]:
        return directly(self.full, [one.asked for one in asked], SETTINGS.answer_tokens)

    def _constructed(self, loaded: LoadedModel, asked: Sequence[Question]) -> list[Execution]:
        questions = [one.asked for one in asked]
        return carry_out(loaded, questions, strategies.construct(loaded, questions, SETTINGS), SETTINGS)

    def _planned(self, loaded: LoadedModel, asked: Sequence[Question]) -> list[Execution]:
        questions = [one.asked for one in asked]
        return carry_out(loaded, questions, strategies.plan(loaded, questions, SETTINGS), SETTINGS)

    def _oracle(self, asked: Sequence[Question]) -> list[Execution]:
        return self._run(self.full, asked, [one.steps for one in asked], [one.given for one in asked])

    def _run(
        self, loaded: LoadedModel, asked: Sequence[Question], chains: Sequence[tuple[str, ...]], given: Sequence[str]
    ) -> list[Execution]:
        written = [Chain(steps, text) for steps, text in zip(chains, given)]
        return carry_out(loaded, [one.asked for one in asked], written, SETTINGS)


def answers_of(done: Sequence[Execution]) -> list[str]:
    return [each.answer for each in done]


def is_right(answer: str, question: Question) -> bool:
    return normalise(answer) == normalise(question.answer)


def share(answers: Sequence[str], asked: Sequence[Question]) -> float:
    return sum(map(is_right, answers, asked)) / len(asked)


def guess(asked: Sequence[Question]) -> float:
    """Share of the questions that the most frequent answer is right for."""
    return Counter(one.answer for one in asked).most_common(1)[0][1] / len(asked)


def fault(done: Execution, question: Question) -> str:
    """Where a constructed answer first went wrong; "right" where it did not."""
    if is_right(done.answer, question):
        return "right"
    if done.constructed != question.steps:
        return "chain"
    if done.given != question.given:
        return "name in the question"
    for number, (step, right) in enumerate(zip(done.steps, question.outputs)):
        if normalise(step.output) != normalise(right):
            last = number == len(question.outputs) - 1
            return "first translation" if number == 0 else "back-translation" if last else "answer"
    return "answer"


# Together ------------------------------------------------------------------------------------------------------------


def combined(per_seed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and the headline: means over relations whose answers are entities."""

    def means(kind: str) -> dict[str, dict[str, float]]:
        return {
            name: {key: statistics.mean(marks[kind][name][key] for marks in per_seed) for key in figures}
            for name, figures in per_seed[0][kind].items()
        }

    seeds = [headline(marks) for marks in per_seed]
    errors = sum((Counter(marks["errors"]) for marks in per_seed), Counter())
    relations = means("relations")
    return {
        **{key: statistics.mean(each[key] for each in seeds) for key in seeds[0]},
        "relations": {name: figures for name, figures in relations.items() if name != UNTAUGHT},
        "entities": list(ENTITIES),
        "few_answers": list(FEW),
        "two_hops": means("two_hops"),
        "new_words": means("new_words"),
        "planning": means("planning"),
        "untaught_chain": {"relation": UNTAUGHT, **relations[UNTAUGHT]},
        "errors": {key: count / errors.total() for key, count in errors.most_common()},
        "seeds": len(per_seed),
        "per_seed": [{**each, **marks} for each, marks in zip(seeds, per_seed)],
    }


def headline(marks: Mapping[str, Any]) -> dict[str, float]:
    keys = (*WAYS, "control", "control_direct", "control_constructed")
    return {key: statistics.mean(marks["relations"][name][key] for name in ENTITIES) for key in keys}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m train.crosslingual", description="Facts in English, questions in Chinese, chains between them."
    )
    parser.add_argument("config", help="TOML file, for example configs/crosslingual.toml")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="replace settings of the file")
    parser.add_argument("--seeds", type=int, default=5, help="how many (default 5)")
    parser.add_argument("--out", default="results", help="folder of crosslingual.json and .md (default results)")
    arguments = parser.parse_intermixed_args(argv)
    config = load(CrosslingualConfig, arguments.config, arguments.overrides)
    if arguments.seeds < 1:
        raise UserError(f"--seeds must be at least 1, got {arguments.seeds}")
    ranks = setup(config.train.device, config.train.threads)
    try:
        per_seed = []
        for seed in range(config.seed, config.seed + arguments.seeds):
            per_seed.append(one_seed(replace(config, seed=seed, run=f"{config.run}/seed{seed}"), ranks))
            if ranks.is_main:
                print(f"seed {seed}: {summary(headline(per_seed[-1]))}", flush=True)
        if ranks.is_main:
            report = {
                "crosslingual": combined(per_seed),
                "machine": machine(),
                "command": f"python -m train.crosslingual {' '.join(argv)}",
            }
            write(report, Path(arguments.out))
    finally:
        teardown()


def write(report: Mapping[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "crosslingual.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    write_text(out / "crosslingual.md", markdown(report))
    print(f"{out / 'crosslingual.json'}, {out / 'crosslingual.md'}")


if __name__ == "__main__":
    run_main(main)
