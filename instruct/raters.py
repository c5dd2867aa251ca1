"""Simulated raters: programs that stand for people, by seed and with as many errors as one wants.

    rater = rater_of("verifier+shorter", noise=0.1, seed=0)
    rater.choose(prompt, "1 2 3", "3 2 1")     # "left", "right" or "tie"
    rater.score(prompt, "1 2 3")               # 1 to 5

What it is. A rater looks at one thing after the other, and the first in which two answers differ decides:

    verifier   is the answer, or the plan, right? The world reads the instruction and carries it out (`instruct.verify`)
    shorter    which answer has fewer characters?
    politer    which answer has more words of courtesy, English or Chinese?

Where nothing differs it is a tie. With probability `noise` a decision is turned round (a score of s becomes 6 - s), by
random numbers that follow from the seed and the texts: the same pair gives the same verdict in whatever order and
company. A tie is never turned into a decision.

Why so. What is learnt from preferences can only be measured where it is known what was preferred, how often the rater
was wrong, and what is truly right. Rows of these raters always say `simulated` and name the rater.

What it leaves out. Raters that get tired, disagree with each other or are biased to one side. An instruction that the
world cannot read says nothing about what is right: the verifier holds its answers for equally good.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from configs import UserError, check
from data.chat import Message
from instruct import lessons
from instruct.strategies import is_right_plan
from instruct.verify import Verifier
from instruct.world.behaviour import Behaviour
from instruct.world.program import world

MOST_NOISE = 0.3
COURTESY = re.compile(
    r"\b(?:please|thanks?|sorry|welcome|glad|happy|kindly|hope|certainly|of course)\b"
    "|请|谢|您|抱歉|对不起|不客气|很高兴|希望",
    re.IGNORECASE,
)

Prompt = Sequence[Message]
Taste = Callable[[Prompt, str], float]  # how good an answer is in one respect, 0 to 1


def shortness(prompt: Prompt, answer: str) -> float:
    """1 for an empty answer, a half at 40 characters."""
    return 1 / (1 + len(answer.strip()) / 40)


def politeness(prompt: Prompt, answer: str) -> float:
    """0 without a word of courtesy, and nearer to 1 with each."""
    return 1 - 0.5 ** len(COURTESY.findall(answer))


class Rightness:
    """1 for a right answer, 0 for a wrong one, a half where the world cannot say."""

    def __init__(self, verifier: Verifier | None = None):
        self.verifier = verifier or Verifier(Behaviour(world()))

    def __call__(self, prompt: Prompt, answer: str) -> float:
        asked = next((message.content for message in reversed(prompt) if message.role == "user"), "")
        if lessons.is_plan(prompt):
            right = is_right_plan(asked, lessons.split_plan(answer), self.verifier)
            return 0.5 if right is None else float(right)
        instruction, given = lessons.split_request(asked)
        if self.verifier.judge(instruction, given).answer is None:
            return 0.5
        return float(self.verifier.judge(instruction, given, answer.strip()).right is True)


TASTES: dict[str, Callable[[], Taste]] = {
    "verifier": Rightness,
    "shorter": lambda: shortness,
    "politer": lambda: politeness,
}


@dataclass(frozen=True)
class Rater:
    """Judges by `tastes`, of which the first that differs decides, and is wrong with probability `noise`."""

    name: str
    tastes: tuple[Taste, ...]
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if not 0 <= self.noise <= MOST_NOISE:
            problems.append(f"noise must lie between 0 and {MOST_NOISE}, got {self.noise}")
        check(problems)

    def __str__(self) -> str:
        """Who rated, as rows say it."""
        return f"{self.name}, noise {self.noise:g}"

    def choose(self, prompt: Prompt, left: str, right: str) -> str:
        """ "left", "right" or "tie"."""
        for taste in self.tastes:
            first, second = taste(prompt, left), taste(prompt, right)
            if not math.isclose(first, second, abs_tol=1e-12):
                is_left = (first > second) != self._errs(prompt, *sorted((left, right)))
                return "left" if is_left else "right"
        return "tie"

    def score(self, prompt: Prompt, answer: str) -> int:
        """1 to 5: the first taste makes up three quarters, the others the rest in equal parts."""
        first, *others = (taste(prompt, answer) for taste in self.tastes)
        value = 0.75 * first + 0.25 * sum(others) / len(others) if others else first
        score = 1 + round(4 * value)
        return 6 - score if self._errs(prompt, answer) else score

    def _errs(self, prompt: Prompt, *answers: str) -> bool:
        texts = [self.seed, *((message.role, message.content) for message in prompt), *answers]
        return Random(repr(texts)).random() < self.noise


def rater_of(name: str, noise: float = 0.0, seed: int = 0) -> Rater:
    """The rater of a name: tastes joined by +, the most important first. Raises UserError for an unknown one."""
    parts = name.split("+")
    wrong = [part for part in parts if part not in TASTES]
    if wrong or len(set(parts)) < len(parts):
        raise UserError(f"unknown rater {name!r}; name one or more of {', '.join(TASTES)}, each once, joined by +")
    return Rater(name, tuple(TASTES[part]() for part in parts), noise, seed)
