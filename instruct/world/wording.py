"""Wording: the words of the grammar itself, which belong to no operation, in English and Chinese.

    names("numbers", "en")              # ("the numbers", "these numbers", "the given numbers")
    literal_forms("country", "zh")      # how 法国 stands in an instruction

What it is. What an input is called, how a literal stands in a sentence, the frames around a noun ("find ...", "what is
...?"), polite openings, and the styles in which clauses are joined. The grammar says them, the parser reads them.

Held out. Of every tuple of alternatives the last is for unseen phrasings only; styles say it themselves.

What it leaves out. The words of the operations, which stand beside what they compute.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from instruct.world.operation import TYPES

#: What an input is called: (noun, its plural?) for each type.
NOUNS = {
    "en": {
        "list": ("list", False),
        "numbers": ("numbers", True),
        "words": ("words", True),
        "number": ("number", False),
        "word": ("word", False),
        "letter": ("letter", False),
        "country": ("country", False),
        "city": ("city", False),
        "currency": ("currency", False),
        "continent": ("continent", False),
        "language": ("language", False),
        "element": ("element", False),
        "symbol": ("chemical symbol", False),
        "month": ("month", False),
        "weekday": ("weekday", False),
        "animal": ("animal", False),
        "planet": ("planet", False),
        "sentence": ("sentence", False),
        "expression": ("expression", False),
        "graph": ("graph", False),
        "tasks": ("tasks", True),
        "blocks": ("blocks", True),
        "truth": ("answer", False),
    },
    "zh": {
        "list": ("列表", False),
        "numbers": ("数", True),
        "words": ("词", True),
        "number": ("数", False),
        "word": ("词", False),
        "letter": ("字母", False),
        "country": ("国家", False),
        "city": ("城市", False),
        "currency": ("货币", False),
        "continent": ("大洲", False),
        "language": ("语言", False),
        "element": ("元素", False),
        "symbol": ("元素符号", False),
        "month": ("月份", False),
        "weekday": ("星期", False),
        "animal": ("动物", False),
        "planet": ("行星", False),
        "sentence": ("句子", False),
        "expression": ("算式", False),
        "graph": ("图", False),
        "tasks": ("任务", True),
        "blocks": ("积木", True),
        "truth": ("答案", False),
    },
}
DETERMINERS = {  # for one, for several
    "en": (("the {}", "this {}", "the given {}"), ("the {}", "these {}", "the given {}")),
    "zh": (("这个{}", "该{}", "给定的那个{}"), ("这些{}", "这几个{}", "给定的这些{}")),
}
#: Types that may also be called by the name of their parent.
ALSO = {"numbers": ("list",), "words": ("list",)}
#: Types whose literals always say what they are, and what Chinese says before a literal where that is not the noun.
SEVERAL = frozenset({"list", "numbers", "words", "graph", "tasks", "blocks"})
TITLES = {"numbers": "列表", "words": "列表", "word": "词语", "number": "数字"}
BACK = {"en": ("the result", "it", "what you get"), "zh": ("结果", "它", "所得的结果")}
PRONOUN = "it"  # stands after a verb only: "double it", not "the double of it"
ORDERS = {
    "en": ("find {n}", "give {n}", "give me {n}", "tell me {n}", "write down {n}", "determine {n}", "report {n}"),
    "zh": ("求{n}", "给出{n}", "告诉我{n}", "写出{n}", "求出{n}", "说出{n}"),
}
QUESTIONS = {
    "en": ("what {is} {n}", "can you tell me {n}", "do you know {n}"),
    "zh": ("{n}是什么", "请问{n}是什么", "你知道{n}是什么吗"),
}
OPENINGS = {"en": ("", "please ", "kindly "), "zh": ("", "请", "麻烦你")}


@dataclass(frozen=True)
class Style:
    """How clauses are joined: before the first; between two; between more; before the last of more than two."""

    opening: str
    two: str
    middle: str
    last: str
    held_out: bool = False

    @property
    def sentences(self) -> bool:
        """Whether the last clause is a sentence of its own, which may be a question."""
        return self.two in (". ", "。", ".")


STYLES = {
    "en": (
        Style("", ", then ", ", then ", ", and finally "),
        Style("first ", ", then ", ", then ", ", and finally "),
        Style("", " and then ", ", then ", ", and then "),
        Style("", ". then ", ". then ", ". finally, "),
        Style("", ", and after that ", ", after that ", ", and at the end "),
        Style("", ". ", ". ", ". "),
        Style("", ". next, ", ". next, ", ". lastly, ", held_out=True),
        Style("to begin with, ", ", and next ", ", next ", ", and lastly ", held_out=True),
    ),
    "zh": (
        Style("先", "，再", "，然后", "，最后"),
        Style("首先", "，然后", "，接着", "，最后"),
        Style("", "，然后", "，接着", "，最后"),
        Style("", "，再", "，再", "，最后"),
        Style("", "。然后", "。然后", "。最后"),
        Style("", "。", "。", "。"),
        Style("", "，之后", "，之后", "，末了", held_out=True),
        Style("先", "，接下来", "，接下来", "，最终", held_out=True),
    ),
}
QUOTES = {"en": '"{}"', "zh": "“{}”"}
STOPS = {"en": (".", "?"), "zh": ("。", "？")}
#: Types whose values stand in a sentence without quotes.
BARE = frozenset({"number", "country", "city", "continent", "language", "element", "month", "weekday", "planet"})
OBJECT = "\0"  # stands for a literal until the sentence is finished


# Names and literals --------------------------------------------------------------------------------------------------


@cache
def names(kind: str, language: str) -> tuple[str, ...]:
    """What an input of this type is called, for instance "the numbers"; the last one is held out."""
    noun, plural = NOUNS[language][kind]
    return tuple(each.format(noun) for each in DETERMINERS[language][plural])


@cache
def all_names(language: str) -> dict[str, frozenset[str]]:
    """Every name, with the types that it may stand for."""
    found: dict[str, set[str]] = {}
    for kind in TYPES:
        for called in (kind, *ALSO.get(kind, ())):
            for name in names(called, language):
                found.setdefault(name, set()).add(kind)
    return {name: frozenset(kinds) for name, kinds in found.items()}


def title(kind: str, language: str) -> str:
    """What stands before a literal of this type: "the word ", 词语."""
    if language == "en":
        return f"the {NOUNS['en'][kind][0]} "
    return TITLES.get(kind, NOUNS["zh"][kind][0])


def literal_forms(kind: str, language: str) -> tuple[str, ...]:
    """How an input of this type stands inside an instruction, the literal as `OBJECT`."""
    if kind in BARE:
        return (OBJECT, title(kind, language) + OBJECT) if language == "en" else (OBJECT,)
    quoted = QUOTES[language].format(OBJECT)
    named = title(kind, language) + quoted
    return (named,) if kind in SEVERAL else (named, quoted)
