"""Questions about documentation whose answers a program can read off: the tasks of `instruct.documentation`.

What it is. `facts_of` reads entries of the built-in corpus: name, kind, signature, first sentence, the rest. A `Task`
turns the facts of one entry into a `Question`, or into None where the entry does not lend itself to it, and holds the
phrasings of that question in English and in Chinese. `TASKS` is the table of them all.

Why so. A task is one small function and its phrasings, so that another one is a dozen lines. Passages and answers are
bounded in characters, so that question and answer fit into 256 tokens.

What it leaves out. Return annotations, which the corpus does not carry, and the topics of the language reference.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from data.corpus import Entry

PASSAGE_CHARACTERS = 380  # with its question and answer a passage fits into 256 tokens of a vocabulary of 4,096
SENTENCE_CHARACTERS = 90
NAME_CHARACTERS = 60
SIGNATURE_CHARACTERS = 120
MOST_PARAMETERS = 6
ABBREVIATIONS = ("e.g.", "i.e.", "etc.", "vs.", "cf.", "eg.", "ie.")


# What is certain about an entry --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """An entry, read. `sentence` is its first one ("" without a usable one), `rest` is what follows, on one line."""

    entry: Entry
    sentence: str
    rest: str
    parameters: tuple[tuple[str, str | None], ...] | None  # (name, default) without self; None where unknown
    unique: bool  # no other entry has this first sentence

    @property
    def name(self) -> str:
        return self.entry.qualified_name

    @property
    def header(self) -> str:
        return self.name + self.entry.signature

    @property
    def has_prose(self) -> bool:
        """Whether enough words follow the first sentence to make a passage."""
        return len(self.rest) >= 40 and self.rest.isascii() and ">>>" not in self.rest and self.rest[0].isalpha()

    @property
    def public(self) -> bool:
        return not any(part.startswith("_") for part in self.name.split("."))


def first_sentence(text: str) -> str:
    """The first sentence on one line, or "" where the first paragraph does not end one."""
    paragraph = " ".join(re.split(r"\n\s*\n", text.strip(), maxsplit=1)[0].split())
    for end in re.finditer(r"[.!?](?=\s+[^a-z\s]|$)", paragraph):
        sentence = paragraph[: end.end()]
        if not sentence.lower().endswith(ABBREVIATIONS):
            return sentence
    return ""


def parameters_of(signature: str) -> tuple[tuple[str, str | None], ...] | None:
    """(name, default or None) of each parameter of `(self, a, *, b=1)`, without self or cls; None when unreadable."""
    try:
        arguments = ast.parse(f"def f{signature}: pass").body[0].args
    except (SyntaxError, ValueError):
        return None
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    found = list(zip(positional, defaults))
    found += [(arguments.vararg, None)] if arguments.vararg else []
    found += zip(arguments.kwonlyargs, arguments.kw_defaults)
    found += [(arguments.kwarg, None)] if arguments.kwarg else []
    if positional and positional[0].arg in ("self", "cls"):
        found = found[1:]
    return tuple((argument.arg, default and ast.unparse(default)) for argument, default in found)


def facts_of(entries: Iterable[Entry]) -> list[Facts]:
    """Read entries; those with very long names, and topics of the language reference (essays), are passed over."""
    entries = [e for e in entries if e.kind != "topic" and len(e.qualified_name) <= NAME_CHARACTERS]
    sentences = [first_sentence(entry.text) for entry in entries]
    counts = Counter(sentences)
    facts = []
    for entry, sentence in zip(entries, sentences):
        rest = " ".join(entry.text.split())[len(sentence) :].strip()
        usable = 15 <= len(sentence) <= SENTENCE_CHARACTERS and sentence.isascii() and len(sentence.split()) >= 3
        parameters = parameters_of(entry.signature) if entry.signature else None
        facts.append(Facts(entry, sentence if usable else "", rest, parameters, counts[sentence] == 1))
    return facts


def _cut(text: str, characters: int) -> str:
    """At most so many characters, ended at a word."""
    return text if len(text) <= characters else text[: characters + 1].rpartition(" ")[0]


# Tasks: from facts to a question, or None where the entry does not lend itself to it ---------------------------------


@dataclass(frozen=True)
class Question:
    """What a task asks about: a `passage` to read ("" for none), a `subject` named in the question, and the answer."""

    passage: str
    subject: str
    answer: str


def _header(facts: Facts, answer: str, subject: str = "", passage: str = "") -> Question | None:
    fits = len(facts.header) <= SIGNATURE_CHARACTERS
    return Question(passage or facts.header, subject, answer) if fits else None


def _first_sentence(facts: Facts) -> Question | None:
    if not facts.sentence or not facts.has_prose:
        return None
    return Question(_cut(f"{facts.sentence} {facts.rest}", PASSAGE_CHARACTERS), "", facts.sentence)


def _name(facts: Facts) -> Question | None:
    passage = f"{facts.entry.kind} {facts.header}\n{facts.sentence}"
    return _header(facts, facts.name, passage=passage) if facts.sentence else None


def _kind(facts: Facts) -> Question | None:
    passage = f"{facts.header}\n{facts.sentence}"
    return _header(facts, facts.entry.kind, passage=passage) if facts.sentence else None


def _parameters(facts: Facts) -> Question | None:
    if facts.parameters is None or len(facts.parameters) > MOST_PARAMETERS:
        return None
    return _header(facts, ", ".join(name for name, _ in facts.parameters) or "none")


def _count(facts: Facts) -> Question | None:
    question = _parameters(facts)
    return question and replace(question, answer=str(len(facts.parameters)))


def _default(facts: Facts) -> Question | None:
    given = [(name, default) for name, default in facts.parameters or () if default and len(default) <= 40]
    if not given:
        return None
    name, default = given[len(facts.entry.text) % len(given)]  # any of them, always the same one
    return _header(facts, default, subject=name)


def _module(facts: Facts) -> Question | None:
    return Question(f"{facts.entry.kind} {facts.name}", "", facts.entry.module) if facts.entry.name else None


def _last_part(facts: Facts) -> Question | None:
    return Question(facts.name, "", facts.name.rpartition(".")[2]) if facts.name.count(".") >= 2 else None


def _describe(facts: Facts) -> Question | None:
    return Question("", facts.name, facts.sentence) if facts.sentence and facts.public else None


def _find(facts: Facts) -> Question | None:
    return Question(facts.sentence, "", facts.name) if facts.sentence and facts.public and facts.unique else None


def _summarise(facts: Facts) -> Question | None:
    if not facts.sentence or not facts.has_prose:
        return None
    return Question(_cut(facts.rest, PASSAGE_CHARACTERS), "", facts.sentence)


@dataclass(frozen=True)
class Task:
    """A kind of question, and its phrasings, in which {} is the subject; the passage stands below or above them.

    share: what part of the items may have the same answer.
    knowledge: the answer is not in the prompt.
    sentence: the answer is a sentence, for which `token_f1` (or ROUGE-L) says more than the exact match alone.
    """

    ask: Callable[[Facts], Question | None]
    english: tuple[str, ...]
    chinese: tuple[str, ...]
    share: float = 0.05
    knowledge: bool = False
    sentence: bool = False


TASKS: dict[str, Task] = {
    "first_sentence": Task(
        _first_sentence,
        ("What is the first sentence of this text?", "Copy the first sentence.", "Extract the opening sentence."),
        ("这段文字的第一句是什么？", "写出第一句。", "请摘出开头的一句。"),
        sentence=True,
    ),
    "name": Task(
        _name,
        ("What is the full name of what is documented here?", "Extract the documented name.", "Give its dotted name."),
        ("这里说明的是哪个名称？", "提取完整的名称。", "它的全名是什么？"),
    ),
    "kind": Task(
        _kind,
        ("Is this a module, a class, a function or a method?", "Classify: module, class, function or method."),
        ("它是 module、class、function 还是 method？", "请分类：module、class、function 或 method。"),
        share=0.25,
    ),
    "parameters": Task(
        _parameters,
        ("List the parameters without self, or say none.", "Which parameters does this take, apart from self?"),
        ("列出参数名，不含 self。", "除 self 外有哪些参数？"),
    ),
    "count_parameters": Task(
        _count,
        ("How many parameters does this take, not counting self?", "Count the parameters without self."),
        ("除 self 外有几个参数？", "数一数参数，不含 self。"),
        share=0.2,
    ),
    "default": Task(
        _default,
        ("What is the default of {}?", "Give the default value of {}.", "What is {} when it is left out?"),
        ("{} 的默认值是什么？", "省略 {} 时它取何值？", "写出参数 {} 的默认值。"),
        share=0.1,
    ),
    "module": Task(
        _module,
        ("In which module is this defined?", "Name the module of this.", "Which module does it belong to?"),
        ("它定义在哪个模块？", "写出所属的模块。", "它属于哪个模块？"),
    ),
    "last_part": Task(
        _last_part,
        ("What is the last part of this dotted name?", "Give the part after the last dot."),
        ("最后一个点之后是什么？", "写出名称的最后一段。"),
    ),
    "describe": Task(
        _describe,
        ("What does {} do?", "What is {}?", "Describe {} in one sentence.", "Tell me what {} is for."),
        ("{} 有什么用？", "{} 是做什么的？", "用一句话说明 {}。", "请介绍 {}。"),
        knowledge=True,
        sentence=True,
    ),
    "find": Task(
        _find,
        ("Which name has this documentation?", "What in the library does this?", "Find the name that fits."),
        ("哪个名称的文档是这句？", "库里的什么符合这句话？", "找出符合的名称。"),
        knowledge=True,
    ),
    "summarise": Task(
        _summarise,
        ("Summarise this documentation in one sentence.", "Write the sentence that introduces this text."),
        ("用一句话概括这段文档。", "给这段文字写一句开头。"),
        knowledge=True,
        sentence=True,
    ),
}
