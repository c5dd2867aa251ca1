"""Preferences: what people, programs or simulated raters think of answers, read from files and written to them.

    read_preferences("pairs.jsonl")     # [Preference(prompt, chosen, rejected, margin, rater, simulated), ...]
    read_labelled("ratings.jsonl")      # [Labelled(prompt, completion, label or score, rater, simulated), ...]
    write_preferences("pairs.jsonl.gz", pairs); write_labelled("ratings.jsonl", ratings)
    json.dumps(preference_row(pair), ensure_ascii=False)      # one line, to append to a file as ratings come in

What it is. One JSON object for each judgement, in the shapes that public collections use:

    pair    {"prompt": ..., "chosen": ..., "rejected": ...[, "margin": 1.5]}   one answer is better than the other
    label   {"prompt": ..., "completion": ..., "label": true}                  an answer is good, or not (KTO)
    score   {"prompt": ..., "completion": ..., "score": 3.5}                   an answer is so good

A prompt is text (of the user) or a list of messages {"role", "content"}; an answer is text or a list of one message of
the assistant. `chosen` and `rejected` may also be whole conversations that share all but their last message; a prompt
beside them must be what they share (or may be missing). Further keys: `rater` (who judged), `simulated` (true where it
was a program that stands for a person), `margin` (from 0: by how much the chosen answer is better).

Why so. Judgements are few and dear, and a row that is misread teaches the opposite. So every row is whole or an error
with its file and line: two equal answers, a prompt that ends with an answer, a label that is neither true nor false.
What was written is read back equal, and in plain lines that other programs read as well.

What it leaves out. Rankings of more than two answers (write their pairs), judgements of single steps, images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs import UserError
from data.chat import Conversation, Message
from data.formats import Row, conversations_of, read_rows, to_row, write_rows


@dataclass(frozen=True)
class Preference:
    """Of two answers to one prompt, the chosen and the rejected one.

    margin: by how much the chosen one is better, in the rater's own units, from 0; None: not said.
    rater: who judged, "" unknown. simulated: a program stood for a person. origin: file and line, for error texts.
    """

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    margin: float | None = None
    rater: str = ""
    simulated: bool = False
    origin: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        _check_prompt(self.prompt)
        if self.chosen == self.rejected:
            raise UserError("`chosen` and `rejected` are the same: leave out pairs of equal answers")
        if self.margin is not None and not 0 <= self.margin < math.inf:
            raise UserError(f"`margin` must be a number from 0, got {self.margin}")

    @property
    def answers(self) -> tuple[Conversation, Conversation]:
        """The conversations that end with the chosen and with the rejected answer."""
        return _answered(self, self.chosen), _answered(self, self.rejected)


@dataclass(frozen=True)
class Labelled:
    """One answer to a prompt, with either a label (good or not) or a score (the higher the better)."""

    prompt: tuple[Message, ...]
    completion: str
    label: bool | None = None
    score: float | None = None
    rater: str = ""
    simulated: bool = False
    origin: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        _check_prompt(self.prompt)
        if (self.label is None) == (self.score is None):
            raise UserError("an answer needs either `label` (true or false) or `score` (a number)")
        if self.score is not None and not math.isfinite(self.score):
            raise UserError(f"`score` must be a finite number, got {self.score}")

    @property
    def answer(self) -> Conversation:
        """The conversation that ends with the answer."""
        return _answered(self, self.completion)


def _check_prompt(prompt: tuple[Message, ...]) -> None:
    if not prompt or prompt[-1].role == "assistant":
        raise UserError("a prompt needs a message, and must not end with one of the assistant: that is the answer")


def _answered(judged: Preference | Labelled, answer: str) -> Conversation:
    return Conversation((*judged.prompt, Message("assistant", answer)), judged.origin)


# Reading -------------------------------------------------------------------------------------------------------------


def read_preferences(path: str | Path) -> list[Preference]:
    """All pairs of a JSON or JSON lines file (.gz too), in order. Raises UserError with the place of a wrong row."""
    return [_placed(place, row, _preference) for place, row in read_rows(path)]


def read_labelled(path: str | Path) -> list[Labelled]:
    """All labelled or scored answers of a file, as `read_preferences` reads pairs."""
    return [_placed(place, row, _labelled) for place, row in read_rows(path)]


def is_paired(path: str | Path) -> bool:
    """Whether the first row of a file compares two answers; otherwise its rows are for `read_labelled`."""
    _, row = next(read_rows(path))
    return "chosen" in row or "rejected" in row


def _placed(place: str, row: Row, reader: Any) -> Any:
    try:
        return reader(row, place)
    except UserError as error:
        text = str(error)
        raise UserError(text if text.startswith(f"{place}: ") else f"{place}: {text}") from None


def _preference(row: Row, place: str) -> Preference:
    for key in ("chosen", "rejected"):
        if key not in row:
            raise UserError(f"`{key}` is missing; a pair is {{prompt, chosen, rejected}}")
    (shared, chosen), (other, rejected) = (_answer(row, key, place) for key in ("chosen", "rejected"))
    if shared != other:
        raise UserError("`chosen` and `rejected` must be answers to the same messages: only their last may differ")
    margin = None if row.get("margin") is None else _number(row, "margin")
    return Preference(_prompt(row, shared, "chosen", place), chosen, rejected, margin, **_who(row), origin=place)


def _labelled(row: Row, place: str) -> Labelled:
    key = "messages" if "messages" in row and "completion" not in row else "completion"
    if key not in row:
        raise UserError("`completion` is missing; a judged answer is {prompt, completion, label or score}")
    shared, completion = _answer(row, key, place)
    label, score = row.get("label"), None if row.get("score") is None else _number(row, "score")
    if label is not None and not isinstance(label, bool):
        raise UserError(f"`label` must be true or false, got {label!r}")
    prompt = _prompt(row, shared, key, place)
    return Labelled(prompt, completion, label, score, **_who(row), origin=place)


def _answer(row: Row, key: str, place: str) -> tuple[tuple[Message, ...], str]:
    """(what goes before, the answer itself) of text or of a list of messages."""
    messages = _messages(row, key, "assistant", place)
    if messages[-1].role != "assistant":
        raise UserError(f"`{key}` must end with a message of the assistant, it ends with one of {messages[-1].role}")
    return messages[:-1], messages[-1].content


def _prompt(row: Row, shared: tuple[Message, ...], key: str, place: str) -> tuple[Message, ...]:
    if row.get("prompt") is None:
        if not shared:
            raise UserError(f"`prompt` is missing, and `{key}` has no messages before its answer")
        return shared
    prompt = _messages(row, "prompt", "user", place)
    if shared and shared != prompt:
        raise UserError(f"`{key}` begins with other messages than `prompt` has; leave one of them out")
    return prompt


def _messages(row: Row, key: str, role: str, place: str) -> tuple[Message, ...]:
    """Text as one message of `role`, or a list of messages."""
    value = row[key]
    if isinstance(value, str):
        value = [{"role": role, "content": value}]
    if not isinstance(value, list) or not value or not all(isinstance(each, dict) for each in value):
        raise UserError(f"`{key}` must be text or a list of one or more messages {{role, content}}")
    return conversations_of({"messages": value}, place)[0].messages


def _number(row: Row, key: str) -> float:
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"`{key}` must be a number, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise UserError(f"`{key}` must be a finite number") from None


def _who(row: Row) -> dict[str, Any]:
    rater, simulated = row.get("rater"), row.get("simulated")
    if rater is not None and not isinstance(rater, str):
        raise UserError(f"`rater` must be text, got {rater!r}")
    if simulated is not None and not isinstance(simulated, bool):
        raise UserError(f"`simulated` must be true or false, got {simulated!r}")
    return {"rater": rater or "", "simulated": bool(simulated)}


# Writing -------------------------------------------------------------------------------------------------------------


def preference_row(pair: Preference) -> Row:
    """The JSON object of a pair, which `read_preferences` reads back equal."""
    margin = {} if pair.margin is None else {"margin": pair.margin}
    answers = {"chosen": pair.chosen, "rejected": pair.rejected}
    return {"prompt": _prompt_value(pair.prompt)} | answers | margin | _who_row(pair)


def labelled_row(judged: Labelled) -> Row:
    """The JSON object of a labelled or scored answer, which `read_labelled` reads back equal."""
    given = {"score": judged.score} if judged.label is None else {"label": judged.label}
    return {"prompt": _prompt_value(judged.prompt), "completion": judged.completion} | given | _who_row(judged)


def write_preferences(path: str | Path, pairs: Iterable[Preference]) -> int:
    """Write pairs as JSON lines, gzipped where `path` ends in .gz, whole or not at all; gives their number."""
    return write_rows(path, map(preference_row, pairs))


def write_labelled(path: str | Path, judged: Iterable[Labelled]) -> int:
    """Write labelled or scored answers, as `write_preferences` writes pairs."""
    return write_rows(path, map(labelled_row, judged))


def _prompt_value(prompt: tuple[Message, ...]) -> Any:
    """Text where one plain message of the user is all, otherwise the messages."""
    plain = len(prompt) == 1 and prompt[0] == Message("user", prompt[0].content)
    return prompt[0].content if plain else to_row(Conversation(prompt))["messages"]


def _who_row(judged: Preference | Labelled) -> Row:
    return ({"rater": judged.rater} if judged.rater else {}) | ({"simulated": True} if judged.simulated else {})
