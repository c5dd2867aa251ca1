"""Strategies: how a question becomes a chain of instructions, or a reason why there is none.

    chains = construct(loaded, [Asked("What is the capital of France?")], Settings())
    chains[0].steps, chains[0].given        # ("Name the capital of the country.",), "France"

| strategy | the chain is |
|---|---|
| direct | the question itself |
| construct | what the model writes for the question, with what its first step is given (`lessons.construct`) |
| plan | the simpler instructions that the model takes the question apart into (`lessons.plan`) |
| retrieve | the known instruction that is nearest by an embedder |
| search | several sampled constructions, of which `instruct.execute` takes the one whose answer most agree on |

Instructions inside the user's text are data. A chain is written from the instruction alone: the model that writes it
sees neither the input beside a question nor a text that is quoted inside it (`lessons.hide_quoted`), only that there
is one, so nothing in them can change the chain. A question whose quotes leave open what is quoted is refused; so is a
chain that names an input which the question does not hold.

Steps form a chain because the world's programs have no branches: a step takes the result of the one before it, and
these are the only edges there are.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import numpy as np

from configs import UserError, check
from data.chat import Conversation, Message
from instruct import lessons
from instruct.answer import Asked
from instruct.verify import Verifier
from instruct.world.operation import Undefined, language_of
from instruct.world.parse import Ambiguous, Reading, Unreadable
from instruct.world.program import IllTyped, Program, read_value
from model.complete import complete
from model.load import LoadedModel
from model.sampling import Sampling
from model.score import log_likelihood

STRATEGIES = ("direct", "construct", "retrieve", "search", "plan")


_WORD = "[^\\W_\u4e00-\u9fff]"  # Chinese has no spaces: a word may end anywhere


@dataclass(frozen=True)
class Settings:
    """How questions are carried out.

    steps          of a chain, at most
    chain_tokens, answer_tokens   longest chain, longest answer of a step
    confidence     a chain or an answer below it is refused; 0 refuses none
    confidences    whether confidences are computed at all: each costs a look at what was said
    candidates, temperature, seed   of the chains that "search" samples
    """

    steps: int = 6
    chain_tokens: int = 96
    answer_tokens: int = 48
    confidence: float = 0.0
    confidences: bool = True
    candidates: int = 8
    temperature: float = 0.8
    seed: int = 0

    def __post_init__(self):
        problems = [
            f"{name} must be positive, got {getattr(self, name)}"
            for name in ("steps", "chain_tokens", "answer_tokens", "candidates")
            if getattr(self, name) < 1
        ]
        if not 0 <= self.confidence <= 1:
            problems.append(f"confidence must lie between 0 and 1, got {self.confidence}")
        if self.confidence and not self.confidences:
            problems.append("a bound of confidence needs confidences=true")
        check(problems)


@dataclass(frozen=True)
class Chain:
    """Instructions, each for the result of the one before, the first one for `given`; or why there are none.

    confidence: of the writing (mean probability of its tokens) or of the retrieval (cosine); None where none was asked.
    count: how many samples wrote it.
    """

    steps: tuple[str, ...] = ()
    given: str = ""
    refusal: str = ""
    confidence: float | None = None
    count: int = 1


class Embedder(Protocol):
    def encode(self, texts: list[str]) -> np.ndarray:
        """Unit vectors, (N, E) float32."""


class Known:
    """Known instructions with their vectors."""

    def __init__(self, embedder: Embedder, instructions: Sequence[str]):
        """Raises UserError where nothing is known."""
        if not instructions:
            raise UserError("there are no known instructions to retrieve from; give a file with one a line")
        self.embedder, self.instructions = embedder, tuple(instructions)
        self.vectors = embedder.encode(list(self.instructions))

    def nearest(self, texts: Sequence[str]) -> list[tuple[int, float]]:
        """The number of the nearest known instruction to each text, and their cosine; of equals the first one."""
        if not texts:
            return []
        likeness = self.embedder.encode(list(texts)) @ self.vectors.T  # (N, known)
        best = likeness.argmax(1)
        return [(int(i), float(row[i])) for i, row in zip(best, likeness)]


def asking(question: str, given: str = "") -> Asked:
    """A question as it was typed: its first line is the instruction, further lines are its input, unless there is one.

    Its language is that of its words outside quotes. Raises UserError for a question without words, and for one of
    several lines that has an input too.
    """
    instruction, inside = lessons.split_request(question.strip())
    if not instruction:
        raise UserError("the question is empty")
    if inside and given.strip():
        raise UserError("the question has several lines and an input too; put all of the input into one place")
    try:
        outside = lessons.hide_quoted(instruction)[0]
    except UserError:
        outside = instruction
    return Asked(instruction, given.strip() or inside, language_of(outside) or "en")


# The strategies ------------------------------------------------------------------------------------------------------


def direct(asked: Sequence[Asked]) -> list[Chain]:
    return [Chain((one.instruction,), one.input, _malformed(one)) for one in asked]


def construct(
    loaded: LoadedModel,
    asked: Sequence[Asked],
    settings: Settings,
    sampling: Sampling | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Chain]:
    """What the model writes for each question; greedily without `sampling`."""
    seen = [_seen(one) for one in asked]
    prompts = [lessons.construct(text, one.language, bool(one.input)) for (text, _, _), one in zip(seen, asked)]
    said = _said(loaded, prompts, [reason for _, _, reason in seen], settings, sampling, seeds)
    return [
        chain if chain.refusal else _bounded(_with_input(chain, named, one, text, hidden), settings)
        for (named, chain), one, (text, hidden, _) in zip(said, asked, seen)
    ]


def plan(
    loaded: LoadedModel,
    asked: Sequence[Asked],
    settings: Settings,
    sampling: Sampling | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Chain]:
    """The model's plan for each question, whose input is beside it or quoted in it."""
    seen = [_seen(one) for one in asked]
    why = [
        reason or ("" if one.input or hidden else "a plan needs an input beside the question, or quoted in it")
        for one, (_, hidden, reason) in zip(asked, seen)
    ]
    prompts = [lessons.plan(text, one.language) for (text, _, _), one in zip(seen, asked)]
    said = _said(loaded, prompts, why, settings, sampling, seeds)
    return [
        chain if chain.refusal else _bounded(replace(chain, given=one.input or hidden or ""), settings)
        for (_, chain), one, (_, hidden, _) in zip(said, asked, seen)
    ]


