"""Filters: cheap judgements on instructions, each behind one interface, each measurable against the truth.

What it is. A filter looks at a list of records and says of each whether it stays: `filter(records) -> [Verdict]`. It
changes nothing, and a verdict carries a code of `instruct.records.REASONS`, a score where there is one, and a detail.

    filters = [Length(), Keywords(), Duplicate(), NearDuplicate(0.7)]
    kept, fates = apply(filters, records)          # every record has a fate: nothing vanishes
    python -m instruct.filters FILE... [--rouge 0.7] [--out JUDGED.jsonl] [--json]

`apply` hands each filter only what the ones before it let pass, and filters that compare records keep the first of what
is alike: exactly one of two duplicates stays, and what was dropped shadows nothing. (A port of DEITA asks for the
nearest neighbour in the whole set, so that both copies go; BELLE never compares new items with each other.)

The rules are those of Self-Instruct, Alpaca and BELLE, with their bounds as defaults, so that their worth can be
measured (`instruct.confusion`): none of those projects reports how many good items its filters drop. Filters that need
a model (embeddings, agreement of samples, round trip, IFD, DEITA's scores) are in `instruct.selection`. Records are
anything with `instruction` and `instances` (each with `input` and `output`), such as `instruct.records.Record`.

What it leaves out. Nothing here knows whether an answer is right: that is `instruct.verify`.
"""

from __future__ import annotations

import argparse
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from configs import UserError, run_main
from instruct.funnel import show_funnel
from instruct.records import REASONS, Decision, Record, from_seeds, write_records
from instruct.rouge import CJK, Pool


class Verdict(NamedTuple):
    """What a filter says of a record. code: None where it passes, else a reason; score: None where none was found."""

    code: str | None
    score: float | None = None
    detail: str = ""


PASSED = Verdict(None)


class Filter(Protocol):
    """name: what its score is called in a record. higher_is_better: which end of the score is dropped; None when the
    score has no order or there is none."""

    name: ClassVar[str]
    higher_is_better: ClassVar[bool | None]

    def __call__(self, records: Sequence[Any]) -> list[Verdict]:
        """One verdict for each record, in their order."""
        ...


# One record at a time ------------------------------------------------------------------------------------------------


