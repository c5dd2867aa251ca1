"""How the model answers an instruction: directly, or by a plan of its own whose steps it carries out itself.

    directly(loaded, [Asked("Sort the numbers, then give the last.", "3 9 1")])     # ["9"]
    by_plan(loaded, [...])      # the same through: "Sort the numbers." -> "1 3 9"; "Give the last number." -> "9"
    vote(loaded, [...], 8)      # the most frequent of 8 sampled answers, and how many gave it

A plan is where a small model is stronger than its own direct answer: it has never seen the composition, but knows its
parts. What a verifier accepts of such answers teaches the direct way (Zelikman et al. 2022, STaR).

All work is batched over the questions. An answer that was cut off at the limit of tokens counts as none ("").
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from data.chat import Conversation
from instruct import lessons
from model.complete import complete
from model.load import LoadedModel
from model.sampling import Sampling

PLAN_TOKENS = 80
MOST_STEPS = 6


@dataclass(frozen=True)
class Asked:
    """An instruction, its input ("" for none) and its language ("en" or "zh")."""

    instruction: str
    input: str = ""
    language: str = "en"


@dataclass(frozen=True)
class Step:
    """A sub-instruction, what it was given and what came of it."""

    instruction: str
    input: str
    output: str


@dataclass(frozen=True)
class Trace:
    """A question answered in steps. `output` is "" where there was no plan or a step gave nothing."""

    asked: Asked
    steps: tuple[Step, ...]

    @property
    def output(self) -> str:
        return self.steps[-1].output if self.steps else ""


def say(
    loaded: LoadedModel,
    conversations: Sequence[Conversation],
    new_tokens: int,
    sampling: Sampling | None = None,
    seeds: Sequence[int] | None = None,
) -> list[str]:
    """What the model says in each conversation; "" where it did not come to an end."""
    said = complete(loaded, conversations, new_tokens, sampling, seeds, batch_rows=128)
    return [completion.text.strip() if completion.finished else "" for completion in said]


def directly(
    loaded: LoadedModel,
    asked: Sequence[Asked],
    new_tokens: int = 48,
    sampling: Sampling | None = None,
    seeds: Sequence[int] | None = None,
) -> list[str]:
    """One answer for each question; greedy without `sampling`."""
    return say(loaded, [lessons.execute(one.instruction, one.input) for one in asked], new_tokens, sampling, seeds)


def plans(loaded: LoadedModel, asked: Sequence[Asked], sampling: Sampling | None = None) -> list[tuple[str, ...]]:
    """The sub-instructions that the model takes each instruction apart into; () where it found none or too many."""
    unique = list(dict.fromkeys((one.instruction, one.language) for one in asked))
    said = say(loaded, [lessons.plan(*one) for one in unique], PLAN_TOKENS, sampling)
    found = {one: lessons.split_plan(text) for one, text in zip(unique, said)}
    steps = [found[one.instruction, one.language] for one in asked]
    return [each if len(each) <= MOST_STEPS else () for each in steps]


def by_plan(
    loaded: LoadedModel,
    asked: Sequence[Asked],
    new_tokens: int = 48,
    known: Sequence[tuple[str, ...]] | None = None,
) -> list[Trace]:
    """Each question through the model's own plan, greedily; the output of a step is the input of the next.

    known: for each question the plan that it was made from; () where there is none and the model has to make one.
    """
    known = known or [()] * len(asked)
    made = iter(plans(loaded, [one for one, steps in zip(asked, known) if not steps]))
    todo = [steps or next(made) for steps in known]
    done: list[list[Step]] = [[] for _ in asked]
    for number in range(max(map(len, todo), default=0)):
        alive = [i for i, steps in enumerate(todo) if number < len(steps) and (not done[i] or done[i][-1].output)]
        given = [done[i][-1].output if done[i] else asked[i].input for i in alive]
        questions = [Asked(todo[i][number], text, asked[i].language) for i, text in zip(alive, given)]
        for i, question, output in zip(alive, questions, directly(loaded, questions, new_tokens)):
            done[i].append(Step(question.instruction, question.input, output))
    return [Trace(one, tuple(steps)) for one, steps in zip(asked, done)]


def vote(
    loaded: LoadedModel, asked: Sequence[Asked], samples: int, temperature: float = 0.7, new_tokens: int = 48
) -> list[tuple[str, int]]:
    """The most frequent of `samples` answers to each question, and its votes (self-consistency, Wang et al. 2022).

    Of answers with equally many votes the one that came first; ("", 0) where none came to an end. The random numbers
    follow from the question, so that it is answered alike in whatever company.
    """
    repeated = [one for one in asked for _ in range(samples)]
    seeds = [random.Random(f"{one} {copy}").getrandbits(62) for one in asked for copy in range(samples)]
    said = directly(loaded, repeated, new_tokens, Sampling(temperature=temperature), seeds)
    winners = []
    for start in range(0, len(said), samples):
        counts = Counter(filter(None, said[start : start + samples]))
        winners.append(counts.most_common(1)[0] if counts else ("", 0))
    return winners
