"""Texts with what is to be said about them by an encoder: labels, or the place of an answer; from files or the world.

    read_labelled("reviews.jsonl")      # rows {"text": "...", "label": "good"} or {"instruction": ..., "labels": [...]}
    families(20)                        # instructions of the world, each with the family of its operation
    read_passages("questions.jsonl")    # rows {"context": ..., "question": ..., "answer": "...", "start": 12}
    passages(1000)                      # three sentences of the world, and who did it or to what it was done

The world's instructions are divided by their words: those to train on hold no held-out phrase, those to be measured on
hold that of their operation. Its passages are divided as the rows of a file are: by their hash (`divide`).

What it leaves out: questions without an answer, several answers, labels with weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from configs import UserError
from data.formats import Row, read_rows
from instruct.world.grammar import Grammar
from instruct.world.program import world
from instruct.world.sentences import MARKS, PEOPLE, Sentence, read, sample_sentence, tokens
from instruct.world.splits import LANGUAGES

T = TypeVar("T")
SENTENCES = 3  # of a passage
STOPS = {"en": ". ", "zh": "。"}


@dataclass(frozen=True)
class Labelled:
    """A text with its labels, and its place in a file, which errors name."""

    text: str
    labels: tuple[str, ...]
    origin: str = ""


@dataclass(frozen=True)
class Passage:
    """A question about a context, whose answer begins at character `start` of the context."""

    context: str
    question: str
    answer: str
    start: int
    origin: str = ""


def divide(found: Iterable[T], share: float, text: Callable[[T], str]) -> tuple[list[T], list[T]]:
    """What is trained on and what is held out: about this share, by a hash of its text, so always the same."""
    train, held_out = [], []
    for each in found:
        number = int.from_bytes(hashlib.sha256(text(each).encode()).digest()[:8], "little")
        (held_out if number < share * 2**64 else train).append(each)
    return train, held_out


# Files ---------------------------------------------------------------------------------------------------------------


def read_labelled(path: str | Path) -> list[Labelled]:
    """The rows of a JSON or JSON lines file: `text` (or `instruction`) with `label`, or a list of `labels`.

    Raises UserError with the place of the first row that is none.
    """
    found = []
    for place, row in read_rows(path):
        if ("label" in row) == ("labels" in row):
            raise UserError(f"{place}: a row needs either `label` (one) or `labels` (a list)")
        given = row["labels"] if "labels" in row else [row["label"]]
        if not isinstance(given, list):
            raise UserError(f"{place}: `labels` must be a list; for a single one write `label`")
        labels = dict.fromkeys(_label(each, place) for each in given)
        found.append(Labelled(text_of(row, place), tuple(labels), place))
    return found


def text_of(row: Row, place: str) -> str:
    """What is to be labelled. Raises UserError with the place where there is nothing."""
    return _text(row, "instruction" if "instruction" in row and "text" not in row else "text", place)


def _label(value: Any, place: str) -> str:
    if type(value) not in (str, int) or value == "":
        raise UserError(f"{place}: a label must be text or a whole number, not {value!r}")
    return str(value)


def _text(row: Row, key: str, place: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{place}: `{key}` must be text, and not empty")
    return value


def question_of(row: Row, place: str) -> tuple[str, str]:
    """Context and question of a row. Raises UserError with the place where one is missing."""
    return _text(row, "context", place), _text(row, "question", place)


def read_passages(path: str | Path) -> list[Passage]:
    """The rows of a JSON or JSON lines file: `context`, `question`, `answer` and `start`, the character at which the
    answer begins in the context (the first is 0). Raises UserError with the place of the first row that is none.
    """
    found = []
    for place, row in read_rows(path):
        context, question = question_of(row, place)
        answer, start = _text(row, "answer", place), row.get("start")
        if type(start) is not int or start < 0:
            raise UserError(f"{place}: `start` must be the character at which the answer begins, a number from 0")
        stands = context[start : start + len(answer)]
        if stands != answer:
            raise UserError(f"{place}: at character {start} of `context` stands {stands!r}, not the answer {answer!r}")
        found.append(Passage(context, question, answer, start, place))
    return found


# The world -----------------------------------------------------------------------------------------------------------


def families(phrasings: int, seed: int = 0) -> tuple[list[Labelled], list[Labelled]]:
    """Instructions to train on and held-out ones: every single operation in both languages, in up to `phrasings`
    wordings, with the family of the operation ("numbers", "sentence", ...) as the label.
    """
    return _families(phrasings, seed, False), _families(max(1, phrasings // 4), seed, True)


def _families(phrasings: int, seed: int, held_out: bool) -> list[Labelled]:
    everything = world()
    grammar = Grammar(everything)
    found: dict[str, str] = {}
    for program in everything.singles():
        family = everything.by_name[program.steps[-1].name].family
        for language in LANGUAGES:
            rng = Random(f"{seed} {program} {language} {held_out}")
            for _ in range(phrasings):
                found[grammar.phrase(program, rng, language, held_out)] = family
    return [Labelled(text, (family,), "the world") for text, family in found.items()]


def passages(count: int, seed: int = 0) -> list[Passage]:
    """`count` different passages, one half in each language: of three sentences with different verbs, one is asked
    about: who acts, or what it is done to.
    """
    found: dict[tuple[str, str], Passage] = {}
    for number in range(2 * count):
        passage = _passage(Random(f"passage {seed} {number}"), LANGUAGES[number % 2])
        found.setdefault((passage.context, passage.question), passage)
        if len(found) == count:
            break
    return list(found.values())


def _passage(rng: Random, language: str) -> Passage:
    chosen: dict[str, Sentence] = {}
    while len(chosen) < SENTENCES:
        sentence = read(sample_sentence(rng, language))
        if not sentence.negative and not sentence.question:
            chosen.setdefault(sentence.verb.name.en, sentence)
    said = list(chosen.values())
    asked, actor = rng.randrange(SENTENCES), rng.random() < 0.5
    texts = [_joined(tokens(sentence, language), language) for sentence in said]
    context = STOPS[language].join(texts) + STOPS[language].strip()
    before, answer = _span(said[asked], language, actor)
    start = sum(len(text) + len(STOPS[language]) for text in texts[:asked]) + len(before)
    return Passage(context, _question(said[asked], language, actor), answer, start, "the world")


def _span(sentence: Sentence, language: str, actor: bool) -> tuple[str, str]:
    """What stands before the noun that is asked for, and the noun."""
    noun = (sentence.subject if actor else sentence.object).name.text(language)
    words = tokens(sentence, language)
    place = words.index(noun) if actor else len(words) - 1
    before = _joined(words[:place], language)
    return before + (" " if before and language == "en" else ""), noun


def _question(sentence: Sentence, language: str, actor: bool) -> str:
    words, verb = tokens(sentence, language), sentence.verb
    if language == "zh":
        place = words.index(verb.name.zh)
        asked = ["谁", *words[place:]] if actor else [*words[:-1], "谁" if _is_somebody(sentence) else "什么"]
        if not actor and sentence.other_quality:  # the adjective and its 的 stand before the noun
            asked = [*words[:-3], asked[-1]]
        return _joined(asked, language) + MARKS[language]
    place = words.index(verb.past if sentence.past else verb.third)
    if actor:
        return _joined(["who", *words[place:]], language) + MARKS[language]
    head = ["whom" if _is_somebody(sentence) else "what", "did" if sentence.past else "does"]
    return _joined([*head, *words[:place], verb.name.en], language) + MARKS[language]


def _is_somebody(sentence: Sentence) -> bool:
    return sentence.object.category in PEOPLE


def _joined(words: list[str], language: str) -> str:
    return (" " if language == "en" else "").join(words)
