"""What an operation of the world is: a typed function with the words that ask for it.

The world is bilingual (English "en", Chinese "zh") and closed: about a hundred operations over numbers, lists, words,
entities, sentences and small plans. A program is a chain of them (`instruct.world.program`), an instruction is a
program put into words (`instruct.world.grammar`), and the words can be read back (`instruct.world.parse`). So what an
instruction means, whether an answer is right and whether two instructions mean the same is decided by running them.

The meaning of an operation never depends on the language of the instruction, only on its input: the capital of
"France" is "Paris" and that of "法国" is "巴黎", whichever language asked for it. An input without a language of its
own (numbers) is answered in the language of the instruction ("yes", "是").

What it leaves out: operations over two inputs (a second one is an argument, {k}, with a few fixed values), and new
meanings: whatever is built here is a composition of the operations that are here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from configs import check

_CHINESE = re.compile("[\u4e00-\u9fff]")
_LATIN = re.compile("[A-Za-z]")

#: Every type, with the type it is a kind of ("" for a root). A value of a type serves wherever its parent is asked for.
TYPES = {
    "list": "",  # a list of anything: numbers or words
    "numbers": "list",  # list[int]; text "3 1 2"
    "words": "list",  # list[str]; text "cat dog", "猫 狗"
    "number": "",  # int; text "12"
    "word": "",  # str, one word or name, as written
    "letter": "word",
    "country": "word",
    "city": "word",
    "currency": "word",
    "continent": "word",
    "language": "word",
    "element": "word",
    "symbol": "word",  # of a chemical element
    "month": "word",
    "weekday": "word",
    "animal": "word",
    "planet": "word",
    "sentence": "",  # str
    "expression": "",  # str: "7 + 5"
    "graph": "",  # str: "A-B B-C ; A C": undirected edges; from and to
    "tasks": "",  # str: "wash<cook cook<eat": before<after
    "blocks": "",  # str: "a b | c": towers from bottom to top
    "truth": "",  # bool; text "yes" / "no", "是" / "否"
}

#: What an operation gives that works on several types: the very type that came in, or the type of a list's items.
SAME, ITEM = "same", "item"


class Undefined(ValueError):
    """The operation has no answer for this input (the largest of no numbers, the capital of a word)."""


@dataclass(frozen=True)
class Phrases:
    """The words for an operation in one language; {x} is its object, {k} its argument.

    verbs   imperative clauses, lower case, no full stop: "sort {x} in ascending order", "将{x}从小到大排序"
    nouns   noun phrases for the result: "the sum of {x}", "{x}的总和"; they nest and stand in questions
            ("what is {noun}?"). May be empty.
    spoken  how {k} is said where that is not as it is written: {"animal": "动物"}, {2: "second"}
    The last of `verbs` (or of `nouns`, when there is one verb only) is held out: no training text contains it, only the
    split of unseen phrasings. So there are at least three phrases in all.
    """

    verbs: tuple[str, ...]
    nouns: tuple[str, ...] = ()
    spoken: Mapping[int | str, str] = field(default_factory=dict, hash=False)

    def say(self, argument: int | str | None) -> str:
        return self.spoken.get(argument, str(argument))

    @property
    def held_out(self) -> str:
        return self.verbs[-1] if len(self.verbs) > 1 or not self.nouns else self.nouns[-1]


@dataclass(frozen=True)
class Operation:
    """One typed function and its words.

    run(value, argument, language) -> value: pure; `argument` is None or one of `arguments`; `language` ("en" or "zh")
    matters only where a text is made from a value that has none; it is that of the input where the input has one, else
    that of the instruction. Raises Undefined.
    holds(value, argument, language, answer) -> bool: only where many answers are right (constrained writing); `run`
    then gives one of them. Such an operation can only come last.
    """

    name: str
    family: str
    takes: str
    gives: str
    run: Callable[[object, object, str], object]
    english: Phrases
    chinese: Phrases
    arguments: tuple[int | str, ...] = ()
    holds: Callable[[object, object, str, object], bool] | None = field(default=None, compare=False)

    def __post_init__(self):
        problems = []
        if self.takes not in TYPES or self.gives not in {*TYPES, SAME, ITEM}:
            problems.append(f"operation {self.name}: unknown type {self.takes} or {self.gives}")
        for phrases in (self.english, self.chinese):
            if len(phrases.verbs) + len(phrases.nouns) < 3:
                problems.append(f"operation {self.name} needs at least three phrases in each language")
            for phrase in (*phrases.verbs, *phrases.nouns):
                if phrase.count("{x}") != 1 or phrase.count("{k}") != bool(self.arguments):
                    problems.append(f"operation {self.name}: {phrase!r} needs one {{x}}, and {{k}} if it has arguments")
        check(problems)

    def phrases(self, language: str) -> Phrases:
        return self.english if language == "en" else self.chinese


def is_a(kind: str, other: str) -> bool:
    """Whether a value of type `kind` serves where `other` is asked for."""
    while kind and kind != other:
        kind = TYPES[kind]
    return kind == other


def language_of(text: str) -> str | None:
    """"zh" where there is a Chinese character, "en" where there is a Latin letter, None for neither."""
    if _CHINESE.search(text):
        return "zh"
    return "en" if _LATIN.search(text) else None
