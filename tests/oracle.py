"""A model that needs no training: it plays every part of `instruct.lessons` by the world's own interpreter.

    loaded, oracle = oracle_of(course, monkeypatch, wrong=0.2, garbage=0.1, cut=0.1)

`loaded` stands for a model (one token a character); what is asked of it is answered by the oracle, which reads the
prompt as the model would: role markers and text. `wrong`, `garbage`, `cut`: shares of answers that are not right, of
texts that are no instruction, of texts that never end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import ClassVar

import torch

from data.chat import ChatFormat, Conversation
from data.tokenizer import Tokenizer
from instruct import lessons
from instruct.curriculum import Course, CurriculumConfig
from instruct.records import Record
from instruct.world.operation import Undefined
from instruct.world.parse import Ambiguous, Unreadable
from instruct.world.program import IllTyped, Program
from instruct.world.splits import draw_input, skeletons, variants
from model import LanguageModel, ModelConfig
from model.complete import Completion
from model.load import LoadedModel, model_files
from model.storage import checkpoint_folder, write_folder

OPERATIONS = (
    *("reverse_list", "first", "sort_up", "sum", "largest", "double_each"),
    *("capital", "upper", "is_even", "square", "add_each"),
)
GARBAGE = ("", "lorem ipsum dolor sit amet", "Sort the\nnumbers")
LONG = 4000


def small_course(seed: int = 0, **changes) -> Course:
    settings = {
        "operations": OPERATIONS,
        "compositions": 12,
        "held_out": 5,
        "depth3": 12,
        "phrasings": 2,
        "inputs": 6,
        "composition_inputs": 6,
        "closed": 4,
    }
    return Course(CurriculumConfig(**(settings | changes)), seed)


@cache
def shared_course() -> Course:
    """For all tests of a process; nothing in a course changes."""
    return small_course()


@cache
def shared_seeds() -> tuple[Record, ...]:
    return tuple(shared_course().seeds())


class Letters:
    """A tokenizer of one token a character."""

    bos, end, eos = 0, 1, 2
    roles: ClassVar[dict[str, int]] = {"system": 3, "user": 4, "assistant": 5, "tool": 6}

    def encode(self, text: str) -> list[int]:
        return [10 + ord(character) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(token - 10) for token in ids)


def part_of(conversation: Conversation) -> tuple[str, str]:
    """(part, language) of a lesson; those without a system message have no language."""
    first = conversation.messages[0]
    if first.role == "system":
        part, _, name = first.content.rpartition(" ")
        return part, {name: code for code, name in lessons.LANGUAGES.items()}[name]
    return ("bare" if first.supervise else "execute"), ""


class Oracle:
    """Answers prompts; `asked` counts the parts that were asked for."""

    def __init__(self, course: Course, wrong: float = 0.0, garbage: float = 0.0, cut: float = 0.0):
        self.course, self.world, self.grammar = course, course.world, course.grammar
        self.wrong, self.garbage, self.cut = wrong, garbage, cut
        self.asked: Counter[str] = Counter()
        pairs = [program for names in skeletons(self.world, 2) for program in variants(self.world, names)]
        self.programs = [*self.world.singles(), *pairs]

    def complete_prompts(self, loaded, prompts, new_tokens, sampling=None, seeds=None, batch_rows=64):
        seeds = range(len(prompts)) if seeds is None else seeds
        greedy = sampling is None or sampling.temperature == 0
        return [self._complete(list(ids), 0 if greedy else seed) for ids, seed in zip(prompts, seeds, strict=True)]

    def _complete(self, ids: list[int], seed: int) -> Completion:
        rng = Random(f"{ids} {seed}")
        said = self._said(read_prompt(ids), rng)
        return Completion(said, rng.random() >= self.cut)

    def _said(self, messages: list[tuple[str, str]], rng: Random) -> str:
        part, language = "execute", "en"
        if messages[0][0] == "system":
            part, _, name = messages[0][1].rpartition(" ")
            language = {name: code for code, name in lessons.LANGUAGES.items()}[name]
        if messages[-1][0] == "user":  # its bare header
            part = "bare"
        given = messages[-2][1] if len(messages) > 1 else ""
        self.asked[part] += 1
        writes = part not in ("execute", "plan", "classify", "input", "label", "input for")
        if writes and rng.random() < self.garbage:
            return rng.choice(GARBAGE)
        try:
            return getattr(self, part.replace(" ", "_").replace("-", "_"))(given, language, rng)
        except (Undefined, Unreadable, Ambiguous, IllTyped):
            return "nothing"

    # Reading and doing -----------------------------------------------------------------------------------------------

    def read(self, instruction: str):
        return self.course.verifier.parser.parse(instruction)

    def execute(self, text: str, language: str, rng: Random) -> str:
        instruction, given = lessons.split_request(text)
        reading = self.read(instruction)
        given = given if reading.literal is None else reading.literal
        right = self.world.run(reading.program, given, reading.language)
        return f"{right} 1" if rng.random() < self.wrong else right

    def plan(self, text: str, language: str, rng: Random) -> str:
        steps = self.read(text).program.decompose()
        return "\n".join(self.grammar.phrase(step, rng, language) for step in steps)

    def classify(self, text: str, language: str, rng: Random) -> str:
        return "yes" if self.world.signature(self.read(text).program).gives == "truth" else "no"

    def input(self, text: str, language: str, rng: Random) -> str:
        reading = self.read(text)
        return "-" if reading.literal is not None else self._drawn(reading.program, language, rng)[0]

    def label(self, text: str, language: str, rng: Random) -> str:
        return self._drawn(self.read(text).program, language, rng)[1]

    def input_for(self, text: str, language: str, rng: Random) -> str:
        instruction, label = lessons.split_request(text)
        program = self.read(instruction).program
        drawn = [self._drawn(program, language, rng) for _ in range(20)]
        return next((given for given, output in drawn if output == label), drawn[0][0])

    def _drawn(self, program: Program, language: str, rng: Random) -> tuple[str, str]:
        drawn = draw_input(self.world, program, rng, language, "train")
        if drawn is None:
            raise Undefined("no input")
        return drawn

    # Writing ---------------------------------------------------------------------------------------------------------

    def _new(self, text: str, language: str, rng: Random) -> str:
        return self.grammar.phrase(rng.choice(self.programs), rng, language)

    def bare(self, text: str, language: str, rng: Random) -> str:
        program, language = rng.choice(self.programs), rng.choice(("en", "zh"))
        given = self._drawn(program, language, rng)[0]
        if rng.random() < 0.3:
            return self.grammar.phrase(program, rng, language, literal=given)
        return lessons.request(self.grammar.phrase(program, rng, language), given)

    continue_ = _new
    back_translate = induce = widen = _new

    def deepen(self, text: str, language: str, rng: Random) -> str:
        program = self.read(text).program
        longer = [Program((*program.steps, step)) for step in self.world.steps()]
        fitting = [each for each in longer if self.world.well_typed(each)]
        return self.grammar.phrase(rng.choice(fitting or [program]), rng, language)

    def combine(self, text: str, language: str, rng: Random) -> str:
        program = Program(tuple(step for line in text.splitlines() for step in self.read(line).program.steps))
        return self.grammar.phrase(
            program if self.world.well_typed(program) else rng.choice(self.programs), rng, language
        )

    def paraphrase(self, text: str, language: str, rng: Random) -> str:
        reading = self.read(text)
        return self.grammar.phrase(reading.program, rng, language, literal=reading.literal)


setattr(Oracle, "continue", Oracle._new)


def read_prompt(ids: list[int]) -> list[tuple[str, str]]:
    """(role, text) of each message; the last one is the header that waits for its text."""
    roles = {number: role for role, number in Letters.roles.items()}
    messages: list[tuple[str, list[int]]] = []
    for token in ids[1:]:
        if token in roles:
            messages.append((roles[token], []))
        elif token != Letters.end:
            messages[-1][1].append(token)
    return [(role, Letters().decode(text)) for role, text in messages]


def oracle_of(course: Course, monkeypatch, **spoiled: float) -> tuple[LoadedModel, Oracle]:
    """An oracle in the place of the model, for as long as the test runs."""
    oracle = Oracle(course, **spoiled)
    monkeypatch.setattr("model.complete.complete_prompts", oracle.complete_prompts)
    monkeypatch.setattr("instruct.propose.complete_prompts", oracle.complete_prompts)
    model = SimpleNamespace(config=SimpleNamespace(context=LONG))
    return LoadedModel(model, Letters(), ChatFormat(), Path("oracle")), oracle


def untaught(folder: Path, tokenizer: Tokenizer) -> Path:
    """A run folder with a model of width 32 that knows nothing."""
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(vocab_size=tokenizer.vocab_size, context=192, width=32, layers=2, heads=2))
    write_folder(checkpoint_folder(folder, 1), model_files(model, tokenizer, ChatFormat()))
    return folder
