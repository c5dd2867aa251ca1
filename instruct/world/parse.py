"""Parser: instructions read back to the programs that they ask for; what cannot be read, or in two ways, is refused.

    parser = Parser(world())
    parser.parse("First sort the numbers in ascending order, then double the last item of the result.")
    parser.parse("法国的首都是什么？")      # Reading(program=capital, literal="法国", language="zh")

What it is. The inverse of `instruct.world.grammar`, built from the same templates but by another road: a chart over
spans of the text. A span is a noun phrase if it is a name, a literal or a noun template around a noun phrase; a clause
if it is a verb template or a frame around a noun phrase; an instruction is a clause or several under a connector. All
readings are found, those that are well typed are kept, and readings of equal behaviour count as one.

Why exact. A verifier that guesses what was meant would call a wrong instruction right. So the parser forgives case,
spaces, full-width signs and the final stop, and nothing else: a word dropped, swapped or replaced is either refused or
means what it now says.

Speed. Templates are found by their first words (or their last, where they begin with the object) in dictionaries, and
every span is read once.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from configs import UserError
from instruct.world.behaviour import Behaviour
from instruct.world.grammar import has_tail
from instruct.world.inputs import is_known
from instruct.world.operation import TYPES, Undefined, is_a
from instruct.world.program import IllTyped, Program, Step, World, read_value
from instruct.world.wording import ALSO, BACK, BARE, OPENINGS, ORDERS, QUESTIONS, STYLES, Style, all_names, title

LONGEST_TEXT = 400
SLOT = "\x01"
_CHINESE = "\u3000-\u303f\u4e00-\u9fff" + SLOT
_SPACE_BY_CHINESE = re.compile(rf"(?<=[{_CHINESE}]) | (?=[{_CHINESE}])")
_SPACE_BY_STOP = re.compile(r" ?([,.?!;:]) ?")
_QUOTED = re.compile(r'("[^"]*")')
_NUMBER = re.compile(r"-?\d{1,4}")
_QUOTES = str.maketrans(dict.fromkeys("“”„‟「」『』＂", '"'))
_SIGNS = str.maketrans("‘’。−", "''.-")


class Unreadable(UserError):
    """No program is meant. `where` is the part that could not be read."""

    def __init__(self, text: str, where: str, why: str = "is no instruction of this world"):
        self.where = where
        super().__init__(f"cannot read {text!r}: {where!r} {why}")


class Misfit(Unreadable):
    """The words name operations, but these do not fit together."""


class Ambiguous(UserError):
    """Several programs of different behaviour are meant: `readings`."""

    def __init__(self, text: str, readings: list[Reading]):
        self.readings = readings
        meant = "; or ".join(f"{each.program}" + (f" of {each.literal!r}" if each.literal else "") for each in readings)
        super().__init__(f"{text!r} can mean {meant}; say it in other words")


class Reading(NamedTuple):
    """What an instruction asks for; `literal`: its input where that stands in the instruction."""

    program: Program
    literal: str | None
    language: str


class Name(NamedTuple):
    """An object that is given beside the instruction, with the types that its name may stand for."""

    kinds: frozenset[str]


class Literal(NamedTuple):
    """An object that stands in the instruction; `kinds`: as a name before it says (None: nothing said so)."""

    text: str
    bare: bool
    kinds: frozenset[str] | None = None


class Back(NamedTuple):
    """The result of the clause before."""


class Phrase(NamedTuple):
    """Steps, the first one first, and what they start from; `tail`: as in `instruct.world.grammar.has_tail`."""

    steps: tuple[Step, ...]
    base: Name | Literal | Back
    tail: bool = False


def normalise(text: str, language: str) -> str:
    """The form in which templates and texts are compared, but for case: one kind of quotes and stops, single spaces;
    no space beside Chinese characters in Chinese; no final stop. Inside quotes only spaces are made single."""
    parts = _QUOTED.split(" ".join(text.translate(_QUOTES).split()))
    for i in range(0, len(parts), 2):
        parts[i] = unicodedata.normalize("NFKC", parts[i].translate(_SIGNS))
        if language == "zh":
            parts[i] = _SPACE_BY_STOP.sub(r"\1", _SPACE_BY_CHINESE.sub("", parts[i]))
    return " ".join("".join(parts).split()).rstrip(" .?!")


def lower(text: str) -> str:
    """Lower case, character by character, so that positions stay."""
    lowered = text.lower()
    return lowered if len(lowered) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


class Templates:
    """Templates with one slot, found by what stands before or after it."""

    def __init__(self):
        self._before: dict[str, list] = defaultdict(list)  # text before the slot -> [(text after it, value)]
        self._after: dict[str, list] = defaultdict(list)  # the same by the text after it, where there is none before
        self._before_lengths: dict[str, list[int]] = {}  # of those that begin with this character
        self._after_lengths: dict[str, list[int]] = {}

    def add(self, template: str, value: object, language: str) -> None:
        before, after = lower(normalise(template, language)).split(SLOT)
        if before:
            self._before[before].append((after, value))
            _note(self._before_lengths, before[0], len(before))
        else:
            self._after[after].append((before, value))
            _note(self._after_lengths, after[-1:], len(after))

    def match(self, text: str, start: int, end: int) -> Iterator[tuple[object, int, int]]:
        """(value, start and end of the slot) for every template that text[start:end] fits; the slot is not empty."""
        for length in self._before_lengths.get(text[start], ()):
            if start + length >= end:
                break
            for after, value in self._before.get(text[start : start + length], ()):
                stop = end - len(after)
                if stop > start + length and text.endswith(after, start, end):
                    yield value, start + length, stop
        for length in self._after_lengths.get(text[end - 1], ()):
            if start + length >= end:
                break
            for _, value in self._after.get(text[end - length : end], ()):
                yield value, start, end - length


def _note(lengths: dict[str, list[int]], character: str, length: int) -> None:
    known = lengths.setdefault(character, [])
    if length not in known:
        known.append(length)
        known.sort()


class Words:
    """All templates of one language, ready to be found."""

    def __init__(self, world: World, language: str):
        self.language = language
        self.verbs, self.nouns, self.orders, self.questions = Templates(), Templates(), Templates(), Templates()
        for step in world.steps():
            phrases = world.by_name[step.name].phrases(language)
            for templates, texts in ((self.verbs, phrases.verbs), (self.nouns, phrases.nouns)):
                for text in texts:
                    said = text.replace("{k}", phrases.say(step.argument)).replace("{x}", SLOT)
                    templates.add(said, (step, has_tail(text, language)), language)
        for templates, texts in ((self.orders, ORDERS[language]), (self.questions, QUESTIONS[language])):
            for text in texts:
                for verb in ("is", "are") if "{is}" in text else ("",):
                    templates.add(text.replace("{is}", verb).replace("{n}", SLOT), None, language)
        self.names = {name: Name(kinds) for name, kinds in all_names(language).items()}
        self.back = frozenset(BACK[language])
        self.openings = OPENINGS[language]
        self.styles = tuple(_plain(style, language) for style in STYLES[language])
        kinds: dict[str, set[str]] = defaultdict(set)
        for kind in TYPES:
            for called in (kind, *ALSO.get(kind, ())):
                kinds[title(called, language)].add(kind)
        self.titles = tuple((text, frozenset(found)) for text, found in kinds.items())


def _plain(style: Style, language: str) -> Style:
    texts = (style.opening, style.two, style.middle, style.last)
    if language == "zh":
        texts = tuple(text.translate(_SIGNS).replace("，", ",") for text in texts)
    return Style(*texts)


class Parser:
    """Reads instructions of one world."""

    def __init__(self, world: World, behaviour: Behaviour | None = None):
        self.world = world
        self.behaviour = behaviour or Behaviour(world)
        self._words = {language: Words(world, language) for language in ("en", "zh")}

    def parse(self, text: str) -> Reading:
        """The one meaning of `text`. Raises Unreadable (which part, and why) and Ambiguous (which meanings)."""
        readings = self.readings(text)
        if len(readings) > 1:
            readings = self._distinct(readings)
        if len(readings) > 1:
            raise Ambiguous(text, readings)
        return readings[0]

    def readings(self, text: str) -> list[Reading]:
        """All well-typed meanings, shorter programs first. Raises Unreadable where there is none."""
        if len(text) > LONGEST_TEXT:
            raise Unreadable(text[:40] + "…", text[:40] + "…", f"is longer than {LONGEST_TEXT} characters")
        found: dict[Reading, None] = {}
        problem: Unreadable | None = None
        for language in _languages(text):
            chart = _Chart(self._words[language], text)
            phrases = dict.fromkeys(chart.instruction())
            for steps, base, _ in phrases:
                try:
                    found[self._reading(Program(steps), base, language)] = None
                except (IllTyped, Undefined) as error:
                    problem = problem or Misfit(text, text, f"does not fit together ({error})")
            problem = problem or (None if phrases else Unreadable(text, chart.stumbling_block()))
        if not found:
            raise problem or Unreadable(text, text)
        return sorted(found, key=lambda reading: (len(reading.program), str(reading.program), reading.literal or ""))

    def _reading(self, program: Program, base: Name | Literal, language: str) -> Reading:
        """Raises IllTyped or Undefined where program and object do not go together."""
        takes = self.world.signature(program).takes
        if isinstance(base, Name):
            _check_name(base.kinds, takes)
            return Reading(program, None, language)
        if base.kinds is not None:
            _check_name(base.kinds, takes)
        if base.bare and not (is_known(takes, base.text) or (takes == "number" and _NUMBER.fullmatch(base.text))):
            raise Undefined(f"{base.text!r} is no {takes}")
        read_value(takes, base.text)
        return Reading(program, base.text, language)

    def _distinct(self, readings: list[Reading]) -> list[Reading]:
        """One reading for each behaviour, the shortest program."""
        kept: dict[tuple, Reading] = {}
        for reading in readings:
            kept.setdefault((self.behaviour.fingerprint(reading.program), reading.literal), reading)
        return list(kept.values())


def _check_name(kinds: frozenset[str], takes: str) -> None:
    if not any(is_a(kind, takes) for kind in kinds):
        raise IllTyped(f"a {takes} is asked for, not a {' or a '.join(sorted(kinds))}")


def _languages(text: str) -> tuple[str, ...]:
    """The languages in which the words of `text`, outside quotes, may be written."""
    outside = "".join(_QUOTED.split(text.translate(_QUOTES))[::2])
    chinese = any("\u4e00" <= character <= "\u9fff" for character in outside)
    latin = any(character.isascii() and character.isalpha() for character in outside)
    return (("zh",) if chinese else ()) + (("en",) if latin or not chinese else ())


class _Chart:
    """What each span of one text can be. Spans are [start, end)."""

    def __init__(self, words: Words, text: str):
        self.words = words
        self.original = normalise(text, words.language)
        self.text = lower(self.original)
        self._nouns: dict[tuple[int, int], list[Phrase]] = {}
        self._clauses: dict[tuple[int, int], list[Phrase]] = {}
        self._questions: dict[tuple[int, int], list[Phrase]] = {}

    def instruction(self) -> Iterator[Phrase]:
        """All readings of the whole text, whatever their types."""
        end = len(self.text)
        if end == 0:
            return
        yield from self._first(self.question(0, end))
        for opening in self.words.openings:
            if self.text.startswith(opening) and len(opening) < end:
                yield from self._first(self.clause(len(opening), end))
                for style in self.words.styles:
                    yield from self._chain(style, len(opening), end)

    @staticmethod
    def _first(phrases: list[Phrase]) -> Iterator[Phrase]:
        return (phrase for phrase in phrases if not isinstance(phrase.base, Back))

    def _chain(self, style: Style, start: int, end: int) -> Iterator[Phrase]:
        if not self.text.startswith(style.opening, start):
            return
        start += len(style.opening)
        for joint, more in ((style.two, False), (style.last, True)):
            for cut, after in self._cuts(joint, start, end):
                left = self._sequence(style.middle, start, cut) if more else list(self._first(self.clause(start, cut)))
                if left:
                    last = self.clause(after, end)
                    if style.sentences:
                        last = last + self.question(after, end)
                    yield from _join(left, last)

    def _sequence(self, joint: str, start: int, end: int) -> list[Phrase]:
        """Two clauses or more under one joint, the first with an object of its own."""
        found = []
        for cut, after in self._cuts(joint, start, end):
            right = self.clause(after, end)
            if right:
                left = [*self._first(self.clause(start, cut)), *self._sequence(joint, start, cut)]
                found += _join(left, right)
        return found

    def _cuts(self, joint: str, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Where the joint stands: its start and end."""
        at = self.text.find(joint, start + 1, end)
        while at >= 0:
            if at + len(joint) < end:
                yield at, at + len(joint)
            at = self.text.find(joint, at + 1, end)

    def clause(self, start: int, end: int) -> list[Phrase]:
        """Readings as an order: a verb with its object, or a frame around a noun phrase."""
        key = (start, end)
        if key not in self._clauses:
            found = list(self._apply(self.words.verbs, start, end))
            for _, a, b in self.words.orders.match(self.text, start, end):
                found += [phrase for phrase in self.noun(a, b) if phrase.steps]
            self._clauses[key] = found
        return self._clauses[key]

    def question(self, start: int, end: int) -> list[Phrase]:
        key = (start, end)
        if key not in self._questions:
            matches = self.words.questions.match(self.text, start, end)
            self._questions[key] = [phrase for _, a, b in matches for phrase in self.noun(a, b) if phrase.steps]
        return self._questions[key]

    def noun(self, start: int, end: int) -> list[Phrase]:
        """Readings as a noun phrase; () as its steps where it is an object itself."""
        key = (start, end)
        if key not in self._nouns:
            self._nouns[key] = []  # a noun phrase within itself is no reading
            found = [Phrase((), base) for base in self._objects(start, end)]
            self._nouns[key] = found + list(self._apply(self.words.nouns, start, end))
        return self._nouns[key]

    def _apply(self, templates: Templates, start: int, end: int) -> Iterator[Phrase]:
        for (step, tail), a, b in templates.match(self.text, start, end):
            for steps, base, inner_tail in self.noun(a, b):
                if not (tail and inner_tail):
                    yield Phrase((*steps, step), base, tail or inner_tail)

    def _objects(self, start: int, end: int) -> Iterator[Name | Literal | Back]:
        text = self.text[start:end]
        if text in self.words.names:
            yield self.words.names[text]
        if text in self.words.back:
            yield Back()
        literal = self._literal(start, end)
        if literal:
            yield literal
        for said, kinds in self.words.titles:
            if text.startswith(said) and len(text) > len(said):
                literal = self._literal(start + len(said), end)
                if literal:
                    yield literal._replace(kinds=kinds)

    def _literal(self, start: int, end: int) -> Literal | None:
        text = self.original[start:end]
        if text[0] == '"':
            inside = text[1:-1].strip()
            return Literal(inside, bare=False) if len(text) > 2 and text[-1] == '"' and '"' not in inside else None
        if _NUMBER.fullmatch(text) or any(is_known(kind, text) for kind in BARE):
            return Literal(text, bare=True)
        return None

    def stumbling_block(self) -> str:
        """The first clause that cannot be read, as well as it can be told."""
        joints = {joint for style in self.words.styles for joint in (style.two, style.middle, style.last)}
        openings = {style.opening for style in self.words.styles} | set(self.words.openings)
        pattern = "|".join(re.escape(joint) for joint in sorted(joints, key=len, reverse=True))
        start = 0
        for found in [*re.finditer(pattern, self.text), None]:
            end = found.start() if found else len(self.text)
            starts = [start + len(opening) for opening in openings if self.text.startswith(opening, start)]
            if not any(begin < end and (self.clause(begin, end) or self.question(begin, end)) for begin in starts):
                return self.original[start:end]
            start = found.end() if found else end
        return self.original


def _join(left: list[Phrase], right: list[Phrase]) -> Iterator[Phrase]:
    """One clause after another that speaks of its result."""
    for steps, base, _ in left:
        for more, back, _ in right:
            if isinstance(back, Back):
                yield Phrase((*steps, *more), base)
