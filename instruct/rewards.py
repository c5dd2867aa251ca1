"""Rewards: one number for each answer, the higher the better, from programs, patterns, a model, or your own function.

    reward = make_reward(RewardConfig("verifier"), verifier)
    reward(questions, answers)          # [1.0, 0.0, ...]

| kind | reward of an answer |
|---|---|
| verifier | 1 if the world says that it is right, else 0; of a plan, if it is a right one (`strategies.is_right_plan`) |
| exact | 1 if it is the expected one, but for spaces and a full stop |
| pattern | 1 if the regular expression `pattern` is found in it |
| arithmetic | 1 if its last number is that of the expected answer, or of the question where that is a sum, and no sum that it states is wrong |
| model | what the reward model in the run folder `model` says (`train.reward`) |
| function | what your Python function says: `function = "module:name"`, called as `name(prompt, answer, expected)` with texts |

An answer that was cut off has the reward 0 of the first four kinds. Your module is imported only when it is named, from
where Python finds modules; naming it runs its code.

What it leaves out: sums of several rewards (write a function), and rewards for parts of an answer.
"""  # noqa: E501

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from configs import UserError, check
from data.chat import Conversation, Message
from instruct import lessons
from instruct.arithmetic import Unreadable, evaluate
from instruct.claims import claims
from instruct.strategies import is_right_plan
from instruct.verify import Verifier
from instruct.world.operation import Undefined
from instruct.world.program import normalise
from instruct.world.splits import Item
from model.complete import Completion
from model.load import load_run
from model.reward import rewards

Kind = Literal["verifier", "exact", "pattern", "arithmetic", "model", "function"]
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?")


@dataclass(frozen=True)
class RewardConfig:
    """kind: see the head. pattern, model, function: of the kind of that name."""

    kind: Kind = "verifier"
    pattern: str = ""
    model: str = ""
    function: str = ""

    def __post_init__(self):
        problems = []
        for name in ("pattern", "model", "function"):
            if (self.kind == name) != bool(getattr(self, name)):
                needed = "must be given" if self.kind == name else "must be left out"
                problems.append(f"{name} {needed} with the kind {self.kind!r}")
        try:
            re.compile(self.pattern)
        except re.error as error:
            problems.append(f"pattern is no regular expression: {error}")
        check(problems)


@dataclass(frozen=True)
class Question:
    """What is asked. expected: an answer that is right, "" where none is known. item: where the world asked it."""

    conversation: Conversation
    expected: str = ""
    item: Item | None = None

    @property
    def text(self) -> str:
        """What was said last before the answer."""
        return self.conversation.messages[-1].content

    @classmethod
    def of(cls, conversation: Conversation) -> Question:
        """From a conversation, whose last message is the expected answer where it is the assistant's."""
        messages = conversation.messages
        if messages[-1].role != "assistant":
            return cls(conversation)
        if len(messages) == 1:
            raise UserError(f"{conversation.origin or 'a conversation'}: there is an answer and no question")
        return cls(Conversation(messages[:-1], conversation.origin), messages[-1].content)


Reward = Callable[[Sequence[Question], Sequence[Completion]], list[float]]


def make_reward(config: RewardConfig, verifier: Verifier) -> Reward:
    """The reward of this configuration. Raises UserError for a run or a function that is not there."""
    match config.kind:
        case "model":
            return _model_reward(config.model)
        case "function":
            return _function_reward(config.function)
        case "pattern":
            pattern = re.compile(config.pattern)
            return _each(lambda question, text: bool(pattern.search(text)))
        case "verifier":
            return _each(lambda question, text: is_right(question, text, verifier))
        case "arithmetic":
            return _each(adds_up)
    return _each(lambda question, text: bool(question.expected) and normalise(text) == normalise(question.expected))


def _each(holds: Callable[[Question, str], bool]) -> Reward:
    """1 for a finished answer for which that holds, else 0."""

    def reward(questions: Sequence[Question], answers: Sequence[Completion]) -> list[float]:
        return [float(said.finished and holds(asked, said.text)) for asked, said in zip(questions, answers)]

    return reward


def is_right(question: Question, text: str, verifier: Verifier) -> bool:
    """Whether the world accepts the answer; also of questions that it did not ask itself but can read."""
    item, messages = question.item, question.conversation.messages
    if lessons.is_plan(messages):
        return bool(is_right_plan(question.text, lessons.split_plan(text), verifier))
    if item is None:
        return bool(verifier.judge(*lessons.split_request(question.text), text).right)
    try:
        return bool(text.strip()) and verifier.world.holds(item.program, item.given, text, item.language)
    except Undefined:
        return False


def adds_up(question: Question, text: str) -> bool:
    """Whether the last number of the answer is the right one and no sum in it is wrong."""
    said, wanted = last_number(text), last_number(question.expected)
    if wanted is None:
        try:
            wanted = evaluate(question.text)
        except (Unreadable, ZeroDivisionError):
            return False
    return said == wanted and all(claim.right is None for claim in claims(text))


def last_number(text: str) -> Fraction | None:
    """The last number in a text, exactly; None where there is none."""
    found = _NUMBER.findall(text)
    try:
        return Fraction(found[-1].replace(",", "")) if found else None
    except (ZeroDivisionError, ValueError):
        return None


def _model_reward(run: str) -> Reward:
    loaded = load_run(run, heads=["score"])

    def reward(questions: Sequence[Question], answers: Sequence[Completion]) -> list[float]:
        said = [Message("assistant", answer.text) for answer in answers]
        return rewards(
            loaded, [Conversation((*q.conversation.messages, message)) for q, message in zip(questions, said)]
        )

    return reward


def _function_reward(name: str) -> Reward:
    function = load_function(name)

    def reward(questions: Sequence[Question], answers: Sequence[Completion]) -> list[float]:
        return [_called(function, name, question, said.text) for question, said in zip(questions, answers)]

    return reward


def _called(function: Callable, name: str, question: Question, text: str) -> float:
    try:
        given = float(function(question.text, text, question.expected))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"reward.function {name} failed on the answer {text[:60]!r} ({reason}); mend it") from None
    if not math.isfinite(given):
        raise UserError(f"reward.function {name} gave {given} for the answer {text[:60]!r}; it must give a number")
    return given


def load_function(name: str) -> Callable:
    """The function `module:name`. Raises UserError where there is none."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise UserError(f"reward.function must be module:function, got {name!r}")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:
        raise UserError(f"reward.function: {module} cannot be imported ({type(error).__name__}: {error})") from None
    if not callable(found):
        raise UserError(f"reward.function: {module} has no function {attribute!r}")
    return found
