"""Closed questions, which hold their input ("What is the capital of France?"), and answers to them as sentences.

    closed_question(Program.read("capital"), "France", "en", Random(0))
    in_words(Program.read("capital"), "France", "Paris", "What is the capital of France?", "en")

Questions are in words of the world's grammar. People ask for facts in more ways than that, so there are also frames
around a noun (`ASKED`) which the parser cannot read, and nonsense before it, beside which the noun must be found.
"""

from __future__ import annotations

import string
from functools import cache
from random import Random

from instruct.world.grammar import Grammar, finish, has_tail, is_plural
from instruct.world.inputs import NAMED
from instruct.world.operation import is_a
from instruct.world.program import Program, world
from instruct.world.splits import LOOKUPS
from instruct.world.wording import OBJECT, literal_forms

#: Questions around a noun that people ask and the grammar does not know; those of "place" only where one is asked for.
ASKED = {
    "en": {"": ("Which is {n}?", "What's {n}?", "{n}?"), "place": ("Which place is {n}?",)},
    "zh": {"": ("{n}是哪个？", "{n}叫什么？", "{n}？"), "place": ("{n}是哪里？", "{n}在哪里？")},
}
ENDS = {"en": ".?", "zh": "。？"}
PLACES = ("city", "country", "continent")
FRAMED = 0.4  # share of the questions for facts that are in words of `ASKED`


@cache
def grammar() -> Grammar:
    """Of the whole embedded world."""
    return Grammar(world())


@cache
def is_fact(program: Program) -> bool:
    """Whether a name or a number leads to something that must have been read, and this has a noun."""
    operations = [world().operation(step) for step in program.steps]
    named = world().signature(program).takes in {*NAMED, "number"}
    known = named and all(each.family in LOOKUPS for each in operations)
    return known and all(bool(noun_phrases(program, language)) for language in ("en", "zh"))


def closed_question(program: Program, literal: str, language: str, rng: Random) -> str:
    """A question that holds its input: in the grammar's words, or now and then in a frame where the answer is a
    fact."""
    if is_fact(program) and rng.random() < FRAMED:
        return framed_question(program, literal, language, rng)
    return grammar().phrase(program, rng, language, literal=literal)


def framed_question(program: Program, literal: str, language: str, rng: Random) -> str:
    """A question of `ASKED` around a noun of a program that has one."""
    place = any(is_a(world().signature(program).gives, kind) for kind in PLACES)
    frames = ASKED[language][""] + (ASKED[language]["place"] if place else ())
    return finish(rng.choice(frames).replace("{n}", rng.choice(noun_phrases(program, language))), language, literal)


def unknown_question(program: Program, literal: str, language: str, rng: Random) -> str:
    """A noun of a program behind words that nobody knows."""
    noun = rng.choice(noun_phrases(program, language))
    return finish(nonsense(rng, language) + noun + rng.choice(ENDS[language]), language, literal)


def nonsense(rng: Random, language: str) -> str:
    """Some words that nobody knows: of random letters, each with a space behind it, or random Chinese characters."""
    if language == "zh":
        return "".join(chr(rng.randrange(0x4E00, 0x9FA6)) for _ in range(rng.randint(1, 4)))
    words = ("".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 7))) for _ in range(rng.randint(1, 3)))
    return "".join(word + " " for word in words)


def noun_phrases(program: Program, language: str) -> list[str]:
    """What the result of a program is called, `OBJECT` for its input: "the currency of the country whose capital
    is {x}"; without words that are held out. [] where one of its steps has no noun."""
    found = list(literal_forms(world().signature(program).takes, language))
    tails = [False] * len(found)
    for step in program.steps:
        phrases = world().operation(step).phrases(language)
        said, tailed = [], []
        for noun in phrases.nouns:
            tail = has_tail(noun, language)
            for inner, inner_tail in zip(found, tails):
                if noun != phrases.held_out and not (tail and inner_tail):
                    said.append(noun.replace("{k}", phrases.say(step.argument)).replace("{x}", inner))
                    tailed.append(tail or inner_tail)
        found, tails = said, tailed
    return found


def in_words(program: Program, literal: str, answer: str, question: str, language: str) -> str:
    """The answer to a question as a sentence, around the noun that the question uses (the program's first one where it
    uses none): "The capital of France is Paris." to a question, "Paris is the capital of France." to an order."""
    nouns = [noun.replace(OBJECT, literal) for noun in noun_phrases(program, language)]
    noun = max(nouns, key=lambda each: (each.lower() in question.lower()) * len(each))
    verb = ("are" if is_plural(noun) else "is") if language == "en" else "是"
    words = (noun, verb, answer) if question.endswith(("?", "？")) else (answer, verb, noun)
    text = " ".join(words) + "." if language == "en" else "".join(words) + "。"
    return text[0].upper() + text[1:]
