"""Pairs of answers made from a world: a right one against the model's own wrong one, told apart by the verifier.

    pairs = make_pairs(loaded, course, PairsConfig(questions=1000), seed=0)     # [Preference, ...]
    write_preferences("pairs.jsonl", pairs)

What it is. The questions are such as an exam asks, of what may be trained on (`instruct.practice`); they ask for the
answer, or for a plan. Each is answered several times at a temperature. Where an answer is wrong, it is paired with a
right one of the model, or, where it gave none, with the world's. That is more than a judgement: it teaches what the
model could not find. `own` leaves it out.

Why its own answers. A model is improved where it errs, and only what it would say itself is worth making less likely.

The rater is a program and not a person: `rater` is "verifier" and `simulated` is true. Answers that were cut off are no
part of a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from configs import UserError, check
from data.preferences import Preference
from instruct.answer import say
from instruct.curriculum import Course
from instruct.practice import Ask, practice
from instruct.rewards import Question, is_right
from model.load import LoadedModel
from model.sampling import Sampling

Share = Callable[[Callable[[Sequence], list], Sequence], list]


@dataclass(frozen=True)
class PairsConfig:
    """How pairs are made.

    questions    that are asked; those that are always answered rightly give no pair
    depths       of their chains of operations
    samples      answers to each question
    temperature  of these answers
    new_tokens   the longest answer
    ask          for the answer or for a plan
    own          whether right answers too are the model's only; where it gave none, there is no pair
    """

    questions: int = 500
    depths: tuple[int, ...] = (2, 3)
    samples: int = 4
    temperature: float = 1.0
    new_tokens: int = 48
    ask: Ask = "answer"
    own: bool = False

    def __post_init__(self):
        names = ("questions", "samples", "temperature", "new_tokens")
        problems = [f"{name} must be positive, got {getattr(self, name)}" for name in names if getattr(self, name) <= 0]
        if not self.depths or min(self.depths) < 1:
            problems.append(f"depths must be numbers from 1, got {list(self.depths)}")
        check(problems)


def make_pairs(
    loaded: LoadedModel,
    course: Course,
    config: PairsConfig,
    seed: int = 0,
    share: Share = lambda work, items: work(items),
) -> list[Preference]:
    """One pair for each question that the model answers wrongly at least once, and, with `config.own`, rightly at least
    once. `share` runs work on this rank's part.

    Raises UserError when there is none, or the world has too few questions.
    """
    questions = practice(course, config.depths, config.questions, seed, config.ask)
    asked = [(question, seed * 1_000_003 + number) for number, question in enumerate(questions)]
    said = share(lambda part: _sampled(loaded, part, config), asked)
    pairs = [pair for asked, answers in zip(questions, said) if (pair := _pair(course, asked, answers, config.own))]
    if not pairs:
        raise UserError(f"none of {len(questions)} questions gives a pair of answers: ask more, or hotter")
    return pairs


def _sampled(loaded: LoadedModel, part: Sequence[tuple[Question, int]], config: PairsConfig) -> list[list[str]]:
    """The answers to each question; its random numbers follow from its own seed, whoever answers it."""
    asked = [question.conversation for question, _ in part for _ in range(config.samples)]
    seeds = [seed * 1_000 + copy for _, seed in part for copy in range(config.samples)]
    said = say(loaded, asked, config.new_tokens, Sampling(temperature=config.temperature), seeds)
    return [said[start : start + config.samples] for start in range(0, len(said), config.samples)]


def _pair(course: Course, asked: Question, answers: Sequence[str], own: bool) -> Preference | None:
    finished = [answer for answer in answers if answer]
    right = [answer for answer in finished if is_right(asked, answer, course.verifier)]
    wrong = [answer for answer in finished if answer not in right]
    if not wrong or (own and not right):
        return None
    chosen = right[0] if right else asked.expected
    return Preference(asked.conversation.messages, chosen, wrong[0], rater="verifier", simulated=True)
