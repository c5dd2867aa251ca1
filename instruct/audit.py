"""The audit: what a program can find wrong in instruction data that people or other models wrote.

What it is. `audit(instruction, answer)` looks for three things in any pair of an instruction and its answer:

    sum         arithmetic that the answer states ("3 + 4 = 8"; `instruct.claims`)
    annotation  GSM8K's calculations <<a=b>>: that a is b, and that b is the number that follows
    final       GSM8K's last line "#### n": that it is the last result, where nothing follows that result
    count       "List five ...", "列出三种…": that the list has so many items

and gives the `Fault`s with what is claimed, what is right, and the place in the answer. `repaired` puts the right
number there. The command over files is `python -m instruct.verify`.

Why so. In a copy of a well-known set of 52,002 items 14 of 75 answers that are sums are wrong, and 3 % of its lists
have the wrong length, so this is worth doing. A false alarm is worse than a miss: what is not understood for certain is
not judged, and `Audit.checked` says how much was. A repair is offered only where the wrong number stands nowhere else
in the answer: otherwise it was used again, and to change it in one place would make a new contradiction.

What it leaves out. Whether the right calculation was chosen: that takes the question.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from instruct.arithmetic import Unreadable, evaluate, written
from instruct.claims import claims

_ANNOTATION = re.compile(r"<<([^<>\n]*)>>([ \t]*-?[$¥€£]?[ \t]*-?(?:\d[\d,]*)?(?:\.\d+)?%?)")
_FINAL = re.compile(r"\n#### *(-?[$¥€£]?[ ]*-?[\d,]*\.?\d+)[ \t]*\Z")


@dataclass(frozen=True)
class Fault:
    """`span` is the place in the answer of what `right` would replace; None where no single place is wrong."""

    kind: str
    claim: str
    right: str
    span: tuple[int, int] | None = None


@dataclass(frozen=True)
class Audit:
    """How many claims of each kind were judged, and those that are wrong."""

    checked: Counter[str]
    faults: tuple[Fault, ...]


def audit(instruction: str, answer: str) -> Audit:
    """Judge all that can be judged in one answer. Any text will do; nothing in it is executed."""
    checked: Counter[str] = Counter()
    faults = []
    for kind, found in (
        ("sum", _sums(answer)),
        ("annotation", _annotations(answer)),
        ("final", _final(answer)),
        ("count", _counts(instruction, answer)),
    ):
        for fault in found:
            checked[kind] += 1
            if fault is not None:
                faults.append(fault)
    return Audit(checked, tuple(faults))


def repaired(answer: str, faults: Iterable[Fault]) -> str | None:
    """The answer with every wrong number replaced; None where that cannot be done without a new contradiction."""
    for fault in sorted(faults, key=lambda fault: fault.span or (0, 0), reverse=True):
        if fault.span is None:
            return None
        start, end = fault.span
        wrong = re.escape(answer[start:end].strip())
        if len(re.findall(rf"(?<![\d.,]){wrong}(?![\d]|[.,]\d)", answer)) != 1:
            return None
        answer = answer[:start] + fault.right + answer[end:]
    return answer


# Sums: each check yields None for a claim that holds, and a Fault for one that does not ------------------------------


def _sums(answer: str) -> Iterator[Fault | None]:
    """The sums of the text itself, without GSM8K's annotations."""
    for claim in claims(_ANNOTATION.sub(_blanked, answer)):
        yield None if claim.holds else Fault("sum", claim.text, claim.right, claim.span)


def _blanked(found: re.Match) -> str:
    return " " * (found.end(1) + 2 - found.start()) + found[2]


def _annotations(answer: str) -> Iterator[Fault | None]:
    for found in _ANNOTATION.finditer(answer):
        left, _, stated = found[1].rpartition("=")
        try:
            value, result = evaluate(left.removeprefix("+")), evaluate(stated)
        except Unreadable:
            continue
        if not _right_to_the_digit(value, result, stated):
            right = written(value, _decimals(stated))
            yield Fault("annotation", f"<<{found[1]}>>", right, (found.start(1) + len(left) + 1, found.end(1)))
            continue
        yield _shown(found, result)


