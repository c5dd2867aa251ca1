"""What learning from feedback gains: every method from the same base, from the same number of answers of its own.

    python -m train.feedback configs/feedback.toml --seeds 3 --out results [--arms grpo,dpo] [--finished]

The bases are models of `train.rounds`, which know a world's operations and do worse at chains of them. Nobody teaches
the right answers to these: each method learns from answers of the base (or of itself) and from what is said about them.
Policy gradient may rehearse beside it what the base was taught (`reinforce.loss.rehearsal`); `lessons` is the control.

    grpo, dr-grpo, dapo, rloo, ppo, rft      `train.reinforce` with that loss.method, rewarded by the verifier
    lessons                                  the same without any reward: what their rehearsed lessons do by themselves
    dpo, cdpo, rdpo, ipo, hinge, simpo, orpo, kto    `train.prefer` with that loss.kind, on pairs of the base's answers
    dpo-10, dpo-20, dpo-30                   dpo where the (simulated) rater is wrong that often, in per cent
    reward                                   a reward model of these pairs, then policy gradient with it alone:
                                             does the true reward follow? The rule that stops it is off
    reward-watched                           the same with the rule (`health.right`), by the reward model of `reward`,
                                             whose training is counted there
    players                                  `train.players`: half of the steps for the proposer, half for the solver;
                                             the answers by which proposals are judged come on top
    sft, adapters                            `train.sft` on another task, of all weights and of adapters: these learn
                                             from right answers, and only their own two gains can be compared

Policy gradient samples steps x batch_size x group answers, pairs are made of questions x samples answers; the two
numbers must be equal, and so must that of `players`. `dapo`, which asks again where a group is silent, has smaller
batches, so that it samples no more than this; the report says how many. CPU time is counted for each arm; the pairs of
a seed are made once, and what that took is counted for every arm that learns from them.

Each arm is a folder RUN/seedN/ARM with its run and `marks.json`; what is finished is not repeated, and what was
interrupted goes on, with the CPU time from there on only. A run that `train.health` stops is reported as stopped, with
the marks of its last checkpoint. Writes `feedback.json`, `feedback.md` and a picture.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from configs import UserError, check, load, run_main
from configs.machine import machine
from data.preferences import Preference, read_preferences, write_preferences
from instruct.curriculum import Course, CurriculumConfig
from instruct.exam import grade, set_exam
from instruct.pairs import make_pairs
from instruct.raters import Rater, Rightness
from instruct.rewards import RewardConfig as RewardKind
from model.load import load_run
from train.advantages import METHODS
from train.answers import accuracy
from train.distributed import Ranks, setup, teardown
from train.feedback_report import figures_of, write
from train.players import PlayersConfig, play
from train.prefer import PreferConfig, prefer
from train.preference import Kind
from train.reinforce import ReinforceConfig, reinforce
from train.reward import RewardConfig, train_reward
from train.rounds import sharing
from train.run import TrainState, read_metrics, write_text
from train.sft import SftConfig, fine_tune, questions_of, read_instructions

NOISE = {"dpo-10": 0.1, "dpo-20": 0.2, "dpo-30": 0.3}
TUNED = ("sft", "adapters")
BY_MODEL = ("reward", "reward-watched")
PAIRED = (*get_args(Kind), *NOISE, *BY_MODEL)
ARMS = (*METHODS, "lessons", *get_args(Kind), *NOISE, *BY_MODEL, "players", *TUNED)
NOTHING = "(?!)"  # a pattern that no answer matches
MARKS = "marks.json"
COST = ".cost.json"  # beside a file of pairs: what they took


@dataclass(frozen=True)
class FeedbackConfig:
    """The stages as they are by themselves; what they have in common is said once, here.

    bases       run folder of the model to start from; {seed} stands for the seed
    exam        questions of each kind that a model is asked before and after
    curriculum  the world: that of the bases
    """

    run: str = "runs/feedback"
    bases: str = "runs/construct/seed{seed}/base"
    seed: int = 0
    exam: int = 300
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    reinforce: ReinforceConfig = field(default_factory=ReinforceConfig)
    prefer: PreferConfig = field(default_factory=PreferConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    players: PlayersConfig = field(default_factory=PlayersConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    adapters: SftConfig = field(default_factory=SftConfig)

    def __post_init__(self):
        check([f"exam must be positive, got {self.exam}"] if self.exam < 1 else [])

    def require_comparable(self) -> None:
        """Raises UserError where arms would learn from different numbers of answers, or both tunings of the same
        weights."""
        if self.sft.lora.rank or not self.adapters.lora.rank:
            raise UserError("set adapters.lora.rank above 0, and sft.lora.rank to 0: these two are to be compared")
        if self.players.group != self.reinforce.group:
            raise UserError(f"players.group must be that of reinforce, {self.reinforce.group}: answers are so counted")
        for name, count in (("prefer", self.paired), ("players", self.played)):
            if count != self.sampled:
                raise UserError(f"reinforce samples {self.sampled:,} answers, {name} {count:,}; make them equally many")

    @property
    def sampled(self) -> int:
        return self.reinforce.train.steps * self.reinforce.train.batch_size * self.reinforce.group

    @property
    def paired(self) -> int:
        return self.prefer.data.pairs.questions * self.prefer.data.pairs.samples

    @property
    def played(self) -> int:
        game = self.players
        return 2 * game.rounds * game.train.steps * game.train.batch_size * game.group


# Arms ----------------------------------------------------------------------------------------------------------------


class Arms:
    """The arms of one seed."""

    def __init__(self, config: FeedbackConfig, seed: int, ranks: Ranks):
        self.config, self.seed, self.ranks = config, seed, ranks
        self.folder = Path(config.run) / f"seed{seed}"
        self.base = config.bases.format(seed=seed)
        self.course = Course(config.curriculum, seed)

    def marks(self, name: str, finished: bool = False) -> dict[str, Any] | None:
        """What is known of an arm ("base": of the base), which is run where it is not known; None with `finished`."""
        path = self.folder / name / MARKS
        if not self.ranks.from_main(path.exists()):
            if finished:
                return None
            if self.ranks.is_main:
                print(f"\n=== seed {self.seed}, {name}", flush=True)
            made = self.pairs_seconds() if name in PAIRED else 0.0
            started, more = time.process_time(), {}
            model = Path(self.base)
            if name != "base":
                model, more = self._run(name)
            seconds = made + time.process_time() - started
            found = grade(load_run(model), self.course, set_exam(self.course, self.config.exam), sharing(self.ranks))
            if self.ranks.is_main:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, json.dumps({"marks": found, "cpu_seconds": seconds} | more, indent=1) + "\n")
            self.ranks.barrier()
        return json.loads(path.read_text("utf-8"))

    def _run(self, name: str) -> tuple[Path, dict[str, Any]]:
        """The model of an arm, and what is to be said about its way."""
        run = self.folder / name / "run"
        if name == "players":
            return self._played(run)
        if name in BY_MODEL:
            return self._by_reward_model(run, is_watched=name == "reward-watched")
        if name in TUNED:
            return self._tuned(run, getattr(self.config, name))
        if name == "lessons":
            return self._followed(run, self._only_lessons(run), "rollouts")
        if name in METHODS:
            return self._followed(run, self._reinforced(run, name, reward=RewardKind()), "rollouts")
        kind = "dpo" if name in NOISE else name
        config = replace(
            self.config.prefer,
            run=str(run),
            init=self.base,
            seed=self.seed,
            loss=replace(self.config.prefer.loss, kind=kind),
            data=replace(self.config.prefer.data, paths=(str(self.pairs(NOISE.get(name, 0.0))),)),
        )
        return self._followed(run, lambda: prefer(config, self.ranks), "evaluation")

    def _followed(self, run: Path, work: Callable[[], TrainState], kind: str) -> tuple[Path, dict[str, Any]]:
        """The model of a run and its records of a kind, also of one that was stopped after its first checkpoint."""
        stopped = None
        try:
            state = work()
        except UserError as error:
            stopped = str(error)
            if not (run / "checkpoints").exists() or not (run / "metrics.jsonl").exists():
                raise
        else:
            state.require_finished(run)
        records = [record for record in read_metrics(run) if record["kind"] in (kind, "evaluation")]
        return run, {"stopped": stopped, "records": records}

    def _only_lessons(self, run: Path) -> Callable[[], TrainState]:
        given = self.config.reinforce
        if not given.loss.rehearsal:
            raise UserError("the arm lessons needs reinforce.loss.rehearsal above 0, else nothing is learnt")
        nothing = RewardKind("pattern", pattern=NOTHING)
        health = replace(given.health, silent=0.0)
        return self._reinforced(run, given.loss.method, reward=nothing, health=health)

    def _reinforced(self, run: Path, method: str, **changes: Any) -> Callable[[], TrainState]:
        given = self.config.reinforce
        loss = replace(given.loss, method=method)
        tries = 1 + (loss.switches.attempts if loss.switches.skip_silent else 0)
        config = replace(
            given,
            run=str(run),
            init=self.base,
            seed=self.seed,
            loss=loss,
            data=replace(given.data, curriculum=self.config.curriculum),
            train=replace(given.train, batch_size=max(given.train.batch_size // tries, 1)),
            **changes,
        )
        return lambda: reinforce(config, self.ranks)

    def _by_reward_model(self, run: Path, is_watched: bool) -> tuple[Path, dict[str, Any]]:
        judge = self.folder / "reward" / "judge"
        data = replace(self.config.reward.data, paths=(str(self.pairs(0.0)),))
        config = replace(self.config.reward, run=str(judge), init=self.base, seed=self.seed, data=data)
        train_reward(config, self.ranks).require_finished(judge)
        report = json.loads((judge / "report.json").read_text("utf-8"))
        given, learnt = self.config.reinforce, RewardKind("model", model=str(judge))
        health = given.health if is_watched else replace(given.health, right=0.0)
        work = self._reinforced(run, given.loss.method, reward=learnt, health=health)
        model, more = self._followed(run, work, "rollouts")
        return model, more | {"reward_model": report}

    def _played(self, run: Path) -> tuple[Path, dict[str, Any]]:
        game = replace(
            self.config.players, run=str(run), init=self.base, seed=self.seed, curriculum=self.config.curriculum
        )
        play(game, self.ranks)
        rounds = [run / f"round{number}" for number in range(1, game.rounds + 1)]
        parts = [folder / player for folder in rounds for player in ("proposer", "solver")]
        records = [
            {"round": part.parent.name, "player": part.name} | record
            for part in parts
            for record in read_metrics(part)
            if record["kind"] in ("rollouts", "evaluation")
        ]
        return parts[-1], {"stopped": None, "records": records}

    def _tuned(self, run: Path, config: SftConfig) -> tuple[Path, dict[str, Any]]:
        """With the accuracy on held-out questions of the task before and after."""
        config = replace(config, run=str(run), init=self.base, seed=self.seed)
        questions = questions_of(read_instructions(config.data, self.seed)[1])[: config.asked or None]
        fine_tune(config, self.ranks).require_finished(run)
        found = []
        for loaded in (load_run(self.base), load_run(run)):
            model = loaded.model.to(self.ranks.device)
            found.append(accuracy(model, loaded.tokenizer, loaded.chat, questions, config.answer_tokens, self.ranks))
        return run, {"stopped": None, "records": [], "task": dict(zip(("before", "after"), found))}

    def pairs_seconds(self) -> float:
        """The CPU time that the pairs of the base took."""
        return json.loads(self.pairs(0.0).with_suffix(COST).read_text("utf-8"))["cpu_seconds"]

    def pairs(self, noise: float) -> Path:
        """The file of the base's pairs, judged by a rater that errs so often; made where it is not there yet."""
        path = self.folder / f"pairs-{noise:.0%}.jsonl".replace("%", "")
        if not self.ranks.from_main(path.with_suffix(COST).exists()):
            started = time.process_time()
            if noise:
                rater = Rater("verifier", (Rightness(self.course.verifier),), noise, self.seed)
                found = [judged(rater, pair) for pair in read_preferences(self.pairs(0.0))]
            else:
                making = self.config.prefer.data.pairs
                found = make_pairs(load_run(self.base), self.course, making, self.seed, sharing(self.ranks))
            if self.ranks.is_main:
                write_preferences(path, found)
                cost = {"cpu_seconds": time.process_time() - started}
                write_text(path.with_suffix(COST), json.dumps(cost) + "\n")
            self.ranks.barrier()
        return path


