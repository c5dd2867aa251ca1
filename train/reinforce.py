"""Learning by trying: the model answers, a reward judges, and what went better than expected becomes likelier.

    python -m train.reinforce configs/demo/reinforce.toml [section.key=value ...]
    python -m train.reinforce configs/demo/reinforce.toml reward.kind=function reward.function=my_module:judge
    torchrun --standalone --nproc_per_node=2 -m train.reinforce configs/demo/reinforce.toml

`init` is the run folder of a model, which is the reference too. Questions come from files of conversations
(`data.formats`; a last answer is what is expected), or, when none is named, from the world (`instruct.practice`).
Methods and their sources stand in `train.advantages`, rewards in `instruct.rewards`, sampling in `train.rollouts`.

Each step writes a record of the kind "rollouts" (reward, kl, entropy, length, repetition, unfinished, silent), which
`train.health` judges: a run that goes wrong stops and says why. Each evaluation answers held-out questions greedily and
says the mean reward of each kind. With another reward than the verifier, both also say of the world's questions which
share is truly right (right, KIND_right): a reward that is being outwitted is seen, and stops the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import nn

from configs import UserError, check, run_main
from data.chat import Conversation, fit_all
from data.formats import read_conversations
from instruct.curriculum import Course, CurriculumConfig
from instruct.labelled import divide
from instruct.practice import Ask, practice, question_of
from instruct.rewards import Question, Reward, RewardConfig, make_reward
from instruct.teach import ON_REQUEST, SHARES, teach
from model.complete import complete
from model.heads import ValuedModel
from model.load import LoadedModel, load_run, model_files
from model.lora import LoraConfig
from train.distributed import Ranks
from train.health import Health, HealthConfig
from train.optim import OptimizerConfig, ScheduleConfig
from train.parallel import frozen_copy, with_adapters
from train.rollouts import LossConfig, ReinforceObjective, Rollouts
from train.rounds import sharing
from train.run import RunFolder, TrainState, read_metrics
from train.stage import stage_main
from train.trainer import TrainConfig, Trainer

if TYPE_CHECKING:
    from train.players import PlayersConfig

LESSONS = 10_000  # of the world, to rehearse
MEASURED = ("inputs", "phrasings", "open", "compositions", "depth3")


@dataclass(frozen=True)
class QuestionData:
    """Which questions.

    paths        files of conversations; empty: questions of the world
    validation   share of the questions of `paths` that is held out
    depths, count   of the world's questions: how many operations they ask for, and how many there are
    ask          whether they ask for the answer, or for a plan, which is right where it means the same
    measured     kinds of the world's held-out questions that evaluations ask (`instruct.world.splits`)
    curriculum   the world: that which `init` was taught
    lessons      files of conversations to rehearse (`loss.rehearsal`); empty: lessons of the world, as `train.rounds`
                 teaches them
    execution    whether these are also in answering by chains, as where `train.rounds` had this setting
    """

    paths: tuple[str, ...] = ()
    validation: float = 0.1
    depths: tuple[int, ...] = (3,)
    count: int = 2000
    ask: Ask = "answer"
    measured: tuple[str, ...] = ("depth3", "compositions", "inputs")
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    lessons: tuple[str, ...] = ()
    execution: bool = False

    def __post_init__(self):
        problems = [] if 0 < self.validation < 1 else [f"validation must lie between 0 and 1, got {self.validation}"]
        if not self.depths or min(self.depths) < 1:
            problems.append(f"depths must name whole numbers from 1, got {self.depths}")
        if self.count < 1:
            problems.append(f"count must be positive, got {self.count}")
        unknown = sorted({*self.measured} - {*MEASURED})
        problems += [f"unknown kind {name!r} in measured: kinds are {', '.join(MEASURED)}" for name in unknown]
        check(problems)


@dataclass(frozen=True)
class ReinforceConfig:
    """A run of policy gradient. A row of a batch is a group: `train.batch_size` questions, `group` answers to each.

    init           run folder (or checkpoint folder) of the model to start from, which is the reference
    group          answers to each question
    answer_tokens  the most tokens of an answer
    asked          held-out questions of each kind that an evaluation asks
    lora           adapters that are trained instead of the model
    """

    run: str = "runs/reinforce"
    init: str = "runs/sft"
    seed: int = 0
    group: int = 8
    answer_tokens: int = 48
    asked: int = 200
    data: QuestionData = field(default_factory=QuestionData)
    reward: RewardConfig = field(default_factory=RewardConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self):
        problems = [] if self.init else ["init must name the run folder of a model"]
        if self.group < 2:
            problems.append(f"group must be at least 2, got {self.group}: answers are compared with each other")
        problems += [
            f"{n} must be positive, got {getattr(self, n)}" for n in ("answer_tokens", "asked") if getattr(self, n) < 1
        ]
        if self.train.parallel != "ddp":
            problems.append("train.parallel must be ddp: sampling needs the whole model on each rank")
        if self.data.lessons and not self.loss.rehearsal:
            problems.append("data.lessons are not read while loss.rehearsal is 0: raise it, or leave them out")
        if self.data.lessons and self.data.execution:
            problems.append("data.execution is about lessons of the world: set it to false, or leave data.lessons out")
        if self.data.paths and self.loss.rehearsal and not self.data.lessons:
            problems.append("data.paths are not of the world: name data.lessons to rehearse or set loss.rehearsal=0")
        check(problems)


# Questions -----------------------------------------------------------------------------------------------------------


def questions_of(config: ReinforceConfig, course: Course) -> tuple[list[Question], dict[str, list[Question]]]:
    """Those to train on, and held-out ones by kind."""
    data = config.data
    if data.paths:
        return _from_files(data, config.asked)
    held_out = {
        kind: [question_of(item, course, data.ask) for item in course.splits.items(kind, config.asked, literals=0.0)]
        for kind in data.measured
    }
    return practice(course, data.depths, data.count, config.seed, data.ask), held_out


def _from_files(data: QuestionData, asked: int) -> tuple[list[Question], dict[str, list[Question]]]:
    found = (Question.of(each) for path in data.paths for each in read_conversations(path, split="train"))
    train, held_out = divide(found, data.validation, lambda question: question.text)
    if not train or not held_out:
        raise UserError(
            f"{', '.join(data.paths)} give {len(train)} questions to train on and {len(held_out)} to hold out; both "
            "are needed: give more, or change data.validation"
        )
    return train, {"held_out": held_out[:asked]}


def lessons_of(data: QuestionData, course: Course) -> list[Conversation]:
    """What is rehearsed: of files, or of the world."""
    if data.lessons:
        return [each for path in data.lessons for each in read_conversations(path, split="train")]
    return world_lessons(course, data.execution)


def world_lessons(course: Course, execution: bool) -> list[Conversation]:
    """Lessons in what the world's models were taught."""
    return teach(course.seeds(), LESSONS, course.seed, (*SHARES, *(ON_REQUEST if execution else ())))


