"""Claims: the sums that a text states, and which of them are wrong.

What it is. `claims("So 48/2 = 24 clips, and 24 + 48 = 71.")` gives two `Claim`s, the second one wrong, with what is
right and where the wrong number stands. A chain (a = b = c) is as many claims as it has signs of equality.

Why so. Sums in public instruction data are wrong more often than one would think, and a wrong sum is trained on like a
right one. But an auditor that cries wolf is switched off: **a false alarm is worse than a miss**. So a claim is judged
only when all of its expression was understood: an unknown next to it (2x + 4 = 10), units that may be converted
(1 hour + 30 minutes), words that change the meaning (half of 3 + 4), a magnitude (6 million) or a question mark, and it
is left alone. A result that is right to the digits it states, rounded or cut off, is right.

What it leaves out. Equations, comparisons, sums told in words, chains that run over several lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from instruct.arithmetic import (
    CHANGING,
    CHANGING_CHARACTERS,
    SENTENCE,
    Parser,
    Token,
    Unreadable,
    Value,
    is_unit,
    plain,
    tokens_of,
    written,
)

_IS = re.compile(r"(?<=[\d)%])\s*(?:is\s+equal\s+to|equals?|等于|is|是|为)\s*(?=[-$¥€£]?\s*\d)")
_MARKER = re.compile(r"(?m)^[ \t]*(?:\(?(?:\d{1,3}|[A-Za-z])[).、:](?=\s)|[-*+•>#]+(?=\s))")
#: Signs of more than plain arithmetic; a line with one of them is not read.
_FOREIGN = re.compile(r"[=!<>+*/-]=|=>|\\[a-zA-Z]+|[≤≥≠√∑∫∞→⇒]|\bmod\b|\bbase\b|余|remainder", re.IGNORECASE)
_OTHER_BASES = re.compile(r"\bbinary\b|\bhexadecimal\b|\boctal\b|\bmodulo\b|进制", re.IGNORECASE)
_DENIED = re.compile(
    r"\b(?:not|isn't|wrong|incorrect|false|instead of|mistake|error|untrue)\b|错|不等|不是|不正确|不对", re.IGNORECASE
)

#: What carries a number: "Weeks 1-2 = 96".
_NUMBERED = frozenset(
    name + plural
    for name in re.findall(
        r"\w+",
        """step day case part problem example question week month figure equation option row column number page chapter
        year hour room grade level round""",
    )
    for plural in ("", "s")
)
#: Units (without a plural s) that others may be converted into.
_MEASURES = frozenset(
    re.findall(
        r"\w+|[$¥€£]",
        """$ ¥ € £ cent dollar dime hour minute second day week month year km cm mm kg mg ml inch inche foot feet yard
        mile meter metre gram pound ounce liter litre gallon quart cup pint tablespoon teaspoon dozen degree""",
    )
)
_MEASURES_ZH = (
    "小时",
    "分",
    "秒",
    "天",
    "周",
    "月",
    "年",
    "元",
    "角",
    "米",
    "厘米",
    "千米",
    "公里",
    "克",
    "千克",
    "公斤",
    "斤",
    "升",
    "毫升",
    "度",
)
#: Factors between units; a result that is off by one of them may be a conversion.
_CONVERSIONS = {Fraction(n) for n in (7, 12, 24, 30, 36, 52, 60, 365, 3600, 16, 3, 4, 2, 14, 20)}
_CONVERSIONS |= {Fraction(10) ** n for n in range(1, 10)}


@dataclass(frozen=True)
class Claim:
    """`text` is what is stated; `right` is what its left side gives, written like the stated number, and `span` is the
    place of that number in the text; both None where the claim holds."""

    text: str
    right: str | None = None
    span: tuple[int, int] | None = None

    @property
    def holds(self) -> bool:
        return self.right is None


# Claims --------------------------------------------------------------------------------------------------------------


def claims(text: str) -> Iterator[Claim]:
    """Every equation of numbers that `text` states and that could be read with certainty, in its order."""
    if _OTHER_BASES.search(text):
        return
    start = 0
    for line in plain(text).splitlines(keepends=True):
        if not _FOREIGN.search(line):
            for claim in _claims_of_line(line):
                span = claim.span and (claim.span[0] + start, claim.span[1] + start)
                yield Claim(claim.text, claim.right, span)
        start += len(line)


def _claims_of_line(line: str) -> Iterator[Claim]:
    marker = _MARKER.match(line)
    begin = marker.end() if marker else 0
    bullet = marker is not None and "-" in marker[0]
    spoken = {found.end() for found in _IS.finditer(line)}
    equated = _IS.sub(lambda found: " " * (len(found[0]) - 1) + "=", line)
    tokens = tokens_of(" " * begin + equated[begin:])
    left: Value | None = None
    left_start, ended = 0, -1
    for i, token in enumerate(tokens):
        if token.kind != "equal":
            continue
        if ended != i:  # the chain is broken: a new one begins
            left, left_start = _left_of(tokens, i)
        right, ended = _right_of(tokens, i + 1, token.end in spoken)
        is_fraction = token.end in spoken and i - left_start == 3 and _is_glued_fraction(tokens, i - 2)  # "2/3 is 24"
        if left is not None and right is not None and not is_fraction:
            if not _is_denied(line, tokens, left_start, ended):
                yield from _judged(line, tokens, left, right, (left_start, i, ended), bullet)
        elif right is not None and right.decimals is not None:
            right = None  # "10 = 2 = 12": a name, not a value
        left, left_start = right, i + 1
        if right is None:
            ended = -1


def _is_glued_fraction(tokens: list[Token], middle: int) -> bool:
    return tokens[middle].text == "/" and not tokens[middle].gap and not tokens[middle + 1].gap


def _left_of(tokens: list[Token], equal: int) -> tuple[Value | None, int]:
    """The expression that ends at the sign of equality, if it can be told where it begins and it calculates."""
    start = equal
    while start and _belongs(tokens, start - 1, equal):
        start -= 1
    while start < equal:
        parser = Parser(tokens, start, equal)
        try:
            value = parser.value()
        except Unreadable:
            value = None
        if value is not None and parser.at == equal:
            return (value, start) if value.decimals is None and _may_begin(tokens, start) else (None, start)
        if tokens[start].kind != "open":
            break
        start += 1  # the bracket belongs to the sentence
    return None, start


def _belongs(tokens: list[Token], i: int, equal: int) -> bool:
    """Whether token i can be inside an expression that goes on behind it."""
    token, following = tokens[i], tokens[i + 1]
    if token.kind == "word":
        continues = i + 1 == equal or following.kind in ("operator", "close")
        return continues and i > 0 and tokens[i - 1].kind in ("number", "close", "percent") and is_unit(token)
    return token.kind in ("number", "operator", "power", "open", "close", "percent", "currency")


def _may_begin(tokens: list[Token], start: int) -> bool:
    """Whether the expression that begins here is not the end of a longer one."""
    if start == 0:
        return True
    before, first = tokens[start - 1], tokens[start]
    if before.kind == "word":
        if before.text[0] >= "\u4e00":
            return before.text[-1] not in CHANGING_CHARACTERS
        if first.kind == "operator":  # "the price -3 + 5 = 2"
            return False
        word = before.text.lower()
        return first.gap and len(word) > 1 and word not in CHANGING and word not in _NUMBERED
    if before.kind == "other":
        glued = before.text in ".,:" and (before.gap or (start > 1 and tokens[start - 2].kind == "number"))
        return (before.text in ".,;:?\"'，。；：？、“”‘’!！—" and not glued) or (before.text == "|" and first.gap)
    return before.kind == "open"


def _right_of(tokens: list[Token], start: int, spoken: bool) -> tuple[Value | None, int]:
    """The expression behind the sign of equality, and the token where it ends, if it is known to end there."""
    parser = Parser(tokens, start, len(tokens))
    try:
        value = parser.value()
    except Unreadable:
        return None, -1
    ended = parser.at
    following = tokens[ended] if ended < len(tokens) else None
    if spoken and (value.decimals is None or (following and following.kind not in ("other", "line", "close"))):
        return None, -1  # "3 + 4 is 7 more than"
    return (value, ended) if following is None or _may_end(tokens, ended) else (None, -1)


def _may_end(tokens: list[Token], end: int) -> bool:
    """Whether what stands behind an expression cannot change its value."""
    token = tokens[end]
    following = tokens[end + 1] if end + 1 < len(tokens) else None
    if token.kind == "word":
        word = token.text.lower()
        return word not in CHANGING if tokens[end - 1].kind == "word" else is_unit(token) or word in SENTENCE
    if token.kind == "operator":  # a dash, or the unit of a rate
        named = following is not None and following.kind == "word" and len(following.text) > 1
        return named and (token.text == "-" or not token.gap)
    if token.kind == "other":
        glued = not token.gap and following is not None and not following.gap
        glued = glued and (following.kind == "number" or following.text == ".")
        return token.text not in "?!？！…:_<>[]{}~\\" and not glued and (token.text != "|" or token.gap)
    unit_squared = token.kind == "power" and tokens[end - 1].kind == "word"
    return token.kind in ("line", "close", "equal") or unit_squared


def _is_denied(line: str, tokens: list[Token], start: int, ended: int) -> bool:
    begin, end = tokens[start].start, tokens[ended - 1].end
    return _DENIED.search(line[max(begin - 30, 0) : begin] + "|" + line[end : end + 40]) is not None


def _judged(
    line: str, tokens: list[Token], left: Value, right: Value, places: tuple[int, int, int], bullet: bool
) -> Iterator[Claim]:
    """The claim left = right, or nothing where it might mean something else."""
    start, equal, ended = places
    text = " ".join(line[tokens[start].start : tokens[ended - 1].end].split())
    if left.percent and left.additive and not (right.percent and right.decimals is not None):
        return  # "20 + 10 %": of what?
    doubtful = left.doubtful or right.doubtful or (right.percent and right.decimals is None)
    if len(left.units) > 1 or (left.additive and left.units and right.units and left.units.isdisjoint(right.units)):
        return
    if _agree(left, right, tokens[equal].text == "≈"):
        yield Claim(text)
    elif not doubtful and not _explained(tokens, left, right, places, bullet):
        first, last = tokens[equal + 1], tokens[ended - 1]
        span = (first.start, last.end)
        if right.decimals is not None:  # one number: without its currency and unit
            [number] = [token for token in tokens[equal + 1 : ended] if token.kind == "number"]
            span = (first.start if first.text == "-" else number.start, number.end)
        yield Claim(text, written(left.value * (100 if right.percent else 1), right.decimals), span)


def _agree(left: Value, right: Value, about: bool) -> bool:
    """Equal, or right to the last digit that is stated; per cent may count as numbers and numbers as per cent."""
    for scale in [Fraction(1)] + [Fraction(100)] * right.percent + [Fraction(1, 100)] * left.percent:
        stated = right.value * scale
        difference = abs(left.value - stated)
        unit = Fraction(1, 10 ** (right.decimals or 0)) * scale / (100 if right.percent else 1)
        if not (right.decimals or left.divided):
            unit /= 2  # a whole number that no division led to is at most rounded, not cut off
        if difference == 0 or (right.decimals is not None and difference < unit):
            return True
        loose = about or left.approximate or right.approximate
        if loose and difference <= abs(left.value) / 20:
            return True
    return False


def _explained(tokens: list[Token], left: Value, right: Value, places: tuple[int, int, int], bullet: bool) -> bool:
    """Whether an unequal claim may be meant otherwise: units converted, a dash that is no minus, or a calculation that
    runs on ("8 * 45 = 360 / 5 = 72")."""
    start, equal, ended = places
    units = left.units ^ right.units
    if left.value and right.value and any(unit in _MEASURES or unit.startswith(_MEASURES_ZH) for unit in units):
        ratio = abs(left.value / right.value)
        if ratio in _CONVERSIONS or 1 / ratio in _CONVERSIONS:
            return True
    if bullet and _agree(Value(-left.value, None), right, False):
        return True
    try:
        if right.decimals is None and Parser(tokens, equal + 1, ended).atom(0) == left.value:
            return True
    except Unreadable:
        pass
    for i in range(start + 1, equal - 1):  # "Room 2 - 3 * 4 = 12"
        if tokens[i].text == "-" and tokens[i].gap:
            parser = Parser(tokens, i + 1, equal)
            try:
                rest = parser.value()
            except Unreadable:
                continue
            if parser.at == equal and rest.decimals is None and _agree(rest, right, False):
                return True
    return False
