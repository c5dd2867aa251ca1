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
import string
from collections.abc import Callable
from functools import cache
from random import Random

from instruct.world import lexicon, plans, sentences, tables
from instruct.world.operation import TYPES, Undefined, is_a
from instruct.world.program import TRUTH, Program, World
from instruct.world.word_lists import CLASSES

POOLS = ("train", "test", "probe")
#: Types of which every pool holds all there are.
CLOSED = frozenset(kind for kind in TYPES if is_a(kind, "word"))
PROBES = 24  # of each language
WORD_PROBES = 160  # of single words, many of which an operation may not know


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
    world: World,
    program: Program,
    rng: Random,
    language: str,
    pool: str = "train",
    tries: int = 60,
    instruction: str | None = None,
) -> tuple[str, str] | None:
    """(input, output) for an input that has an output; None where `tries` draws found none.

    Where the answer is yes or no, both are wanted equally often. `language`: of the input; `instruction`: that of the
    instruction, where it is another. Raises IllTyped.
    """
    takes, gives = world.signature(program)
    truth = rng.random() < 0.5
    wanted = {words[truth] for words in TRUTH.values()} if gives == "truth" else None
    found = None
    for _ in range(tries):
        text = sample_input(takes, rng, language, pool)
        try:
            found = text, world.run(program, text, instruction or language)
        except Undefined:
            continue
        if wanted is None or found[1] in wanted:
            break
    return found


@cache
def probes(kind: str) -> tuple[tuple[str, str], ...]:
    """The fixed (text, language) pairs by which the behaviour of a program that takes `kind` is told.

    Names: all there are. Single numbers are too few to spare any: all from -20 to 99, every fifth asked in Chinese too.
    """
    if kind == "number":
        return tuple((str(n), "en") for n in range(-20, 100)) + tuple((str(n), "zh") for n in range(-20, 100, 5))
    found: dict[tuple[str, str], None] = {}
    for language in ("en", "zh"):
        rng = Random(f"probes of {kind} in {language}")
        if kind in NAMED:
            found.update(((name, language), None) for name in names_of(kind, language))
        else:
            for _ in range(WORD_PROBES if kind in CLOSED else PROBES):
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
    """Three to five words, many of them of one category, half of the time one that operations ask for; now and then one
    that repeats another."""
    category = rng.choice(CLASSES if rng.random() < 0.5 else lexicon.CATEGORIES)
    some = lexicon.words_of(category, language)
    others = everyday(language) if rng.random() < 0.6 else some
    return " ".join(_repeat_one([rng.choice(rng.choice((some, others))) for _ in range(rng.randint(3, 5))], rng))


def word(rng: Random, language: str) -> str:
    """An everyday word, all categories equally often; or one time in ten a name."""
    if rng.random() < 0.1:
        return rng.choice(lexicon.NAMES).name.text(language)
    return rng.choice(lexicon.words_of(rng.choice(lexicon.CATEGORIES), language))


def letter(rng: Random, language: str) -> str:
    """A letter, or the first character of a Chinese word."""
    return rng.choice(string.ascii_lowercase) if language == "en" else rng.choice(everyday("zh"))[0]


def a_name(kind: str) -> Callable[[Random, str], str]:
    """The maker of a type that has a table of names."""
    return lambda rng, language: rng.choice(names_of(kind, language))


def _repeat_one(items: list, rng: Random) -> list:
    if rng.random() < 0.3:
        items[rng.randrange(len(items))] = rng.choice(items)
    return items


@cache
def everyday(language: str) -> tuple[str, ...]:
    """All words of the lexicon that are no names."""
    return tuple(word.name.text(language) for word in lexicon.WORDS)


@cache
def names_of(kind: str, language: str) -> tuple[str, ...]:
    """All there are of a type of names: countries, animals, symbols..."""
    if kind == "symbol":
        return tuple(element.symbol for element in tables.ELEMENTS)
    if kind == "animal":
        return tuple(animal.name.text(language) for animal in tables.ANIMALS)
    return lexicon.words_of(kind, language)


def is_known(kind: str, text: str) -> bool:
    """Whether `text` is one of the names of type `kind`, in either language."""
    return kind in NAMED and text in _known(kind)


@cache
def _known(kind: str) -> frozenset[str]:
    return frozenset(names_of(kind, "en")) | frozenset(names_of(kind, "zh"))


#: Types that have a table of names.
NAMED = CLOSED - {"word", "letter"}
MAKERS: dict[str, Callable[[Random, str], str]] = {
    "number": number,
    "numbers": numbers,
    "expression": expression,
    "list": any_list,
    "words": words,
    "word": word,
    "letter": letter,
    "sentence": sentences.sample_sentence,
    "graph": plans.sample_graph,
    "tasks": plans.sample_tasks,
    "blocks": plans.sample_blocks,
    **{kind: a_name(kind) for kind in sorted(NAMED)},
}
