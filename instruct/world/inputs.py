"""Inputs: texts of every type, drawn by seed, in pools that do not meet.

    sample_input("numbers", Random(0), "en", "train")       # "7 3 12"
    sample_defined(world, program, Random(0), "zh", "test") # ("3 0 7", "10"): an input that has an output, and that
    pool_of("7 3 12")                                       # "train"
    probes("numbers")                                       # the fixed inputs by which behaviour is told

Why pools. An instruction that was learnt is tested on inputs that were not. Which pool a text belongs to is decided by
its hash, so that no list has to be kept and any text, whoever wrote it, has its pool: seven tenths "train", two tenths
"test", one tenth "probe". Programs are told apart on probes, so that no test depends on what was looked at before.

What is shared. Single words, countries, months and other names are too few to be divided, and what is asked of them is
mostly a fact that must have been seen to be known. Types in `CLOSED` are drawn from all of them in every pool.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from random import Random

from instruct.world.operation import TYPES, Undefined, is_a
from instruct.world.program import Program, World

POOLS = ("train", "test", "probe")
#: Types of which every pool holds all there are.
CLOSED = frozenset(kind for kind in TYPES if is_a(kind, "word"))
PROBES = 24  # of each language
NAME_PROBES = 80  # of single words


def pool_of(text: str) -> str:
    """The pool of an input of an open type."""
    tenth = hashlib.sha256(" ".join(text.split()).encode()).digest()[0] % 10
    return "train" if tenth < 7 else "test" if tenth < 9 else "probe"


def sample_input(kind: str, rng: Random, language: str, pool: str = "train") -> str:
    """A text of type `kind`; `language`: of its words, where it has any. Raises KeyError for an unknown type."""
    make = MAKERS[kind]
    while True:
        text = make(rng, language)
        if kind in CLOSED or pool_of(text) == pool:
            return text


def sample_defined(
    world: World, program: Program, rng: Random, language: str, pool: str = "train", tries: int = 60
) -> tuple[str, str] | None:
    """(input, output) for an input that has an output; None where `tries` draws found none."""
    takes = world.signature(program).takes
    for _ in range(tries):
        text = sample_input(takes, rng, language, pool)
        try:
            return text, world.run(program, text, language)
        except Undefined:
            continue
    return None


@cache
def probes(kind: str) -> tuple[tuple[str, str], ...]:
    """The fixed (text, language) pairs by which the behaviour of a program that takes `kind` is told."""
    found: dict[tuple[str, str], None] = {}
    wanted = NAME_PROBES if kind in CLOSED else PROBES
    for language in ("en", "zh"):
        rng = Random(f"probes of {kind} in {language}")
        for _ in range(wanted):
            found[sample_input(kind, rng, language, "probe"), language] = None
    return tuple(found)


# How each type is drawn ----------------------------------------------------------------------------------------------


def number(rng: Random, language: str) -> str:
    """1 to 20 more often than the others, for those are the numbers of months, planets and elements."""
    return str(rng.randint(1, 20) if rng.random() < 0.4 else rng.randint(-20, 99))


def numbers(rng: Random, language: str) -> str:
    """Three to six from 0 to 20, now and then a negative one, now and then one that repeats another."""
    found = [rng.randint(-9, -1) if rng.random() < 0.08 else rng.randint(0, 20) for _ in range(rng.randint(3, 6))]
    return " ".join(map(str, _repeat_one(found, rng)))


def expression(rng: Random, language: str) -> str:
    text = str(rng.randint(1, 20))
    for _ in range(rng.randint(1, 2)):
        text += f" {rng.choice('+-*')} {rng.randint(1, 12)}"
    return text


def any_list(rng: Random, language: str) -> str:
    return numbers(rng, language) if rng.random() < 0.5 else words(rng, language)


def words(rng: Random, language: str) -> str:
    """Three to five words, half of them of one category, now and then one that repeats another."""
    from instruct.world import lexicon

    pool = lexicon.words_of(rng.choice(lexicon.CATEGORIES), language)
    others = everyday(language) if rng.random() < 0.6 else pool
    found = [rng.choice(rng.choice((pool, others))) for _ in range(rng.randint(3, 5))]
    return " ".join(_repeat_one(found, rng))


def word(rng: Random, language: str) -> str:
    return rng.choice(everyday(language))


def _repeat_one(items: list, rng: Random) -> list:
    if rng.random() < 0.3:
        items[rng.randrange(len(items))] = rng.choice(items)
    return items


@cache
def everyday(language: str) -> tuple[str, ...]:
    """All words of the lexicon."""
    from instruct.world import lexicon

    return tuple(word for category in lexicon.CATEGORIES for word in lexicon.words_of(category, language))


MAKERS: dict[str, Callable[[Random, str], str]] = {
    "number": number,
    "numbers": numbers,
    "expression": expression,
    "list": any_list,
    "words": words,
    "word": word,
}


def is_known(kind: str, text: str) -> bool:
    """Whether `text` is a name of type `kind` in the tables."""
    return False