def _shown(found: re.Match, result: Fraction) -> Fault | None:
    """Whether the number behind an annotation is its result (per cent may be shown as such)."""
    shown = found[2].strip().strip("$¥€£ ").rstrip("%,.")
    try:
        value = evaluate(shown.replace(",", ""))
    except Unreadable:
        return None  # no number follows, which says nothing
    scales = (1, 100, Fraction(1, 100))  # also dollars shown as cents
    if any(_right_to_the_digit(result * scale, value, shown) for scale in scales):
        return None
    start = found.start(2) + found[2].index(shown)
    span = (start, start + len(shown))
    return Fault("annotation", f"<<{found[1]}>>{found[2]}", written(result, _decimals(shown)), span)


def _right_to_the_digit(value: Fraction, stated: Fraction, text: str) -> bool:
    """Equal, or rounded or cut off at the last digit that `text` shows."""
    return abs(value - stated) < Fraction(1, 10 ** _decimals(text)) or value == stated


def _decimals(text: str) -> int:
    return len(text.strip().partition(".")[2])


def _final(answer: str) -> Iterator[Fault | None]:
    """The final answer against the last annotation, where no other number stands between them."""
    final, last = _FINAL.search(answer), None
    for last in _ANNOTATION.finditer(answer):  # noqa: B007
        pass
    if final is None or last is None or re.search(r"[\d=]", answer[last.end() : final.start()]):
        return
    stated = final[1].replace("$", "").replace(",", "").strip()
    left, _, result_text = last[1].rpartition("=")
    try:
        result, value = evaluate(result_text), evaluate(stated)
        if evaluate(left) == value:
            yield None  # right, whatever the annotation says
            return
    except Unreadable:
        return
    scales = (1, 100, Fraction(1, 100))
    if any(abs(result * scale - value) < 1 for scale in scales):
        yield None
    else:
        yield Fault("final", f"<<{last[1]}>> … #### {final[1]}", written(result, _decimals(stated)), final.span(1))


# Counts --------------------------------------------------------------------------------------------------------------

_NUMBERS = {
    name: number
    for names, first in (
        ("two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen", 2),
        ("二 三 四 五 六 七 八 九 十 十一 十二 十三 十四 十五 十六", 2),
        ("两", 2),
        ("twenty", 20),
        ("二十", 20),
    )
    for number, name in enumerate(names.split(), first)
}
_NAMES = "|".join(sorted(_NUMBERS, key=len, reverse=True))
_ASKED = re.compile(
    r"\W*(?:please\s+|can\s+you\s+|could\s+you\s+)?(?:list|name|give|provide|suggest|identify|brainstorm|propose|recommend"
    r"|mention|enumerate|come\s+up\s+with|think\s+of|generate|create|make|write|compile|state|describe|find|tell)\s+"
    r"(?:down\s+)?(?:me\s+)?(?:with\s+)?(?:an?\s+(?:\w+\s+)?list\s+(?:of|with|containing)\s+)?(?:of\s+)?(?:the\s+)?"
    rf"(?P<least>at\s+least\s+)?(?:top\s+|first\s+)?(?P<number>\d{{1,2}}|{_NAMES})\s+(?P<what>\w[^\n]*)",
    re.IGNORECASE,
)
_ASKED_ZH = re.compile(
    r"\W*(?:请|你|给我|为我|帮我|能否|能)*(?:列出|列举|举出|给出|提供|说出|写出|写下|建议|推荐|生成|创建|想出|提出|找出|指出|描述|举)"
    r"(?:[^。？！，,\n\d一二两三四五六七八九十]{0,16}?的)?(?P<least>至少)?"
    rf"(?P<number>\d{{1,2}}|{_NAMES})\s*(?:个|种|条|项|点|类|款|部|本|位|名|件|样)(?P<what>[^\n]*)"
)
#: What is counted inside a text and is not an item of a list, and what makes the number of items unclear.
_NO_ITEMS = re.compile(
    r"\b(?:words?|sentences?|paragraphs?|lines?|stanzas?|verses?|characters?|letters?|digits?|syllables?|minutes?|hours?"
    r"|days?|weeks?|months?|years?|pages?|percent|dollars?|degrees?|pairs?|sets?|groups?|series|columns?|rows?|times)\b"
    r"|^(?:字|词|句|段|行|月|小时|人|单词|字符|句子|段落|星期|对|组)",
    re.IGNORECASE,
)
_UNCLEAR = re.compile(
    r"\b(?:each|every|per|both|respectively|either|or|another|more)\b|[每各对]|分别|或|优缺点|利弊|再", re.IGNORECASE
)
_OTHER_NUMBER = re.compile(rf"\d|\b(?:{_NAMES})\b|[二两三四五六七八九十](?=[个种条项点类句字段])", re.IGNORECASE)
_NUMBERED = re.compile(r"(?m)^([ \t]*)\W{0,3}?(\d{1,3})[.)、:：．]\**[ \t]*\S")
#: The answer may say that there are not so many.
_OBJECTION = re.compile(
    r"\bonly\b|\b(?:no|not|none|sorry|cannot|unfortunately|however)\b|n't\b|只有|仅有|没有|不存在|抱歉|无法|不是",
    re.IGNORECASE,
)
_BULLET = re.compile(r"(?m)^[ \t]*[-*•·–][ \t]+\S")


