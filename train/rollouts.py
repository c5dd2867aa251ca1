"""Rollouts: rows for the trainer that the model writes itself, at the moment when they are asked for.

A row is a group: K answers of the current model to one question, sampled at temperature 1 (the policy that is learnt
is the one that is sampled), with their rewards turned into advantages. It is whole in one row, thus on one rank and
in one micro-batch, because its advantages compare its answers.

Everything about a rollout follows from (seed, position, weights): the question, and the random numbers of each answer.
So nothing about rollouts is stored: a resumed run samples what the uninterrupted one has sampled, and ranks sample
their own positions of what one process would have.

Each rollout is used for one update. So w = p / p_old is 1 when the gradient is taken and the clip never acts; what
several updates with the same rollouts would save in sampling, they would cost in exactness of a resumed run.

Answers from which nothing follows (their group is silent, or they are not kept, and no divergence or value is in the
loss) are counted, and the model is not run on them: where the base solves a question always or never, that is most.

What is only practised drives out what is not. So each group may have a lesson beside it, an answer more whose advantage
is always `rehearsal`: the gradient of its cross-entropy (PPO-ptx, Ouyang et al. 2022, https://arxiv.org/abs/2203.02155).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from configs import UserError, check
from data.answers import AnswerRows, example_of
from data.batches import Batch
from data.chat import Example, prompt, taken_in
from data.order import key
from instruct.rewards import Question, Reward
from model.complete import Completion
from model.generate import never_generated
from model.generation import generate
from model.heads import LanguageModel, ValuedModel
from model.load import LoadedModel
from model.sampling import Sampling
from train.advantages import (
    METHODS,
    Advantage,
    Average,
    Method,
    Switches,
    averaged,
    clipped_losses,
    gae,
    group_advantages,
    is_silent,
    k3,
)
from train.distributed import Ranks
from train.health import repetition
from train.objectives import LossTerms

ROWS = 256  # answers that are sampled together
WIDTHS = 16  # answers are taken together whose lengths, rounded up to multiples of it, are equal
BATCH_TOKENS = 65_536  # of a forward pass that needs no gradient


@dataclass(frozen=True)
class LossConfig:
    """The objective: a method, and switches that replace those of the method (`train.advantages.Switches`).

    kl               weight of the divergence from the reference
    value            weight of the squared error of the values (ppo)
    discount, trace  of generalised advantage estimation (ppo)
    good             the smallest reward of an answer that is worth learning (rft)
    rehearsal        weight of the lesson beside each group, which counts as one answer more; 0: no lessons
    """

    method: Method = "grpo"
    kl: float = 0.0
    rehearsal: float = 0.0
    value: float = 0.5
    discount: float = 1.0
    trace: float = 0.95
    good: float = 1.0
    advantage: Advantage | None = None
    average: Average | None = None
    low: float | None = None
    high: float | None = None
    skip_silent: bool | None = None
    attempts: int | None = None
    kl_in_reward: bool | None = None

    def __post_init__(self):
        problems = [
            f"{n} must not be negative, got {getattr(self, n)}"
            for n in ("kl", "rehearsal", "value")
            if getattr(self, n) < 0
        ]
        problems += [
            f"{n} must lie between 0 and 1, got {getattr(self, n)}"
            for n in ("discount", "trace")
            if not 0 <= getattr(self, n) <= 1
        ]
        check(problems)
        _ = self.switches

    @property
    def uses_all(self) -> bool:
        """Whether the loss is about every answer, also about those without an advantage."""
        return self.kl > 0 or self.switches.advantage == "values"

    @property
    def switches(self) -> Switches:
        """Those of the method, but for what is given here."""
        of_method = METHODS[self.method]
        given = {name: getattr(self, name) for name in Switches.__dataclass_fields__}
        return Switches(**{n: getattr(of_method, n) if value is None else value for n, value in given.items()})


@dataclass(frozen=True)
class RolloutBatch(Batch):
    """Groups: tokens, targets, weights, documents and positions (B, K, T), weight 1 at the tokens of answers; where
    something is rehearsed, K is one more than the answers of a group, and the last place is the lesson's. Of each token
    (B, K, T) float32: its log-probability under the model before the update (`old`) and under the reference, its
    advantage, and what its value should be. counted (B, K) float32: 1 for an answer that counts in the mean. used
    (B, K) bool: whether anything can follow from an answer; `old` and `reference` of others are 0.
    """

    old: Tensor
    reference: Tensor
    advantages: Tensor
    returns: Tensor
    counted: Tensor
    used: Tensor


class Group(NamedTuple):
    """The answers to one question: ids with their last token, texts, rewards (K,), and which are right where that is
    known."""

    question: int
    ids: list[list[int]]
    said: list[Completion]
    rewards: list[float]
    right: Sequence[float] = ()

    @property
    def is_silent(self) -> bool:
        return len(set(self.rewards)) == 1


# Log-probabilities ---------------------------------------------------------------------------------------------------


@torch.compiler.disable  # shapes differ from batch to batch: to compile each anew takes longer than it saves
def token_logs(model: LanguageModel, batch: Batch, used: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities of the tokens of answers, and the values before them if the model has values: (B, K, T), 0 at
    all other places. used (B, K) bool: the answers that the model is run on; of none the first one is taken, so that
    every parameter has a gradient on every rank. Most answers are shorter than the longest, so it is run on those of
    about one length together, cut where they end: what lies behind is padding, which nothing sees."""
    places = batch.weights > 0
    chosen = torch.ones(places.shape[:2], dtype=torch.bool, device=places.device) if used is None else used.clone()
    chosen[0, 0] |= ~chosen.any()
    last = (places * torch.arange(1, places.shape[-1] + 1, device=places.device)).amax(-1)
    ends = (-(-last // WIDTHS) * WIDTHS).clamp(min=WIDTHS)
    logs = values = None
    for end in ends[chosen].unique().tolist():
        rows = chosen & (ends == end)
        tokens, documents, positions = (part[rows, :end] for part in (batch.tokens, batch.documents, batch.positions))
        here = places & rows[..., None]
        hidden = model.trunk(tokens, documents, positions)[places[rows, :end]]  # (N, C)
        found = -model.head.losses(hidden[None], batch.targets[here][None])[0]
        logs = _with(logs, here, found)
        if isinstance(model, ValuedModel):
            values = _with(values, here, model.values(hidden).to(found.dtype))
    return logs, values


def _with(known: Tensor | None, places: Tensor, found: Tensor) -> Tensor:
    known = torch.zeros(places.shape, dtype=found.dtype, device=found.device) if known is None else known
    return known.masked_scatter(places, found)


@torch.no_grad()
def measured_logs(model: LanguageModel, batch: Batch, used: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Those of `token_logs` without gradient, in parts; 0 where an answer is not used."""
    model.eval()
    size = max(1, BATCH_TOKENS // batch.tokens[0].numel())
    masks = [None] * len(batch.tokens) if used is None else used.split(size)
    parts = [token_logs(model, part, mask) for part, mask in zip(batch.split(size), masks)]
    logs = torch.cat([logs for logs, _ in parts])
    logs = logs if used is None else logs * used[..., None]
    return logs, None if parts[0][1] is None else torch.cat([values for _, values in parts])


# Objective -----------------------------------------------------------------------------------------------------------


class ReinforceObjective:
    """An objective for the trainer: the loss of `train.advantages` on a `RolloutBatch`.

    longest: the most tokens that an answer may have.
    """

    def __init__(self, config: LossConfig, longest: int):
        self.config, self.switches, self.longest = config, config.switches, longest

    def __call__(self, model: nn.Module, batch: RolloutBatch) -> LossTerms:
        switches, config = self.switches, self.config
        policy, values = token_logs(model, batch, batch.used)
        if switches.advantage == "kept":
            losses = -policy * batch.advantages
        else:
            losses = clipped_losses(policy, batch.old, batch.advantages, switches.low, switches.high)
        if config.kl and not switches.kl_in_reward:
            losses = losses + config.kl * k3(policy, batch.reference)
        if values is not None:
            losses = losses + config.value * 0.5 * (values - batch.returns).square()
        return LossTerms(*averaged(losses, batch.weights > 0, batch.counted, switches.average, self.longest))


# Rows ----------------------------------------------------------------------------------------------------------------


class Rollouts:
    """The trainer's rows: row i is a group of answers to question i (see the head of this module).

    loaded: the model that is trained. Questions that leave no room for an answer are not asked. lessons: what is
    rehearsed; those longer than the longest question with its answer are left out, for they would widen every row.
    truth: what is right, where the reward is something else; it is only reported.
    report(step, figures): called for each batch with the figures of all ranks, named as in `train.health`; reward,
    right, length, repetition and unfinished are of all answers that were sampled, kl and entropy of those that are
    used; lessons is the cross-entropy of a token of what is rehearsed, in nats.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        reference: LanguageModel,
        questions: Sequence[Question],
        reward: Reward,
        config: LossConfig,
        *,
        group: int,
        new_tokens: int,
        batch_size: int,
        seed: int,
        ranks: Ranks,
        report: Callable[[int, dict[str, float]], None],
        lessons: Sequence[Example] = (),
        truth: Reward | None = None,
    ):
        self.loaded, self.reference, self.config = loaded, reference, config
        self.reward, self.truth = reward, truth
        self.group, self.new_tokens = group, new_tokens
        self.batch_size, self.seed, self.ranks, self.report = batch_size, seed, ranks, report
        self.context = loaded.model.config.context
        if new_tokens >= self.context:
            raise UserError(f"answer_tokens must be below the context of the model, {self.context} tokens")
        prompts = [prompt(each.conversation, loaded.tokenizer, loaded.chat) for each in questions]
        fitting = [i for i, ids in enumerate(prompts) if len(ids) + new_tokens <= self.context]
        if not fitting:
            raise UserError(
                f"none of {len(prompts)} questions leaves room for {new_tokens} tokens of an answer in a context of "
                f"{self.context}: lower answer_tokens, or ask shorter questions"
            )
        self.questions, self.prompts = [questions[i] for i in fitting], [prompts[i] for i in fitting]
        self.lessons: list[Example] = []
        if config.rehearsal:
            longest = max(map(len, self.prompts)) + new_tokens
            self.lessons = [each for each in lessons if len(each) <= longest]
            if not self.lessons:
                raise UserError(
                    f"none of {len(lessons)} lessons has at most {longest} tokens, as the longest question with its "
                    "answer: rehearse shorter lessons, raise answer_tokens, or set loss.rehearsal to 0"
                )

    def __len__(self) -> int:
        return len(self.questions)

    def batch(self, samples: np.ndarray, positions: np.ndarray) -> RolloutBatch:
        groups, tried = self.sample(samples, positions)
        batch, figures = self._with_advantages(groups, [self._lesson(int(position)) for position in positions])
        step = int(positions[0]) // self.batch_size + 1
        self.report(step, self._figures(tried, figures))
        return batch

    def sample(self, samples: Sequence[int], positions: Sequence[int]) -> tuple[list[Group], list[Group]]:
        """The group of each position, and all groups that were sampled on the way there."""
        chosen = {row: int(sample) for row, sample in enumerate(samples)}
        groups: dict[int, Group] = {}
        tried: list[Group] = []
        switches = self.config.switches
        for attempt in range(1 + (switches.attempts if switches.skip_silent else 0)):
            if attempt:
                numbers = {row: key(self.seed, int(positions[row]), attempt) for row in chosen}
                chosen = {row: int(number % np.uint64(len(self))) for row, number in numbers.items()}
            found = self._ask(chosen, positions, attempt)
            groups |= found
            tried += found.values()
            chosen = {row: chosen[row] for row, each in found.items() if each.is_silent}
            if not chosen:
                break
        return [groups[row] for row in range(len(samples))], tried

    def _ask(self, chosen: dict[int, int], positions: Sequence[int], attempt: int) -> dict[int, Group]:
        """Sample the answers of these rows, each asked the question that stands beside it, and reward them."""
        asked = [(row, copy) for row in chosen for copy in range(self.group)]
        seeds = {
            (row, copy): int(key(self.seed, int(positions[row]), attempt, copy) >> np.uint64(1)) for row, copy in asked
        }
        order = sorted(asked, key=lambda each: len(self.prompts[chosen[each[0]]]))
        written: dict[tuple[int, int], tuple[list[int], Completion]] = {}
        for start in range(0, len(order), ROWS):
            part = order[start : start + ROWS]
            prompts = [self.prompts[chosen[row]] for row, _ in part]
            written |= zip(part, self._write(prompts, [seeds[each] for each in part]))
        said = [written[each][1] for each in asked]
        questions = [self.questions[chosen[row]] for row, _ in asked]
        rewards = self.reward(questions, said)
        right = self.truth(questions, said) if self.truth else ()
        found = {}
        for number, (row, question) in enumerate(chosen.items()):
            here = slice(number * self.group, (number + 1) * self.group)
            ids = [written[row, copy][0] for copy in range(self.group)]
            found[row] = Group(question, ids, said[here], rewards[here], right[here])
        return found

    def _write(self, prompts: list[list[int]], seeds: list[int]) -> list[tuple[list[int], Completion]]:
        """Answers as ids, with the token that ended them, and as texts."""
        tokenizer, answers = self.loaded.tokenizer, []
        stops = (tokenizer.end, tokenizer.eos)
        banned = never_generated(self.loaded)
        sampling = Sampling(temperature=1.0)
        written = generate(self.loaded.model, prompts, self.new_tokens, sampling, stops[:1], seeds, banned)
        for ids in written:
            if stops[1] in ids:  # ends the text as well, and must be seen: `generate` would keep the stop to itself
                ids = ids[: ids.index(stops[1]) + 1]
            elif len(ids) < self.new_tokens:
                ids = [*ids, stops[0]]
            finished = ids[-1] in stops
            text = taken_in(tokenizer.decode(ids[:-1] if finished else ids), self.loaded.chat)
            answers.append((ids, Completion(text.strip(), finished)))
        return answers

    # From groups to a batch ------------------------------------------------------------------------------------------

    def _lesson(self, position: int) -> list[Example]:
        """The lesson beside the group of this position, if any."""
        if not self.lessons:
            return []
        return [self.lessons[int(key(self.seed, position, 0, self.group) % np.uint64(len(self.lessons)))]]

    def _with_advantages(
        self, groups: Sequence[Group], lessons: Sequence[list[Example]]
    ) -> tuple[RolloutBatch, dict[str, float]]:
        """The batch, on the device of the model, and sums for the figures of its tokens."""
        switches, config, device, K = self.config.switches, self.config, self.ranks.device, self.group
        examples = [
            [*(example_of(self.prompts[g.question], ids) for ids in g.ids), *lesson]
            for g, lesson in zip(groups, lessons)
        ]
        rows = AnswerRows(examples, self.context, self.loaded.tokenizer.pad)
        batch = rows.batch(np.arange(len(groups)), np.arange(len(groups))).to(device)
        rewards = torch.tensor([g.rewards for g in groups], dtype=torch.float32, device=device)  # (B, K)
        counted, used = self._counted_and_used(groups, rewards)
        lesson = torch.ones(len(groups), rows.size - K, device=device)  # (B, 1), or (B, 0) where nothing is rehearsed
        run = torch.cat([used, lesson > 0], 1)
        old, values = measured_logs(self.loaded.model, batch, run)
        reference, _ = measured_logs(self.reference, batch, run)
        mask, gaps = batch.weights > 0, (old - reference)[:, :K]
        own = mask[:, :K]
        if switches.advantage == "kept":
            advantages = own.to(old.dtype)
        elif switches.advantage == "values":
            spread = _at_last(rewards, own) - self._penalty() * gaps * own
            advantages = gae(spread, values[:, :K], own, config.discount, config.trace)
        else:
            penalty = self._penalty() * (gaps * own).sum(-1)
            advantages = group_advantages(rewards - penalty, switches.advantage)[..., None] * own
        sums = {
            "used": int(used.sum()),
            "tokens": int((own & used[..., None]).sum()),
            "kl": float(k3(old[:, :K], reference[:, :K]).sum()),
            "entropy": float(-old[:, :K].sum()),
            "told": int(mask[:, K:].sum()),
            "lessons": float(-old[:, K:].sum()),
        }
        returns = torch.zeros_like(old) if values is None else values.clone()  # of a lesson nothing is to be learnt
        returns[:, :K] += 0 if values is None else advantages
        advantages = torch.cat([advantages, config.rehearsal * mask[:, K:]], 1)
        fields = {name: getattr(batch, name) for name in Batch.__dataclass_fields__}
        samples = torch.tensor([g.question for g in groups], device=device)
        counted = torch.cat([counted, lesson], 1)
        return RolloutBatch(
            **(fields | {"samples": samples}), **_named(old, reference, advantages, returns, counted, run)
        ), sums

    def _counted_and_used(self, groups: Sequence[Group], rewards: Tensor) -> tuple[Tensor, Tensor]:
        """Those of a `RolloutBatch`; at least one answer is used."""
        switches, silent = self.config.switches, is_silent(rewards)[:, None].expand_as(rewards)
        if switches.advantage == "kept":
            counted = torch.tensor([self._kept(g) for g in groups], dtype=rewards.dtype, device=rewards.device)
            used = counted > 0
        else:
            counted = (~silent | (not switches.skip_silent)).to(rewards.dtype)
            used = ~silent
        used = torch.ones_like(used) if self.config.uses_all else used
        used[0, 0] |= ~used.any()
        return counted, used

    def _penalty(self) -> float:
        return self.config.kl if self.config.switches.kl_in_reward else 0.0

    def _kept(self, group: Group) -> list[float]:
        """1 for the first of each different answer that is good."""
        firsts = {tuple(ids): i for i, ids in reversed(list(enumerate(group.ids)))}
        return [
            float(reward >= self.config.good and firsts[tuple(ids)] == i)
            for i, (ids, reward) in enumerate(zip(group.ids, group.rewards))
        ]

    def _figures(self, tried: Sequence[Group], of_tokens: dict[str, float]) -> dict[str, float]:
        """Of all ranks."""
        answers = [each for group in tried for each in zip(group.ids, group.said, group.rewards)]
        sums = [
            *(len(tried), len(answers)),
            *(of_tokens[name] for name in ("used", "tokens", "kl", "entropy", "told", "lessons")),
            *(sum(group.is_silent for group in tried), sum(reward for *_, reward in answers)),
            *(sum(len(ids) for ids, *_ in answers), sum(repetition(ids) for ids, *_ in answers)),
            *(sum(not said.finished for _, said, _ in answers), sum(sum(group.right) for group in tried)),
        ]
        totals = self.ranks.sum(torch.tensor(sums, dtype=torch.float64, device=self.ranks.device)).tolist()
        groups, answers, used, tokens, kl, entropy, told, lessons, silent, *rest = totals
        names = ("reward", "length", "repetition", "unfinished", *(["right"] if self.truth else []))
        figures = dict(zip(names, (total / answers for total in rest)))
        figures |= {"silent": silent / groups, "kl": kl / used, "entropy": entropy / tokens, "groups": groups}
        return figures | ({"lessons": lessons / told} if told else {})


def _named(*tensors: Tensor) -> dict[str, Tensor]:
    return dict(zip(("old", "reference", "advantages", "returns", "counted", "used"), tensors))


def _at_last(rewards: Tensor, mask: Tensor) -> Tensor:
    """Rewards (B, K) at the last token of each answer: (B, K, T)."""
    last = mask & (mask.flip(-1).cumsum(-1).flip(-1) == 1)
    return rewards[..., None] * last
