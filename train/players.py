"""The proposer as a player: one model writes instructions and answers them, and is rewarded for both.

    python -m train.players configs/demo/players.toml [section.key=value ...]
    torchrun --standalone --nproc_per_node=2 -m train.players configs/demo/players.toml

Each round has two runs of policy gradient (`train.reinforce`), and what one of them makes is what the other needs:

    proposer    writes instructions from parents (`instruct.propose`). One that the world reads, that is not trivial and
                touches no test is answered `tries` times; its reward is 1 - |2 p - 1|, p the share of right answers.
                So instructions that the model solves always, or never, earn nothing: nothing is to be learnt from them
    solver      answers what the proposer wrote and what was solved sometimes, each with several inputs (with one it
                learns the answers by heart), rewarded where it is right

The reward is that of R-Zero (Huang et al. 2025); like there, what is written several times in one step is worth less:
proposals that mean the same share the reward of one, whatever they were written from, or the proposer soon writes
little else than what was rewarded first. The world judges and not votes, so no error is reinforced.

The run folder has `round1/proposer`, `round1/questions.jsonl` (conversations with the p of what they ask for; any stage
reads them), `round1/solver`, and so on; the last solver is the model. What is finished is not repeated. `init` is a
model that knows the parts of `instruct.lessons`, as `train.rounds` makes them.

What it leaves out: inputs are drawn by the world and not written by the proposer; instructions that hold their input
earn nothing.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path

from configs import UserError, check, run_main
from data.formats import read_conversations, to_row, write_rows
from instruct.answer import Asked, directly
from instruct.curriculum import Course, CurriculumConfig, distinct
from instruct.lessons import execute
from instruct.practice import question_of
from instruct.propose import METHODS, Pool, ProposeConfig, asked_for
from instruct.records import COMBINE
from instruct.rewards import Question, RewardConfig, is_right, make_reward
from instruct.world.program import Program
from instruct.world.splits import Item, draw_input
from model.complete import Completion, complete
from model.load import LoadedModel
from model.lora import LoraConfig
from model.sampling import Sampling
from model.storage import newest_intact
from train.distributed import Ranks
from train.health import HealthConfig
from train.optim import OptimizerConfig, ScheduleConfig
from train.reinforce import measure, policy_trainer, starting_model, world_lessons
from train.rollouts import LossConfig
from train.rounds import sharing
from train.run import STATE, RunFolder, TrainState
from train.stage import stage_main
from train.trainer import TrainConfig

QUESTIONS = "questions.jsonl"


@dataclass(frozen=True)
class PlayersConfig:
    """A game of several rounds. What is not named here is as in `train.reinforce`; `train` says it for each run.

    methods     in which the proposer writes, taken in turn (`instruct.propose`)
    prompts     different prompts of the proposer
    tries       answers by which is judged how hard a proposal is
    proposals   that are written after the proposer has learnt, for the solver
    alike       of them that are kept of one meaning, or what is written most would be practised most
    inputs      with which the solver practises each of them
    execution   see `train.reinforce.QuestionData`
    """

    run: str = "runs/players"
    init: str = "runs/rounds/base"
    seed: int = 0
    rounds: int = 2
    methods: tuple[str, ...] = (COMBINE, "evolve:deepen")
    prompts: int = 1000
    tries: int = 8
    proposals: int = 1000
    alike: int = 4
    inputs: int = 16
    group: int = 8
    answer_tokens: int = 64
    asked: int = 200
    measured: tuple[str, ...] = ("depth3", "compositions", "inputs")
    execution: bool = False
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self):
        problems = [
            f"{name} must be positive, got {getattr(self, name)}"
            for name in ("rounds", "prompts", "proposals", "alike", "inputs", "answer_tokens", "asked")
            if getattr(self, name) < 1
        ]
        problems += [
            f"{name} must be at least 2, got {getattr(self, name)}"
            for name in ("tries", "group")
            if getattr(self, name) < 2
        ]
        prompted = [each for each in METHODS if each != "magpie"]  # which has no prompt that a reward could belong to
        if not self.methods or {*self.methods} - {*prompted}:
            problems.append(f"methods must name some of {', '.join(prompted)}, got {', '.join(self.methods) or 'none'}")
        if self.loss.switches.advantage == "values":
            problems.append("loss.method must not be ppo: its values would be of two players")
        if self.loss.switches.skip_silent:
            problems.append("loss.method must not be dapo: the proposals of a step are judged together, none later")
        if self.train.parallel != "ddp":
            problems.append("train.parallel must be ddp: sampling needs the whole model on each rank")
        check(problems)


# Proposals -----------------------------------------------------------------------------------------------------------


def worth(rate: float) -> float:
    """The reward of an instruction that is solved with this rate."""
    return 1 - abs(2 * rate - 1)


class Proposer:
    """What the proposer is asked, and what it earns; a reward for `train.rollouts`."""

    def __init__(self, loaded: LoadedModel, course: Course, config: PlayersConfig, ranks: Ranks):
        self.loaded, self.course, self.config, self.ranks = loaded, course, config, ranks

    def questions(self, pool: Pool, count: int, salt: str) -> list[Question]:
        """Prompts to write an instruction, from parents of the pool."""
        found, propose = [], ProposeConfig()
        for number in range(count):
            rng = random.Random(f"{self.config.seed} {salt} {number}")
            method = self.config.methods[number % len(self.config.methods)]
            conversation, *_ = asked_for(method, pool, propose, rng)
            found.append(Question(conversation))
        return found

    def item(self, text: str) -> Item | None:
        """A proposal with an input and its answer; None where the world does not accept it."""
        verdict = self.course.verifier.judge(text)
        if not verdict.passed or verdict.program is None:
            return None
        program, language = Program.read(verdict.program), self.course.verifier.parser.parse(text).language
        drawn = self._drawn(program, random.Random(f"{self.config.seed} {text}"), language)
        if drawn is None or not self.course.verifier.judge(text, *drawn).right:
            return None
        return Item(text, *drawn, language, program, "proposed", drawn[0])

    def _drawn(self, program: Program, rng: random.Random, language: str) -> tuple[str, str] | None:
        return draw_input(self.course.world, program, rng, language, "train")

    def practised(self, item: Item, count: int) -> list[Item]:
        """The proposal with its input, and with up to so many different ones in all."""
        rng = random.Random(f"{self.config.seed} {item.instruction} practised")
        more = distinct(partial(self._drawn, item.program, rng, item.language), count)
        items = [item, *(replace(item, input=given, output=output, given=given) for given, output in more)]
        return list(dict.fromkeys(items))[:count]

    def rates(self, items: Sequence[Item]) -> list[float]:
        """The share of right answers to each, of `tries` at temperature 1, with different inputs as far as there are so
        many; the random numbers follow from the item."""
        tries = self.config.tries
        each = [list(islice(cycle(self.practised(item, tries)), tries)) for item in items]
        numbered = [(item, copy) for alike in each for copy, item in enumerate(alike)]
        asked = [Asked(item.instruction, item.input, item.language) for item, _ in numbered]
        seeds = [random.Random(f"{item.instruction} {item.input} {copy}").getrandbits(62) for item, copy in numbered]
        said = directly(self.loaded, asked, self.config.answer_tokens, Sampling(temperature=1.0), seeds)
        questions = [question_of(item, self.course) for item, _ in numbered]
        right = [is_right(question, text, self.course.verifier) for question, text in zip(questions, said)]
        return [sum(right[start : start + tries]) / tries for start in range(0, len(right), tries)]

    def __call__(self, questions: Sequence[Question], answers: Sequence[Completion]) -> list[float]:
        items = [self.item(said.text) if said.finished else None for said in answers]
        kept = [item for item in items if item is not None]
        rates = dict(zip(dict.fromkeys(kept), self.rates(list(dict.fromkeys(kept)))))
        meanings = [item and self.course.behaviour.fingerprint(item.program) for item in items]
        counts = sum(self.ranks.gather(Counter(meanings)), Counter())
        return [0.0 if item is None else worth(rates[item]) / counts[meaning] for item, meaning in zip(items, meanings)]

    def harvest(self, pool: Pool, number: int) -> list[tuple[Item, float]]:
        """Different proposals of the model as it is that are solved sometimes, with their rates; of each meaning the
        first `alike`."""
        share = sharing(self.ranks)
        questions = self.questions(pool, self.config.proposals, f"harvest {number}")
        numbered = list(enumerate(questions))

        def written(part: Sequence[tuple[int, Question]]) -> list[Item | None]:
            seeds = [random.Random(f"{self.config.seed} harvest {number} {i}").getrandbits(62) for i, _ in part]
            conversations = [question.conversation for _, question in part]
            said = complete(
                self.loaded, conversations, self.config.answer_tokens, Sampling(temperature=1.0), seeds, batch_rows=128
            )
            return [self.item(each.text) if each.finished else None for each in said]

        items = list(dict.fromkeys(item for item in share(written, numbered) if item is not None))
        found: dict[str, list[tuple[Item, float]]] = defaultdict(list)
        for item, rate in zip(items, share(self.rates, items)):
            if 0 < rate < 1:
                found[self.course.behaviour.fingerprint(item.program)].append((item, rate))
        return [each for alike in found.values() for each in alike[: self.config.alike]]


# The game ------------------------------------------------------------------------------------------------------------


def play(config: PlayersConfig, ranks: Ranks, fresh: bool = False) -> None:
    """All rounds. Raises UserError where the proposer finds nothing to learn from, and when it is interrupted."""
    starting_model(config.init, False)  # a wrong folder is refused before anything is written
    game = RunFolder(config.run, ranks.is_main)
    game.open(config, fresh)
    ranks.barrier()
    course = Course(config.curriculum, config.seed)
    pool = Pool(course.seeds())
    init = config.init
    for number in range(1, config.rounds + 1):
        folder = Path(config.run) / f"round{number}"
        init = _learn(config, course, folder / "proposer", init, pool, None, number, ranks)
        questions = _questions(config, course, folder / QUESTIONS, init, pool, number, ranks)
        init = _learn(config, course, folder / "solver", init, pool, questions, number, ranks)


def _questions(
    config: PlayersConfig, course: Course, path: Path, init: str, pool: Pool, number: int, ranks: Ranks
) -> list[Question]:
    """What the proposer wrote for the solver, from its file where it lies already."""
    if not ranks.from_main(path.exists()):
        proposer = Proposer(starting_model(init, False), course, config, ranks)
        found = proposer.harvest(pool, number)
        if len(found) < config.train.batch_size:
            raise UserError(
                f"of {config.proposals} proposals {len(found)} are solved sometimes but not always; a batch needs "
                f"{config.train.batch_size}: start from a model that knows more, or raise proposals"
            )
        if ranks.is_main:
            asked = [(each, rate) for item, rate in found for each in proposer.practised(item, config.inputs)]
            lessons_of = [(execute(each.instruction, each.input, each.output), rate) for each, rate in asked]
            write_rows(path, [to_row(lesson) | {"rate": rate} for lesson, rate in lessons_of])
        ranks.barrier()
    return [Question.of(conversation) for conversation in read_conversations(path)]


def _learn(
    config: PlayersConfig,
    course: Course,
    folder: Path,
    init: str,
    pool: Pool,
    questions: list[Question] | None,
    number: int,
    ranks: Ranks,
) -> str:
    """One run of policy gradient, of the solver on these questions or, without, of the proposer; gives its folder."""
    found = newest_intact(folder, [STATE])
    if ranks.from_main(found is not None and TrainState.from_json(found[1][STATE]).finished):
        return str(folder)
    loaded = starting_model(init, False)
    verifier = make_reward(RewardConfig(), course.verifier)
    proposer = Proposer(loaded, course, config, ranks)
    held_out = {
        kind: [question_of(item, course) for item in course.splits.items(kind, config.asked, literals=0.0)]
        for kind in config.measured
    }
    trainer = policy_trainer(
        config,
        RunFolder(folder, ranks.is_main),
        loaded,
        proposer.questions(pool, config.prompts, f"round {number}") if questions is None else questions,
        proposer if questions is None else verifier,
        evaluate=lambda: measure(loaded, held_out, {"": verifier}, config.answer_tokens, ranks),
        ranks=ranks,
        lessons=world_lessons(course, config.execution) if config.loss.rehearsal else (),
    )
    try:
        trainer.fit().require_finished(folder)
    finally:
        trainer.saver.finish()
    return str(folder)


def main(argv: list[str]) -> None:
    stage_main(argv, "players", PlayersConfig, play, "Let a model propose instructions and learn to solve them.")


if __name__ == "__main__":
    run_main(main)
