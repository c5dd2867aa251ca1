"""Arithmetic as people write it, read and calculated exactly: the parser below `instruct.claims`.

What it is. `evaluate("(5 + 8) * 2.5")` is a fraction. Numbers may have thousands separators, decimals, a sign of
currency, a per cent sign, a word as their unit, full-width digits, or be mixed ("3 1/2"); between them stand + - * / ^
and brackets in all their spellings, also in words ("12 divided by 4", "5加3"). `Parser` reads an expression out of the
middle of a text and stops where it ends.

Why so. Text that others wrote is never executed: `eval` is no parser. Fractions have no rounding of their own, so
that a difference is a difference. What may mean two things is noted in the `Value` (`doubtful`, `approximate`) and
left to whoever judges.

What it leaves out. Roots, functions, remainders, other number bases, unknowns, numbers in words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

#: One character for one, so that places in the text stay what they were.
_SAME = str.maketrans(
    "０１２３４５６７８９＋－＊／＝％（）＄￥．×·⋅∙∗✕÷−–﹣˗\u00a0\u3000",
    "0123456789+-*/=%()$¥.******/----  ",
)
_TOKEN = re.compile(
    r"(?P<number>(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?|\.\d+)"
    r"|(?P<power>\*\*|\^|[²³])|(?P<operator>[-+*/])|(?P<open>\()|(?P<close>\))|(?P<percent>%)|(?P<currency>[$¥€£])"
    r"|(?P<equal>[=≈])|(?P<line>\n)|(?P<word>[A-Za-z\u00c0-\u024f]+|[\u4e00-\u9fff]+)|(?P<other>\S)"
)
#: Signs in words, where they stand between numbers. Each is replaced by a sign with blanks, so that places stay.
_SIGNS = {
    "*": r"times|multiplied\s+by|乘以|乘|\\times|\\cdot|[xX](?=\s*[$¥€£]?[\d(.])",
    "+": r"plus|加上|加",
    "-": r"minus|减去|减",
    "/": r"divided\s+by|除以|\\div",
}
_SIGN_WORDS = {
    sign: re.compile(rf"(?<=[\d)%])(?P<gap>\s*)(?:{words})(?=\s*[-$¥€£]?\s*[\d(.])") for sign, words in _SIGNS.items()
}
_OF = re.compile(r"(?<=%)\s+of\s+(?=[$¥€£]?\d)")
_MARKUP = re.compile(r"`|(?<![\d)\s])\*\*|(?<![\d)])(?<=\s)\*\*(?!\s)|\*\*(?!\s*[\d($])|\\[()\[\]]|\\(?=[$%])")
_CODE = re.compile(r"(?ms)^[ \t]*```.*?(?:^[ \t]*```|\Z)")
#: A word before or behind a number that makes it part of something else.
CHANGING = frozenset(
    re.findall(
        r"\w+",
        """of and or times twice thrice double triple half quarter third fourth fifth tenth plus minus negative per
        square squared cube cubed root sqrt log ln sin cos tan exp divided multiplied mod r from between no least most
        up by to over than hundred thousand million billion trillion dozen k m b bn mn percent percentage point e i th
        st nd rd""",
    )
)
#: A word behind a number with which the sentence goes on: no unit.
SENTENCE = frozenset(
    re.findall(
        r"\w+",
        """in for so is are was were each left total altogether because since which that then while when if but
        therefore thus as the he she they we it this these there on at will can has have""",
    )
)
_NO_UNITS = CHANGING | SENTENCE
CHANGING_CHARACTERS = "的加减乘除以倍第号负方百千万亿成折约到至和与余多几"
_MOST_DIGITS = 40


class Unreadable(ValueError):
    """No arithmetic that this parser understands to the end."""


@dataclass(frozen=True)
class Value:
    """An expression, evaluated. `decimals` is the number of digits behind the point of a plain number, and None for
    what has operators; `units` are the words and signs of currency at its numbers; `additive`: it has + or -."""

    value: Fraction
    decimals: int | None
    units: frozenset[str] = frozenset()
    percent: bool = False
    additive: bool = False
    approximate: bool = False  # a number in it ends like a third or a sixth that was rounded
    divided: bool = False  # it has a division or a per cent sign
    doubtful: bool = False  # what stands behind a division may belong to its divisor: 12 / 2 * 3


class Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int
    gap: bool  # white space before it


# Reading -------------------------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """The text with one spelling for every sign; every character stays at its place."""
    text = text.translate(_SAME)
    text = _CODE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    for sign, pattern in _SIGN_WORDS.items():
        text = pattern.sub(lambda found, sign=sign: _padded(found["gap"] + sign, found[0]), text)
    text = _OF.sub(lambda found: _padded(" *", found[0]), text)
    return _MARKUP.sub(lambda found: " " * len(found[0]), text)


def _padded(sign: str, replaced: str) -> str:
    return sign.ljust(len(replaced))


def tokens_of(text: str) -> list[Token]:
    found, last = [], 0
    for match in _TOKEN.finditer(text):
        found.append(Token(match.lastgroup, match[0], match.start(), match.end(), match.start() > last))
        last = match.end()
    return found


class Parser:
    """Recursive descent over tokens: sum, product, power, atom. `at` is the next token; `stop` the first not to read.

    At the first token that does not continue the expression it stops; what stands there is for the caller to judge.
    """

    def __init__(self, tokens: list[Token], at: int, stop: int):
        self.tokens, self.at, self.stop = tokens, at, stop
        self.units: set[str] = set()
        self.percent = self.additive = self.approximate = self.divided = self.doubtful = False
        self.operators = 0
        self.decimals = 0

    def peek(self) -> Token | None:
        return self.tokens[self.at] if self.at < self.stop else None

    def value(self) -> Value:
        result = self.sum()
        decimals = None if self.operators else self.decimals
        flags = (self.percent, self.additive, self.approximate, self.divided or self.percent, self.doubtful)
        return Value(result, decimals, frozenset(self.units), *flags)

    def sum(self, depth: int = 0) -> Fraction:
        result = self.product(depth)
        while (sign := self.continues("+-")) is not None:
            self.additive = True
            right = self.product(depth)
            result = result + right if sign == "+" else result - right
        return result

    def product(self, depth: int) -> Fraction:
        result = self.power(depth)
        divided = False
        while True:
            token = self.peek()
            if token and token.kind == "open" and not token.gap:  # 2(3), (2)(3)
                self.operators += 1
                self.doubtful |= divided
                result *= self.power(depth)
            elif (sign := self.continues("*/")) is None:
                return result
            else:
                right = self.power(depth)
                if sign == "/" and right == 0:
                    raise Unreadable("division by zero")
                self.doubtful |= divided
                divided |= sign == "/"
                self.divided |= divided
                result = result * right if sign == "*" else result / right

    def continues(self, signs: str) -> str | None:
        """Take an operator of `signs`, if a number or a bracket follows it."""
        token = self.peek()
        if token is None or token.kind != "operator" or token.text not in signs or self.at + 1 >= self.stop:
            return None
        following = self.tokens[self.at + 1]
        if following.kind not in ("number", "open", "currency") and following.text != "-":
            return None
        self.at += 1
        self.operators += 1
        return token.text

    def power(self, depth: int) -> Fraction:
        base = self.atom(depth)
        token = self.peek()
        if token is None or token.kind != "power":
            return base
        self.at += 1
        self.operators += 1
        exponent = Fraction("²³".index(token.text) + 2) if token.text in "²³" else self.atom(depth)
        size = abs(base.numerator).bit_length() + base.denominator.bit_length()
        if exponent.denominator != 1 or size * abs(exponent) > 400 or (base <= 0 and exponent <= 0):
            raise Unreadable("a power that is too large or no whole number")
        return base ** int(exponent)

    def atom(self, depth: int) -> Fraction:
        token = self.peek()
        if token is None or depth > 20:
            raise Unreadable("a number is missing")
        self.at += 1
        if token.text == "-":
            following = self.peek()
            if following is None or following.gap or following.text == "-":
                raise Unreadable("a sign without its number")
            return -self.power(depth + 1)
        if token.kind == "open":
            result = self.sum(depth + 1)
            closing = self.peek()
            if closing is None or closing.kind != "close":
                raise Unreadable("a bracket is not closed")
            self.at += 1
            return self.suffix(result)
        if token.kind == "currency":
            self.units.add(token.text)
            token = self.peek()
            self.at += 1
        if token is None or token.kind != "number":
            raise Unreadable("a number is missing")
        return self.suffix(self.number(token))

    def number(self, token: Token) -> Fraction:
        digits = token.text.replace(",", "")
        if len(digits) > _MOST_DIGITS or (len(digits) > 1 and digits[0] == "0" and digits[1] != "."):
            raise Unreadable("a code or a time of day, or a number that is too long")
        decimals = len(digits.partition(".")[2])
        self.decimals = max(self.decimals, decimals)
        self.approximate |= decimals >= 2 and digits.endswith(("33", "66", "67", "17", "83"))
        return Fraction(digits) + self.mixed(token)

    def mixed(self, token: Token) -> Fraction:
        """The fraction of a mixed number: 1/2 of "3 1/2"."""
        parts = self.tokens[self.at : min(self.at + 3, self.stop)]
        if [part.kind for part in parts] != ["number", "operator", "number"] or not token.text.isdigit():
            return Fraction(0)
        over, slash, under = parts
        if slash.text != "/" or slash.gap or under.gap or not (over.text.isdigit() and under.text.isdigit()):
            return Fraction(0)
        if not 0 < int(over.text) < int(under.text) <= 100:
            return Fraction(0)
        self.at += 3
        self.operators += 1
        return Fraction(int(over.text), int(under.text))

    def suffix(self, result: Fraction) -> Fraction:
        """A percent sign, and one word as the unit."""
        token = self.peek()
        if token and token.kind == "percent":
            self.at += 1
            self.percent = True
            result /= 100
            token = self.peek()
        if token and token.kind == "word" and is_unit(token):
            self.at += 1
            self.units.add(token.text.lower().rstrip("s"))
        return result


def is_unit(token: Token) -> bool:
    if token.text[0] >= "\u4e00":
        return not set(token.text[:2]) & set(CHANGING_CHARACTERS)
    return len(token.text) > 1 and token.text.lower() not in _NO_UNITS


def evaluate(text: str) -> Fraction:
    """The exact value of an expression of numbers. Raises `Unreadable` for anything else, also in front or behind."""
    tokens = tokens_of(text.translate(_SAME))
    parser = Parser(tokens, 0, len(tokens))
    result = parser.value()
    if parser.at < len(tokens) or result.units:
        raise Unreadable("more than an expression")
    return result.value


def written(value: Fraction, decimals: int | None) -> str:
    """A value as text: whole, as a short decimal, or else rounded to `decimals` digits (two at least)."""
    for digits in range(7):
        if (value * 10**digits).denominator == 1:
            break
    else:
        digits = max(decimals or 0, 2)
    scaled = round(abs(value) * 10**digits)
    whole, rest = divmod(scaled, 10**digits)
    sign = "-" if value < 0 and scaled else ""
    return f"{sign}{whole}" + (f".{rest:0{digits}d}" if digits else "")