def retrieve(loaded: LoadedModel, asked: Sequence[Asked], settings: Settings, known: Known | None) -> list[Chain]:
    """The nearest known instruction, for the input of the question; where that stands in the question, the model says
    what it is, as it does when it constructs.

    Raises UserError without known instructions and an embedder.
    """
    if known is None:
        raise UserError("retrieving needs known instructions and an embedder; give both, or choose another strategy")
    within = iter(construct(loaded, [one for one in asked if not one.input], settings))
    inputs = [Chain(given=one.input, refusal=_malformed(one)) if one.input else next(within) for one in asked]
    found = known.nearest([_seen(one)[0] for one in asked])
    return [
        chain if chain.refusal else Chain((known.instructions[i],), chain.given, confidence=likeness)
        for chain, (i, likeness) in zip(inputs, found)
    ]


def search(loaded: LoadedModel, asked: Sequence[Asked], settings: Settings) -> list[list[Chain]]:
    """The different chains among one greedy and `candidates` - 1 sampled ones, for each question, the greedy one first;
    where all are refused, one of those."""
    greedy = construct(loaded, asked, settings)
    repeated = [one for one in asked for _ in range(settings.candidates - 1)]
    seeds = [
        random.Random(f"{settings.seed} {one.instruction} {copy}").getrandbits(62)
        for one in asked
        for copy in range(settings.candidates - 1)
    ]
    sampled = construct(loaded, repeated, settings, Sampling(temperature=settings.temperature), seeds)
    found = []
    for i, first in enumerate(greedy):
        start = i * (settings.candidates - 1)
        written = [first, *sampled[start : start + settings.candidates - 1]]
        counts = Counter((each.steps, each.given) for each in written if not each.refusal)
        different = {(each.steps, each.given): each for each in reversed(written) if not each.refusal}
        found.append([replace(different[key], count=counts[key]) for key in counts] or [first])
    return found


# What the model is shown, and what it said ---------------------------------------------------------------------------


def _malformed(one: Asked) -> str:
    """Why this is no question; "" where it is one."""
    if not one.instruction.strip():
        return "the question is empty"
    return "an instruction is one line; put the rest into the input" if "\n" in one.instruction.strip() else ""


def _seen(one: Asked) -> tuple[str, str | None, str]:
    """(what of a question its chain is written from, the quoted text in it that is hidden, why there can be none).

    Beside an input nothing is hidden: the instruction is then all the user's own words, and what it quotes is part of
    them.
    """
    if reason := _malformed(one):
        return "", None, reason
    if one.input:
        return one.instruction, None, ""
    try:
        return *lessons.hide_quoted(one.instruction), ""
    except UserError as error:
        return "", None, str(error)


def _said(
    loaded: LoadedModel,
    prompts: Sequence[Conversation],
    refusals: Sequence[str],
    settings: Settings,
    sampling: Sampling | None,
    seeds: Sequence[int] | None,
) -> list[tuple[str | None, Chain]]:
    """What the model says to each prompt that is not refused already: the input that it names, and its steps.

    Equal prompts with equal seeds are asked once.
    """
    seeds = [0] * len(prompts) if seeds is None else seeds
    keys = [None if refusal else (prompt, seed) for prompt, refusal, seed in zip(prompts, refusals, seeds)]
    unique = [key for key in dict.fromkeys(keys) if key is not None]
    unique_prompts = [prompt for prompt, _ in unique]
    limit = settings.chain_tokens
    said = complete(loaded, unique_prompts, limit, sampling, [seed for _, seed in unique], batch_rows=128)
    texts = [each.text.strip() for each in said]
    judged = probabilities(loaded, unique_prompts, texts) if settings.confidences else [None] * len(unique)
    found = {}
    for key, each, text, confidence in zip(unique, said, texts, judged):
        given, steps = lessons.split_chain(text)
        refusal = "" if each.finished else f"the chain did not come to its end in {limit} tokens"
        found[key] = given, Chain(steps, "", refusal, confidence)
    refused = [(None, Chain(refusal=refusal)) for refusal in refusals]
    return [other if key is None else found[key] for key, other in zip(keys, refused)]