def _counts(instruction: str, answer: str) -> Iterator[Fault | None]:
    asked = _asked(instruction)
    lengths = _lengths(answer) if asked and not _objects(answer) else None
    if not asked or not lengths:
        return
    number, at_least = asked
    holds = lengths[-1] >= number if at_least else lengths[0] <= number <= lengths[-1]
    found = str(lengths[0]) if len(set(lengths)) == 1 else f"{lengths[0]} to {lengths[-1]}"
    yield None if holds else Fault("count", f"a list of {found}", f"{'at least ' if at_least else ''}{number}")


def _objects(answer: str) -> bool:
    """Whether what stands before the list says that it cannot have so many items."""
    starts = [found.start() for pattern in (_NUMBERED, _BULLET) if (found := pattern.search(answer))]
    return _OBJECTION.search(answer[: min(starts, default=len(answer))]) is not None


def _asked(instruction: str) -> tuple[int, bool] | None:
    """How many items an instruction asks for, and whether that is the least; None where that is not certain."""
    found = _ASKED.match(instruction) or _ASKED_ZH.match(instruction)
    if found is None:
        return None
    what = found["what"]
    head = re.split(r"\b(?:of|for|that|which|to|in|about|from|with|on|by|who|when|you|i)\b|的", what, maxsplit=1)[0]
    if _NO_ITEMS.search(head) or re.search(r"\band\b|&|和|与|及", head):
        return None
    rest = instruction[: found.start("number")] + " " + what
    if _UNCLEAR.search(rest) or _OTHER_NUMBER.search(rest):
        return None
    number = int(found["number"]) if found["number"].isdecimal() else _NUMBERS[found["number"].lower()]
    return (number, bool(found["least"])) if number >= 2 else None


def _lengths(answer: str) -> tuple[int, int] | None:
    """The least and the greatest number of items that the list in an answer may have; None where there is no list, or
    more than one."""
    numbered = _NUMBERED.findall(answer)
    if numbered:
        top = [int(number) for indent, number in numbered if indent == numbered[0][0]]
        is_one_list = len(top) == len(numbered) >= 2 and top == list(range(1, len(top) + 1))
        return (len(top), len(top)) if is_one_list else None
    lines = [line for line in answer.splitlines() if line.strip()]
    bullets = [i for i, line in enumerate(lines) if _BULLET.match(line)]
    if bullets:
        indents = {len(lines[i]) - len(lines[i].lstrip()) for i in bullets}
        together = bullets[-1] - bullets[0] + 1 == len(bullets) >= 2
        return (len(bullets), len(bullets)) if together and len(indents) == 1 else None
    return _commas(lines[0]) if len(lines) == 1 else None


def _commas(line: str) -> tuple[int, int] | None:
    """A line that is nothing but short items between commas. A last "and" may join two items or be part of one."""
    line = line.strip().rstrip(".。")
    items = [item.strip() for item in re.split(r"[,，、]", line)]
    joined = [re.sub(r"^(?:and|以及|和)\s*", "", item) for item in items]
    if len(items) < 3 or re.search(r"[.。:：;；!?！？()（）\n]", line) or any(not item for item in joined):
        return None
    if any(len(item.split()) > 3 or len(re.findall(r"[\u4e00-\u9fff]", item)) > 8 for item in joined):
        return None
    if re.search(r"\b(?:is|are|be|can|include|includes|like|such)\b|[是有包为]", joined[0]):
        return None
    more = sum(len(re.findall(r"\band\b|和|与", item)) for item in joined)
    return (len(items), len(items) + more)