def measure(
    loaded: LoadedModel,
    held_out: Mapping[str, Sequence[Question]],
    rewards: Mapping[str, Reward],
    new_tokens: int,
    ranks: Ranks,
) -> dict[str, float]:
    """The mean of each reward over greedy answers, by kind of question; the name of a reward is put behind the kind."""
    share = sharing(ranks)

    def judged(part: Sequence[Question]) -> list[tuple[float, ...]]:
        said = complete(loaded, [question.conversation for question in part], new_tokens, batch_rows=128)
        return list(zip(*(reward(part, said) for reward in rewards.values())))

    figures = {}
    for kind, asked in held_out.items():
        if asked:
            columns = zip(*share(judged, asked))
            figures |= {f"{kind}{name}": sum(column) / len(asked) for name, column in zip(rewards, columns)}
    return figures


# The run -------------------------------------------------------------------------------------------------------------


def starting_model(init: str, has_values: bool) -> LoadedModel:
    """The model to train, without dropout (probabilities before and after must be of one network)."""
    loaded = load_run(init)
    if not loaded.model.config.causal:
        raise UserError(f"{init} holds an encoder, which gives no answers; use a causal model")
    for module in loaded.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model = ValuedModel.of(loaded.model) if has_values else loaded.model
    return LoadedModel(model, loaded.tokenizer, loaded.chat, loaded.folder)