def _with_input(chain: Chain, named: str | None, one: Asked, text: str, hidden: str | None) -> Chain:
    """A constructed chain with what its first step is given. named: the input that the chain names; text, hidden: what
    the model saw of the question, and the quoted text that it did not see."""
    if one.input:
        fault = "" if named is None else "the chain finds an input in the question, and another one was given"
        return replace(chain, given=one.input, refusal=fault)
    if hidden is not None:
        fault = "" if named == lessons.HIDDEN else "the chain does not start from the quoted text"
        return replace(chain, given=hidden, refusal=fault)
    fault = "" if named is None or _holds(text, named) else f"the question does not hold the input {named!r}"
    return replace(chain, given=named or "", refusal=fault)


def _holds(text: str, named: str) -> bool:
    """Whether `named` stands in the text as it is, and is no part of a longer word or number."""
    ends = [rf"(?<!{_WORD})" if re.match(_WORD, named) else "", rf"(?!{_WORD})" if re.match(_WORD, named[-1:]) else ""]
    return bool(named) and re.search(re.escape(named).join(ends), text) is not None


def _bounded(chain: Chain, settings: Settings) -> Chain:
    """The chain, refused where it is empty, too long or no list of steps."""
    refusal = chain.refusal
    if not chain.steps:
        refusal = "the model wrote no step"
    elif any(step.startswith(lessons.INPUT.strip()) for step in chain.steps):
        refusal = "the chain names its input at a place where a step belongs"
    elif len(chain.steps) > settings.steps:
        refusal = f"the chain has {len(chain.steps)} steps; {settings.steps} are allowed"
    return replace(chain, refusal=refusal)


def probabilities(loaded: LoadedModel, prompts: Sequence[Conversation], said: Sequence[str]) -> list[float]:
    """How sure the model is of what it said: the mean probability of its tokens (geometric), 0 for an empty text."""
    whole = [
        Conversation((*prompt.messages, Message("assistant", text))) for prompt, text in zip(prompts, said) if text
    ]
    found = iter(log_likelihood(loaded, whole, batch_rows=128))
    return [math.exp(next(found).per_token) if text else 0.0 for text in said]


# What the world says -------------------------------------------------------------------------------------------------


def unfit(steps: Sequence[str], verifier: Verifier) -> str:
    """Why the world cannot run these steps one after the other; "" where it can."""
    programs: list[Program] = []
    for number, step in enumerate(steps, 1):
        reading = _reading(step, verifier)
        if isinstance(reading, str):
            return f"the world cannot read step {number}: {reading}"
        if reading.literal is not None and len(steps) > 1:
            return f"step {number} holds an input of its own"
        programs.append(reading.program)
    whole = Program(tuple(step for program in programs for step in program.steps))
    return "" if verifier.world.well_typed(whole) else "its steps do not fit together"


def is_right_plan(instruction: str, steps: Sequence[str], verifier: Verifier) -> bool | None:
    """Whether each step asks for one operation, in the language of the instruction, and all do together what it asks
    for; None where the world cannot read the instruction, or it holds its input."""
    asked = _reading(instruction, verifier)
    if isinstance(asked, str) or asked.literal is not None:
        return None
    if not steps or unfit(steps, verifier):
        return False
    readings = [_reading(step, verifier) for step in steps]
    if any(r.literal is not None or len(r.program.steps) > 1 or r.language != asked.language for r in readings):
        return False
    whole = Program(tuple(step for r in readings for step in r.program.steps))
    return verifier.behaviour.same(whole, asked.program)


def wrong_type(step: str, given: str, verifier: Verifier) -> str:
    """Why the world does not let this step take this input; "" where it does, and where it cannot read the step."""
    reading = _reading(step, verifier)
    if isinstance(reading, str):
        return ""
    if reading.literal is not None:
        return "the instruction holds its input, and another one was given" if given else ""
    try:
        read_value(verifier.world.signature(reading.program).takes, given)
    except Undefined as error:
        return f"the input is of a wrong type: {error}"
    return ""


@lru_cache(maxsize=1 << 14)
def _reading(text: str, verifier: Verifier) -> Reading | str:
    """What an instruction asks for, or why it asks for nothing."""
    try:
        return verifier.parser.parse(text)
    except (Ambiguous, Unreadable, IllTyped) as error:
        return str(error)