def judged(rater: Rater, pair: Preference) -> Preference:
    """The same two answers, as this rater prefers them."""
    if rater.choose(pair.prompt, pair.chosen, pair.rejected) == "right":
        pair = replace(pair, chosen=pair.rejected, rejected=pair.chosen)
    return replace(pair, rater=str(rater))


def table_of(
    config: FeedbackConfig, seeds: int, arms: Sequence[str], ranks: Ranks, finished: bool = False
) -> dict[str, dict[int, Any]]:
    """{arm: {seed: what is known of it}}, "base" among the arms; with `finished`, of those that are there."""
    table: dict[str, dict[int, Any]] = {name: {} for name in ("base", *arms)}
    for seed in range(seeds):
        of_seed = Arms(config, seed, ranks)
        for name in table:
            if (found := of_seed.marks(name, finished)) is not None:
                table[name][seed] = found
    return table


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m train.feedback", description="Measure what feedback gains.")
    parser.add_argument("config", help="TOML file, for example configs/feedback.toml")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="replace settings of the file")
    parser.add_argument("--seeds", type=int, default=3, help="how many (default 3)")
    parser.add_argument("--arms", default=",".join(ARMS), help="which, with commas between (default all)")
    parser.add_argument("--finished", action="store_true", help="run no arm: report those that are finished")
    parser.add_argument("--out", default="results", help="folder of feedback.json, .md, .png (default results)")
    arguments = parser.parse_intermixed_args(argv)
    config = load(FeedbackConfig, arguments.config, arguments.overrides)
    config.require_comparable()
    arms = arguments.arms.split(",")
    if unknown := sorted(set(arms) - set(ARMS)):
        raise UserError(f"unknown arm {', '.join(unknown)}: arms are {', '.join(ARMS)}")
    if arguments.seeds < 1:
        raise UserError(f"--seeds must be at least 1, got {arguments.seeds}")
    for seed in range(arguments.seeds):
        if not (folder := Path(config.bases.format(seed=seed))).exists():
            raise UserError(f"there is no base {folder}; train it with train.rounds, or name others with bases=...")
    ranks = setup(config.reinforce.train.device, config.reinforce.train.threads)
    try:
        table = table_of(config, arguments.seeds, arms, ranks, arguments.finished)
        if ranks.is_main:
            report: Mapping[str, Any] = {
                "command": f"python -m train.feedback {' '.join(argv)}",
                "machine": machine(),
                "answers": config.sampled,
                **figures_of(table, config.reinforce.group),
            }
            write(report, Path(arguments.out))
    finally:
        teardown()


if __name__ == "__main__":
    run_main(main)