class Watch:
    """Logs the figures of each step, and stops a run that `health` finds ill."""

    def __init__(self, health: Health, run: RunFolder):
        self.health, self.run = health, run

    def resume(self, ranks: Ranks) -> None:
        """See what the run has seen before its newest checkpoint."""
        has_records = (self.run.path / "metrics.jsonl").exists()
        records = ranks.from_main(read_metrics(self.run.path) if has_records else [])
        self.health.replay(records, "rollouts")

    def __call__(self, step: int, figures: dict[str, float]) -> None:
        self.run.log({"kind": "rollouts", "step": step, **figures})
        if problem := self.health.check(figures):
            raise UserError(f"step {step} was not taken: {problem}. The last checkpoint stands in {self.run.path}")


def build_trainer(config: ReinforceConfig, ranks: Ranks, fresh: bool = False) -> Trainer:
    """Everything a run needs, from its configuration."""
    run = RunFolder(config.run, ranks.is_main)
    run.check(config, fresh)
    loaded = starting_model(config.init, config.loss.switches.advantage == "values")
    course = Course(config.data.curriculum, config.seed)
    questions, held_out = questions_of(config, course)
    reward = make_reward(config.reward, course.verifier)
    knows_better = config.reward.kind != "verifier" and not config.data.paths
    truth = make_reward(RewardConfig(), course.verifier) if knows_better else None
    rewards = {"": reward} | ({"_right": truth} if truth else {})
    trainer = policy_trainer(
        config,
        run,
        loaded,
        questions,
        reward,
        evaluate=lambda: measure(loaded, held_out, rewards, config.answer_tokens, ranks),
        ranks=ranks,
        lessons=lessons_of(config.data, course) if config.loss.rehearsal else (),
        truth=truth,
        fresh=fresh,
    )
    if ranks.is_main:
        counts = ", ".join(f"{len(asked)} {kind}" for kind, asked in held_out.items())
        taken = len(trainer.rows)
        print(f"{taken} questions to train on ({len(questions) - taken} too long); held out: {counts}")
    return trainer


def policy_trainer(
    config: ReinforceConfig | PlayersConfig,
    run: RunFolder,
    loaded: LoadedModel,
    questions: Sequence[Question],
    reward: Reward,
    evaluate: Callable[[], dict[str, float]],
    ranks: Ranks,
    lessons: Sequence[Conversation] = (),
    truth: Reward | None = None,
    fresh: bool = False,
) -> Trainer:
    """The trainer of one run of policy gradient from `loaded`, in a folder that it opens."""
    reference = frozen_copy(loaded.model, config.train.precision, ranks.device)
    with_adapters(loaded.model, config.lora, config.train.parallel, config.seed, ranks)
    watch = Watch(Health(config.health), run)
    rows = Rollouts(
        loaded,
        reference,
        questions,
        reward,
        config.loss,
        group=config.group,
        new_tokens=config.answer_tokens,
        batch_size=config.train.batch_size,
        seed=config.seed,
        ranks=ranks,
        report=watch,
        lessons=fit_all(lessons, loaded.tokenizer, loaded.chat, loaded.model.config.context + 1)[0] if lessons else (),
        truth=truth,
    )
    run.open(config, fresh)
    ranks.barrier()
    trainer = Trainer(
        config=config.train,
        optimizer=config.optimizer,
        schedule=config.schedule,
        model=loaded.model,
        objective=ReinforceObjective(config.loss, config.answer_tokens),
        rows=rows,
        run=run,
        ranks=ranks,
        files=lambda: model_files(loaded.model, loaded.tokenizer, loaded.chat),
        evaluate=evaluate,
        seed=config.seed,
    )
    watch.resume(ranks)
    return trainer


def reinforce(config: ReinforceConfig, ranks: Ranks, fresh: bool = False) -> TrainState:
    """Train one model as `config` says; returns the state that was reached. Raises UserError when its health fails."""
    trainer = build_trainer(config, ranks, fresh)
    try:
        return trainer.fit()
    finally:
        trainer.saver.finish()


def main(argv: list[str]) -> None:
    stage_main(argv, "reinforce", ReinforceConfig, reinforce, "Tune a model by the rewards of its own answers.")


if __name__ == "__main__":
    run_main(main)