def normalised(text: str) -> str:
    """The text without what seldom matters: width and case of letters, white space, marks at the end."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.rstrip(" .,;:!?。、") or folded


@dataclass(frozen=True)
class Length:
    """Bounds on an instruction: in words, or in characters where at least half of it is Chinese, Japanese or Korean.
    Self-Instruct wants 4 to 150 words, BELLE 4 to 99 characters (149 with an example). Score: the length."""

    words: tuple[int, int] = (4, 150)
    characters: tuple[int, int] = (4, 149)
    name: ClassVar[str] = "length"
    higher_is_better: ClassVar[bool | None] = None

    def __call__(self, records: Sequence[Any]) -> list[Verdict]:
        return [self._judge(record.instruction) for record in records]

    def _judge(self, text: str) -> Verdict:
        characters, words = len(re.findall(f"[{CJK}]", text)), len(text.split())
        others = len(re.sub(f"[{CJK}]", " ", text).split())
        is_cjk = characters > 0 and characters >= others
        size, (least, most) = (characters + others, self.characters) if is_cjk else (words, self.words)
        unit = "characters" if is_cjk else "words"
        return Verdict(None if least <= size <= most else "length", size, f"{size} {unit}")


ENGLISH_KEYWORDS = (
    *("image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot"),
    *("go to", "video", "audio", "music", "flowchart", "diagram"),
)
CHINESE_KEYWORDS = (
    *(
        "图像",
        "图片",
        "照片",
        "文件",
        "图表",
        "图层",
        "曲线图",
        "折线图",
        "直线图",
        "柱形图",
        "饼状图",
        "链接",
        "视频",
        "音频",
    ),
    *("http", "openai", "gpt"),
)


@dataclass(frozen=True)
class Keywords:
    """Words that ask for what text cannot give or that name a model, "Write a program" at the beginning, punctuation
    as the first character. `words` count as whole words, `parts` anywhere, neither minds the case."""

    words: tuple[str, ...] = ENGLISH_KEYWORDS
    parts: tuple[str, ...] = CHINESE_KEYWORDS
    beginnings: tuple[str, ...] = ("write a program",)
    name: ClassVar[str] = "keyword"
    higher_is_better: ClassVar[bool | None] = None

    def __call__(self, records: Sequence[Any]) -> list[Verdict]:
        options = [rf"(?<!\w){re.escape(word)}(?!\w)" for word in self.words]
        options += map(re.escape, self.parts)
        options += [rf"\A\s*{re.escape(beginning)}" for beginning in self.beginnings]
        # ASCII: beside a Chinese character an English word is still whole.
        pattern = re.compile("|".join([*options, r"\A\s*[!-/:-@\[-`{-~]"]), re.IGNORECASE | re.ASCII)
        found = [pattern.search(record.instruction) for record in records]
        return [Verdict("keyword", None, repr(match[0].strip())) if match else PASSED for match in found]


@dataclass(frozen=True)
class Repetition:
    """Loops: up to `widest` tokens repeated at least `repeats` times in a row. Score: share of an instruction's tokens
    (of an answer's too, with `answers`) that lie in loops; dropped above `most`."""

    most: float = 0.3
    repeats: int = 4
    widest: int = 8
    answers: bool = False
    name: ClassVar[str] = "repetition"
    higher_is_better: ClassVar[bool | None] = False

    def __call__(self, records: Sequence[Any]) -> list[Verdict]:
        return [self._judge(record) for record in records]

    def _judge(self, record: Any) -> Verdict:
        texts = [record.instruction, *(instance.output for instance in record.instances if self.answers)]
        share = max(map(self.share, texts))
        return Verdict("repetition" if share > self.most else None, share, f"{share:.0%} of it is in loops")

    def share(self, text: str) -> float:
        """Share of the tokens in loops; words, single CJK characters and single other marks are tokens."""
        parts = re.findall(rf"[{CJK}]|[^\W{CJK}]+|[^\w\s]", text)
        looped = np.zeros(len(parts), dtype=bool)
        for width in range(1, min(self.widest, len(parts) // max(self.repeats, 1)) + 1):
            run = 0
            for i in range(width, len(parts)):
                run = run + 1 if parts[i] == parts[i - width] else 0
                if run >= width * (self.repeats - 1):
                    looped[i - run - width + 1 : i + 1] = True
        return float(looped.mean()) if len(parts) else 0.0


@dataclass(frozen=True)
class Unfinished:
    """An instruction or an answer that is empty, or that ends with a colon: its rest was cut off or never came."""

    name: ClassVar[str] = "unfinished"
    higher_is_better: ClassVar[bool | None] = None

    def __call__(self, records: Sequence[Any]) -> list[Verdict]:
        return [self._judge(record) for record in records]

    def _judge(self, record: Any) -> Verdict:
        outputs = [instance.output.strip() for instance in record.instances]
        if not record.instruction.strip():
            return Verdict("format", None, "the instruction is empty")
        if not all(outputs):
            return Verdict("format", None, "an answer is empty")
        if any(output.endswith((":", "：")) for output in outputs):
            return Verdict("format", None, "an answer ends with a colon")
        return PASSED


@dataclass(frozen=True)
class Echo:
    """An answer that is its input, or the instruction, letter by letter (but for white space around it)."""

    name: ClassVar[str] = "echo"
    higher_is_better: ClassVar[bool | None] = None

    def __call__(self, records: Sequence[Any]) -> list[Verdict]:
        return [self._judge(record) for record in records]

    def _judge(self, record: Any) -> Verdict:
        for instance in record.instances:
            output = instance.output.strip()
            if output and output in (instance.input.strip(), record.instruction.strip()):
                return Verdict("echo", None, repr(output[:60]))
        return PASSED


# Records beside each other -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contradiction:
    """The same instruction and the same input, which is not empty, with different answers, in one record or in two: all
    records that hold it are dropped whole, since nobody knows which answer is right."""

    name: ClassVar[str] = "contradiction"
    higher_is_better: ClassVar[bool | None] = None

    def __call__(self, records: Sequence[Any]) -> list[Verdict]:
        answers: dict[tuple[str, str], set[str]] = defaultdict(set)
        for record in records:
            for instance in record.instances:
                answers[self._question(record, instance)].add(instance.output.strip())
        return [self._judge(record, answers) for record in records]

    def _judge(self, record: Any, answers: dict[tuple[str, str], set[str]]) -> Verdict:
        for instance in record.instances:
            found = answers[self._question(record, instance)]
            if instance.input.strip() and len(found) > 1:
                return Verdict("contradiction", None, " or ".join(repr(answer[:40]) for answer in sorted(found)[:2]))
        return PASSED

    @staticmethod
    def _question(record: Any, instance: Any) -> tuple[str, str]:
        return normalised(record.instruction), instance.input.strip()


@dataclass(frozen=True)
class Duplicate:
    """The same instruction (normalised) with the same inputs and answers as an earlier record."""

    name: ClassVar[str] = "duplicate"
    higher_is_better: ClassVar[bool | None] = None

    def __call__(self, records: Sequence[Any]) -> list[Verdict]:
        first: dict[Any, str] = {}
        verdicts = []
        for record in records:
            pairs = sorted((instance.input.strip(), instance.output.strip()) for instance in record.instances)
            key = (normalised(record.instruction), tuple(pairs))
            verdicts.append(Verdict("duplicate", None, f"as {first[key]!r}") if key in first else PASSED)
            first.setdefault(key, record.instruction[:60])
        return verdicts


@dataclass(frozen=True)
class NearDuplicate:
    """ROUGE-L of at least `threshold` with `known` or with an instruction kept earlier in the list. Self-Instruct: 0.7.

    Score: the highest ROUGE-L with those. Where a record passes it is stated only with `graded`, which costs a pass
    over the pool for each. `known` is not changed: whoever owns it adds what was kept in the end.
    """

    threshold: float = 0.7
    known: Pool = field(default_factory=Pool)
    graded: bool = False
    name: ClassVar[str] = "rouge"
    higher_is_better: ClassVar[bool | None] = False

    def __call__(self, records: Sequence[Any]) -> list[Verdict]:
        texts = [record.instruction for record in records]
        pool, graded = self.known.copy(), self.known.copy()
        verdicts = []
        for text, match in zip(texts, pool.admit(texts, self.threshold)):
            if match is not None:
                verdicts.append(Verdict("rouge", match.score, f"near {pool.texts[match.index][:60]!r}"))
            elif self.graded:
                verdicts.append(Verdict(None, graded.max_similarity(text)))
                graded.add(text)
            else:
                verdicts.append(PASSED)
        return verdicts


# Applying ------------------------------------------------------------------------------------------------------------


class Fate(NamedTuple):
    """What became of a record. code and detail: None and "" where it was kept; scores: by the names of filters."""

    code: str | None
    detail: str
    scores: dict[str, float]


def apply(filters: Iterable[Filter], records: Sequence[Any]) -> tuple[list[Any], list[Fate]]:
    """Filters one after the other, each on what is left: the records kept, in order, and the fate of every record."""
    fates = [Fate(None, "", {}) for _ in records]
    left = list(range(len(records)))
    for judge in filters:
        verdicts = judge([records[i] for i in left])
        for i, verdict in zip(left, verdicts, strict=True):
            if verdict.score is not None:
                fates[i].scores[judge.name] = verdict.score
            if verdict.code is not None:
                fates[i] = Fate(verdict.code, verdict.detail, fates[i].scores)
        left = [i for i in left if fates[i].code is None]
    return [records[i] for i in left], fates


def decide(filters: Iterable[Filter], records: Sequence[Record], kept: str | None = None) -> list[Record]:
    """The same records with decision and scores written in. `kept` is the reason of those that pass; None leaves them
    undecided, for `instruct.verify`."""
    _, fates = apply(filters, records)
    passed = None if kept is None else Decision(kept)
    return [
        replace(
            record,
            scores={**record.scores, **fate.scores},
            decision=passed if fate.code is None else Decision(fate.code, fate.detail),
        )
        for record, fate in zip(records, fates)
    ]


# Command -------------------------------------------------------------------------------------------------------------


def usual(threshold: float = 0.7, known: Iterable[str] = ()) -> list[Filter]:
    """The filters of Self-Instruct in the order of their cost; `known` are instructions that count as kept before."""
    near = NearDuplicate(threshold, Pool(known))
    return [Unfinished(), Length(), Keywords(), Repetition(), Echo(), Contradiction(), Duplicate(), near]


def main(argv: list[str]) -> None:
    """`python -m instruct.filters FILE...`: what the usual filters leave of instruction data, and why."""
    parser = argparse.ArgumentParser(prog="python -m instruct.filters", description="Filter instruction data.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="instructions in any format of data.formats")
    parser.add_argument("--rouge", type=float, default=0.7, metavar="F", help="drop from this ROUGE-L on (default 0.7)")
    parser.add_argument("--known", nargs="*", default=[], metavar="FILE", help="instructions that were kept before")
    parser.add_argument("--without", nargs="*", default=[], metavar="NAME", help="filters to leave out, by name")
    parser.add_argument("--out", metavar="FILE", help="write all records with their decisions (.jsonl, .jsonl.gz)")
    parser.add_argument("--json", action="store_true", help="print the counts as one JSON object")
    arguments = parser.parse_args(argv)
    known = [record.instruction for path in arguments.known for record in from_seeds(path)]
    filters = usual(arguments.rouge, known)
    names = [judge.name for judge in filters]
    for name in arguments.without:
        if name not in names:
            raise UserError(f"there is no filter {name!r}: --without takes {', '.join(names)}")
    records = list(chain.from_iterable(map(from_seeds, arguments.files)))
    judged = decide([judge for judge in filters if judge.name not in arguments.without], records, kept="unverified")
    if arguments.out:
        write_records(arguments.out, judged)
    codes = Counter(record.decision.code for record in judged)
    dropped = {code: codes[code] for code in REASONS if codes[code] and not REASONS[code].kept}
    kept = {"unverified": codes["unverified"]}
    counts = {"asked": None, "raw": len(judged), "dropped": dropped, "undecided": 0, "kept": kept, "seeds": 0}
    print(json.dumps(counts) if arguments.json else "\n".join(show_funnel(counts)))
    if arguments.out and not arguments.json:
        print(f"wrote {len(judged)} records with their decisions to {arguments.out}")


if __name__ == "__main__":
    run_main(main)
