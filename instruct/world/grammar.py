"""Grammar: every program put into words, in many ways, in English and Chinese.

    grammar = Grammar(world())
    grammar.phrase(program, Random(0), "en")                        # "First sort the numbers, then double the result."
    grammar.phrase(program, Random(0), "zh", held_out=True)         # words that no training text contains
    grammar.phrase(capital, Random(0), "en", literal="France")      # "What is the capital of France?"
    grammar.count(program, "en")                                    # in how many ways

What it is. An operation has verbs ("sort {x}") and nouns ("the sum of {x}"). The grammar builds instructions of them:
one clause (a verb, or a frame such as "find {n}" around a noun), nouns inside nouns and verbs ("double the sum of the
numbers"), and chains of clauses under a connector ("first ..., then ..."), in which later ones speak of "the result".
The object is a name for an input that is given beside the instruction ("the numbers"), or the input itself.

Why a tree of choices. All ways to say a program are one small tree of alternatives (`Either`) and sequences (`Both`).
Drawing from it, counting it and listing it are three walks over the same tree, so that tests can compare what is
drawn and what is read with everything that can be said.

Held out. The last phrase of each operation, name, frame, opening and two connectors are for the split of unseen
phrasings: an instruction phrased with `held_out=True` uses at least the held-out phrase of its last operation.

What it leaves out. Free word order, synonyms inside a phrase, pronouns other than those of `BACK`. What people say
beyond that is in `instruct.world.human`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from random import Random
from typing import NamedTuple

from configs import UserError
from instruct.world.program import Program, Step, World
from instruct.world.wording import (
    ALSO,
    BACK,
    OBJECT,
    OPENINGS,
    ORDERS,
    PRONOUN,
    QUESTIONS,
    STOPS,
    STYLES,
    literal_forms,
    names,
)

# The tree of choices -------------------------------------------------------------------------------------------------


class Either(NamedTuple):
    """One of these."""

    options: tuple[Tree, ...]


class Both(NamedTuple):
    """All of these, in order."""

    parts: tuple[Tree, ...]


Tree = str | Either | Both


def count(tree: Tree) -> int:
    if isinstance(tree, str):
        return 1
    return sum(map(count, tree.options)) if isinstance(tree, Either) else math.prod(map(count, tree.parts))


def draw(tree: Tree, rng: Random) -> str:
    """One text; every choice is uniform."""
    if isinstance(tree, str):
        return tree
    if isinstance(tree, Either):
        return draw(rng.choice(tree.options), rng)
    return "".join(draw(part, rng) for part in tree.parts)


def every(tree: Tree) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, Either):
        yield from itertools.chain.from_iterable(map(every, tree.options))
    else:
        yield from map("".join, itertools.product(*map(every, tree.parts)))


def _either(options: Sequence[Tree]) -> Tree | None:
    """None where there is nothing to choose from."""
    kept = tuple(option for option in options if option is not None)
    return kept[0] if len(kept) == 1 else Either(kept) if kept else None


def _both(*parts: Tree | None) -> Tree | None:
    return None if None in parts else Both(parts)


def _around(template: str, slot: str, inside: Tree | None) -> Tree | None:
    before, after = template.split(slot)
    return _both(before, inside, after)


def has_tail(template: str, language: str) -> bool:
    """Whether an English template goes on after its object: of such templates only one stands inside another."""
    return language == "en" and not template.endswith("{x}")


# Instructions --------------------------------------------------------------------------------------------------------


class Grammar:
    """Puts programs of a world into words. `held_out`: False for training words only, True for unseen phrasings, None
    for everything that can be said."""

    def __init__(self, world: World):
        self.world = world
        self._tree = lru_cache(maxsize=1 << 14)(self._instruction)
        self._words = cache(lambda language, held_out, last: _Words(world, language, held_out, last))

    def phrase(
        self,
        program: Program,
        rng: Random,
        language: str,
        held_out: bool | None = False,
        literal: str | None = None,
    ) -> str:
        """An instruction that asks for `program`; of a given input, or of `literal`. Raises IllTyped."""
        tree = self.tree(program, language, held_out, literal is not None)
        return finish(draw(tree, rng), language, literal)

    def chain(self, program: Program, rng: Random, language: str) -> str:
        """Training words that ask for its steps one after the other, whether or not they fit together."""
        forms = _object_names(self.world.signature(Program(program.steps[:1])).takes, language, False)
        tree = self._chain([(step,) for step in program.steps], forms, language, False)
        if tree is None:
            raise UserError(f"there are no words for {program}")
        return finish(draw(tree, rng), language)

    def count(self, program: Program, language: str, held_out: bool | None = False) -> int:
        """In how many ways `program` can be said."""
        return count(self.tree(program, language, held_out, False))

    def phrasings(
        self, program: Program, language: str, held_out: bool | None = None, literal: str | None = None
    ) -> Iterator[str]:
        """All of them."""
        for text in every(self.tree(program, language, held_out, literal is not None)):
            yield finish(text, language, literal)

    def tree(self, program: Program, language: str, held_out: bool | None, closed: bool) -> Tree:
        """The choices; `closed`: with a literal. Raises IllTyped, and UserError where there are none."""
        tree = self._tree(program, language, held_out, closed)
        if tree is None:
            raise UserError(f"there are no words for {program}")
        return tree

    def _instruction(self, program: Program, language: str, held_out: bool | None, closed: bool) -> Tree | None:
        takes = self.world.signature(program).takes
        forms = literal_forms(takes, language) if closed else _object_names(takes, language, held_out)
        options = []
        for cuts in itertools.product((False, True), repeat=len(program) - 1):
            chunks = _cut(program.steps, cuts)
            if len(chunks) == 1:
                options += self._single(chunks[0], forms, language, held_out)
            else:
                options.append(self._chain(chunks, forms, language, held_out))
        return _either(options)

    def _single(self, chunk: Sequence[Step], forms: tuple[str, ...], language: str, held_out) -> list[Tree | None]:
        stop, question_mark = STOPS[language]
        words = self._words(language, held_out, True)
        opening = _either(_choose(OPENINGS[language], held_out))
        order = _both(opening, words.order(chunk, forms), stop)
        return [order, _both(words.question(chunk, forms), question_mark)]

    def _chain(self, chunks: list[Sequence[Step]], forms: tuple[str, ...], language: str, held_out) -> Tree | None:
        stop, question_mark = STOPS[language]
        back = _choose(BACK[language], held_out)
        middle, last = self._words(language, held_out, False), self._words(language, held_out, True)
        clauses = [middle.order(chunk, back if i else forms) for i, chunk in enumerate(chunks[:-1])]
        end = last.order(chunks[-1], back)
        options = []
        for style in STYLES[language]:
            if style.held_out and held_out is False:
                continue
            joints = [style.two] if len(chunks) == 2 else [style.middle] * (len(chunks) - 2) + [style.last]
            joined = [part for pair in zip(clauses, joints) for part in pair]
            opening = _either(_choose(OPENINGS[language], held_out))
            options.append(_both(opening, style.opening, *joined, end, stop))
            if style.sentences:
                options.append(_both(*joined, last.question(chunks[-1], back), question_mark))
        return _either(options)


class _Words:
    """Clauses and noun phrases in one language; `last`: of the last clause, which must show a held-out phrase."""

    def __init__(self, world: World, language: str, held_out: bool | None, last: bool):
        self.world, self.language, self.held_out, self.last = world, language, held_out, last
        self.order = lru_cache(maxsize=1 << 14)(self._order)
        self.noun = lru_cache(maxsize=1 << 14)(self._noun)

    def _order(self, chunk: Sequence[Step], forms: tuple[str, ...]) -> Tree | None:
        """"sort the numbers", "find the sum of the numbers"."""
        inner, step = chunk[:-1], chunk[-1]
        verbs = [self._fill(template, inner, forms) for template in self._phrases(step, "verbs", self.last)]
        return _either([*verbs, self._frames(chunk, forms, _choose(ORDERS[self.language], self.held_out))])

    def question(self, chunk: Sequence[Step], forms: tuple[str, ...]) -> Tree | None:
        """"what is the sum of the numbers"; None where a truth is asked for."""
        return self._frames(chunk, forms, _choose(QUESTIONS[self.language], self.held_out))

    def _noun(self, chunk: Sequence[Step], forms: tuple[str, ...], tail: bool) -> Tree | None:
        """"the sum of the numbers"; `tail`: whether it may go on after its object."""
        inner, step = chunk[:-1], chunk[-1]
        templates = self._phrases(step, "nouns", False)
        return _either(
            [self._fill(each, inner, forms, tail) for each in templates if tail or not has_tail(each, self.language)]
        )

    def _fill(self, template: str, inner: Sequence[Step], forms: tuple[str, ...], tail: bool = True) -> Tree | None:
        """The template around a noun phrase for `inner`, or around the object itself where that is empty."""
        if inner:
            inside = self.noun(inner, forms, tail and not has_tail(template, self.language))
        else:
            inside = _either(_fitting(forms, template))
        return _around(template, "{x}", inside)

    def _frames(self, chunk: Sequence[Step], forms: tuple[str, ...], frames: tuple[str, ...]) -> Tree | None:
        options = []
        for template in self._phrases(chunk[-1], "nouns", self.last):
            said = self._fill(template, chunk[:-1], forms)
            verb = "are" if self.language == "en" and is_plural(template) else "is"
            options += [_around(frame.replace("{is}", verb), "{n}", said) for frame in frames]
        return _either(options)

    def _phrases(self, step: Step, slot: str, must: bool) -> list[str]:
        """Templates of an operation with its argument filled in; `must`: they have to be held-out ones if asked for."""
        phrases = self.world.by_name[step.name].phrases(self.language)
        found = list(getattr(phrases, slot))
        if self.held_out is False:
            found = [each for each in found if each != phrases.held_out]
        elif self.held_out and (must or phrases.held_out in found):
            found = [each for each in found if each == phrases.held_out]
        return [each.replace("{k}", phrases.say(step.argument)) for each in found]


def finish(text: str, language: str, literal: str | None = None) -> str:
    """Capitals at the beginning of English sentences, and the literal in its place."""
    if language == "en":
        text = re.sub(r"(^|[.?] )([a-z])", lambda found: found[1] + found[2].upper(), text)
    return text.replace(OBJECT, literal or "")


def _fitting(forms: tuple[str, ...], template: str) -> tuple[str, ...]:
    """The names that stand well in a template: no "sum of it", no "numbers in the numbers"."""
    clumsy = {PRONOUN} if template.startswith(("the ", "everything ")) else set()
    for noun, several in (("number", "numbers"), ("word", "words")):
        if noun in template:
            clumsy |= {form for form in forms if several in form}
    return tuple(form for form in forms if form not in clumsy) or forms


def is_plural(noun: str) -> bool:
    """Whether an English noun phrase is plural, by the word before its first preposition: "the lengths of {x}"."""
    head = re.split(r" (?:of|in|from|for|that|with|between|without|to|above|below|after|before) ", noun)[0].split()[-1]
    return head.endswith("s") and not head.endswith(("ss", "us", "is"))


def _choose(texts: tuple[str, ...], held_out: bool | None) -> tuple[str, ...]:
    """All but the held-out last one in training; all of them otherwise."""
    return texts[:-1] if held_out is False else texts


def _object_names(kind: str, language: str, held_out: bool | None) -> tuple[str, ...]:
    return tuple(name for each in (kind, *ALSO.get(kind, ())) for name in _choose(names(each, language), held_out))


def _cut(steps: tuple[Step, ...], cuts: tuple[bool, ...]) -> list[tuple[Step, ...]]:
    """The steps in chunks, with a cut after step i where cuts[i]."""
    edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(steps)]
    return [steps[a:b] for a, b in itertools.pairwise(edges)]
