"""Operations on one number, and on an expression such as "7 + 5": what they compute and how people ask for them.

What it is. The families "number" and "expression", and what the other rooms need of numbers: `bounded`, which keeps
every number of the world between -9,999 and 9,999, `in_words` (English and Chinese, 1 to 99) and `evaluate`.

Why so. All numbers are integers, so that an answer is exactly right or wrong. Division therefore rounds down, towards
minus infinity, and a remainder is never negative. Operations on digits do not look at the sign ("-12" has the digits
1 and 2), save that turning the digits around keeps it.

Words. A noun phrase ends with its object (English), begins with it (Chinese) or encloses it, so that nested nouns can
be cut in one way only: "twice the square of the number", but neither "the square of the number plus 3" nor "the square
of 3 more than the number". No phrase holds a comma, and none speaks of "the result" or 结果, which is what a later
clause of a chain calls its object.

What it leaves out. Fractions, brackets and division in expressions, number words beyond 99.
"""

from __future__ import annotations

import re

from instruct.world.operation import Operation, Phrases, Undefined

LARGEST = 9_999  # a number of the world lies between -LARGEST and LARGEST
LONGEST_COUNT = 20  # counting up makes a list, which must stay short
SMALL = [
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
CHINESE_DIGITS = "一二三四五六七八九"
EXPRESSION = re.compile(r"\d{1,4}(?: [-+*] \d{1,4}){1,4}")


# What they compute ---------------------------------------------------------------------------------------------------


def bounded(number: int) -> int:
    """The number itself; Undefined where the world does not reach."""
    if abs(number) > LARGEST:
        raise Undefined(f"{number} lies beyond {LARGEST}")
    return number


def at_least(lowest: int, number: int) -> int:
    if number < lowest:
        raise Undefined(f"{number} is below {lowest}")
    return number


def digits(number: int) -> list[int]:
    return [int(digit) for digit in str(abs(number))]


def digits_reversed(number: int) -> int:
    backwards = int(str(abs(number))[::-1])
    return -backwards if number < 0 else backwards


def divisors(number: int) -> list[int]:
    at_least(1, number)
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def count_up(number: int) -> list[int]:
    if not 1 <= number <= LONGEST_COUNT:
        raise Undefined(f"the list from 1 to {number} is empty or long")
    return list(range(1, number + 1))


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def next_prime(number: int) -> int:
    """The smallest prime above `number`."""
    candidate = max(number + 1, 2)
    while not is_prime(candidate):
        candidate += 1
    return bounded(candidate)


def in_words(number: int, language: str) -> str:
    """1 to 99: "forty-two", 四十二."""
    if not 1 <= number <= 99:
        raise Undefined(f"no word for {number} is known")
    ten, one = divmod(number, 10)
    if language == "zh":
        tens = "" if ten == 0 else "十" if ten == 1 else CHINESE_DIGITS[ten - 1] + "十"
        return tens + (CHINESE_DIGITS[one - 1] if one else "")
    if number < 20:
        return SMALL[number - 1]
    return TENS[ten - 2] + (f"-{SMALL[one - 1]}" if one else "")


def read_expression(text: str) -> tuple[list[int], list[str]]:
    """Operands and the signs between them: "7 + 5 * 2" is [7, 5, 2] and ["+", "*"]."""
    if not EXPRESSION.fullmatch(text):
        raise Undefined(f"{text!r} is not an expression")
    parts = text.split()
    return [int(part) for part in parts[::2]], parts[1::2]


def evaluate(text: str) -> int:
    """Multiplication binds tighter than addition and subtraction; otherwise from left to right."""
    operands, signs = read_expression(text)
    terms = [operands[0]]
    for sign, operand in zip(signs, operands[1:]):
        if sign == "*":
            terms[-1] *= operand
        else:
            terms.append(-operand if sign == "-" else operand)
    return bounded(sum(terms))


# How people ask for them ---------------------------------------------------------------------------------------------

ARITHMETIC = (
    Operation(
        "plus", "number", "number", "number", lambda x, k, language: bounded(x + k),
        Phrases(("add {k} to {x}", "increase {x} by {k}", "make {x} larger by {k}", "raise {x} by {k}"),
                ("the number that is {k} more than {x}", "the sum of {k} and {x}")),
        Phrases(("把{x}加上{k}", "将{x}增加{k}", "给{x}加{k}", "让{x}增大{k}"), ("{x}与{k}之和", "{x}加{k}的得数")),
        arguments=(2, 3, 5, 7, 10),
    ),
    Operation(
        "minus", "number", "number", "number", lambda x, k, language: bounded(x - k),
        Phrases(("subtract {k} from {x}", "decrease {x} by {k}", "take {k} away from {x}", "lower {x} by {k}"),
                ("the number that is {k} less than {x}", "the difference when {k} is subtracted from {x}")),
        Phrases(("把{x}减去{k}", "将{x}减少{k}", "从{x}中减掉{k}", "让{x}减小{k}"), ("{x}与{k}之差", "{x}减{k}的得数")),
        arguments=(2, 3, 5, 7, 10),
    ),
    Operation(
        "times", "number", "number", "number", lambda x, k, language: bounded(x * k),
        Phrases(("multiply {x} by {k}", "make {x} {k} times as large", "scale {x} by a factor of {k}"),
                ("the number that is {k} times {x}", "the product of {k} and {x}")),
        Phrases(("把{x}乘以{k}", "将{x}扩大到原来的{k}倍", "用{k}去乘{x}"),
                ("{x}的{k}倍", "{x}与{k}之积", "{x}乘{k}的得数")),
        arguments=(3, 4, 5, 10),
    ),
    Operation(
        "square", "number", "number", "number", lambda x, k, language: bounded(x * x),
        Phrases(("square {x}", "multiply {x} by itself", "raise {x} to the second power"),
                ("the square of {x}", "the second power of {x}")),
        Phrases(("把{x}平方", "将{x}乘以自身", "对{x}做平方运算"), ("{x}的平方", "{x}的二次方")),
    ),
    Operation(
        "double", "number", "number", "number", lambda x, k, language: bounded(2 * x),
        Phrases(("double {x}", "make {x} twice as large", "add {x} to itself"), ("twice {x}", "the double of {x}")),
        Phrases(("把{x}翻倍", "将{x}乘以二", "让{x}变成原来的两倍"), ("{x}的两倍", "{x}的二倍")),
    ),
    Operation(
        "half", "number", "number", "number", lambda x, k, language: x // 2,
        Phrases(("halve {x} rounding down", "divide {x} by two rounding down", "cut {x} in half rounding down"),
                ("the rounded-down half of {x}", "half of {x} rounded down")),
        Phrases(("把{x}减半并向下取整", "将{x}除以二并向下取整", "取{x}的一半并向下取整"),
                ("{x}的一半向下取整的值", "{x}除以二向下取整的值")),
    ),
    Operation(
        "negate_number", "number", "number", "number", lambda x, k, language: -x,
        Phrases(("change the sign of {x}", "flip the sign of {x}", "multiply {x} by minus one"),
                ("the negative of {x}", "the additive inverse of {x}")),
        Phrases(("把{x}变号", "改变{x}的正负号", "将{x}乘以负一"), ("{x}的相反数", "{x}变号所得的数")),
    ),
    Operation(
        "absolute", "number", "number", "number", lambda x, k, language: abs(x),
        Phrases(("ignore the sign of {x}", "drop any minus sign from {x}", "measure how far {x} lies from zero"),
                ("the absolute value of {x}", "the magnitude of {x}", "the distance from zero to {x}")),
        Phrases(("对{x}取绝对值", "去掉{x}可能带有的负号", "量一量{x}离零有多远"),
                ("{x}的绝对值", "{x}不计正负的大小", "{x}到零的距离")),
    ),
    Operation(
        "remainder", "number", "number", "number", lambda x, k, language: x % k,
        Phrases(("reduce {x} modulo {k}", "divide {x} by {k} keeping only what is left over", "take {x} modulo {k}"),
                ("the remainder of {x} divided by {k}", "the remainder when {x} is divided by {k}")),
        Phrases(("把{x}对{k}取余", "将{x}除以{k}只留余数", "用{k}去除{x}看余几"), ("{x}除以{k}的余数", "{x}模{k}的值")),
        arguments=(3, 4, 5, 7),
    ),
    Operation(
        "next_prime", "number", "number", "number", lambda x, k, language: next_prime(x),
        Phrases(("replace {x} by the next larger prime", "step up from {x} to the next prime",
                 "search upwards from {x} for a prime"),
                ("the smallest prime above {x}", "the nearest prime greater than {x}")),
        Phrases(("把{x}换成下一个更大的质数", "从{x}往上找最近的质数", "由{x}起向上走到下一个质数"),
                ("比{x}大的最小质数", "大于{x}的第一个质数")),
    ),
)

DIGITS = (
    Operation(
        "digit_sum", "number", "number", "number", lambda x, k, language: sum(digits(x)),
        Phrases(("add the digits of {x} together", "total the digits of {x}", "sum the digits of {x}"),
                ("the digit sum of {x}", "the sum of the digits of {x}")),
        Phrases(("把{x}的各位数字相加", "将{x}每一位上的数字加起来", "对{x}的各位数字求和"),
                ("{x}的各位数字之和", "{x}的数字和")),
    ),
    Operation(
        "digits_reversed", "number", "number", "number", lambda x, k, language: digits_reversed(x),
        Phrases(("reverse the digits of {x}", "write the digits of {x} backwards", "turn the digits of {x} around"),
                ("the digit reversal of {x}", "the mirror number of {x}")),
        Phrases(("把{x}的各位数字反转", "将{x}的数字倒过来写", "从末位到首位读出{x}"), ("{x}的反序数", "{x}的镜像数")),
    ),
    Operation(
        "digits", "number", "number", "numbers", lambda x, k, language: digits(x),
        Phrases(("split {x} into its digits", "break {x} up into single digits", "take {x} apart digit by digit"),
                ("the list of digits of {x}", "the digit sequence of {x}")),
        Phrases(("把{x}拆成一位一位的数字", "将{x}按位拆开", "逐位写下{x}的数字"), ("{x}的数位列表", "{x}的数字序列")),
    ),
    Operation(
        "divisors", "number", "number", "numbers", lambda x, k, language: divisors(x),
        Phrases(("list every divisor of {x}", "list all whole numbers that divide {x}", "collect the factors of {x}"),
                ("the list of divisors of {x}", "the divisor list of {x}")),
        Phrases(("列出{x}的每一个约数", "把能整除{x}的正整数都写出来", "从小到大写下{x}的所有因数"),
                ("{x}的约数列表", "{x}的全部因数")),
    ),
    Operation(
        "count_up", "number", "number", "numbers", lambda x, k, language: count_up(x),
        Phrases(("count from 1 up to {x}", "list the whole numbers from 1 to {x}", "write every number from 1 to {x}"),
                ("the list of whole numbers from 1 to {x}", "the number sequence from 1 to {x}")),
        Phrases(("从1数到{x}", "写出从1到{x}的所有整数", "把1到{x}的整数依次列出"),
                ("从1到{x}的整数列表", "从1到{x}的自然数序列")),
    ),
    Operation(
        "in_words", "number", "number", "word", lambda x, k, language: in_words(x, language),
        Phrases(("write {x} out in words", "put {x} into words", "express {x} in words instead of digits"),
                ("the number word for {x}", "the written-out form of {x}")),
        Phrases(("用汉字写出{x}", "把{x}改写成汉字数字", "将{x}用中文数字表示"),
                ("{x}的汉字写法", "{x}的中文数字形式")),
    ),
)

QUESTIONS = (
    Operation(
        "is_even", "number", "number", "truth", lambda x, k, language: x % 2 == 0,
        Phrases(("check whether {x} is even", "decide if {x} is an even number", "say whether {x} is divisible by two",
                 "test if {x} is even")),
        Phrases(("判断{x}是不是偶数", "检查{x}是否为偶数", "看看{x}能不能被二整除", "说说{x}是不是双数")),
    ),
    Operation(
        "is_prime", "number", "number", "truth", lambda x, k, language: is_prime(x),
        Phrases(("check whether {x} is prime", "decide if {x} is a prime number", "say whether {x} is a prime",
                 "test {x} for being prime")),
        Phrases(("判断{x}是不是质数", "检查{x}是否为质数", "看看{x}是不是素数", "说说{x}算不算质数")),
    ),
    Operation(
        "is_above", "number", "number", "truth", lambda x, k, language: x > k,
        Phrases(("check whether {x} is greater than {k}", "decide if {x} is larger than {k}",
                 "say whether {x} exceeds {k}", "test if {x} lies above {k}")),
        Phrases(("判断{x}是不是大于{k}", "检查{x}是否超过{k}", "看看{x}是否比{k}大", "说说{x}有没有超出{k}")),
        arguments=(5, 10, 20, 50),
    ),
)

EXPRESSIONS = (
    Operation(
        "evaluate", "expression", "expression", "number", lambda x, k, language: evaluate(x),
        Phrases(("evaluate {x}", "carry out the calculation in {x}", "do the arithmetic in {x}"),
                ("the value of {x}", "the outcome of the calculation in {x}")),
        Phrases(("算一算{x}", "完成{x}中的运算", "对{x}求值"), ("{x}的值", "{x}算出来的得数")),
    ),
    Operation(
        "operands", "expression", "expression", "numbers", lambda x, k, language: read_expression(x)[0],
        Phrases(("pull the numbers out of {x}", "extract the operands from {x}", "strip {x} of its arithmetic signs"),
                ("the operand list of {x}", "the list of operands in {x}")),
        Phrases(("取出{x}里的各个运算数", "把{x}中参与运算的数列出来", "去掉{x}里的运算符号"),
                ("{x}的运算数列表", "{x}里的各个运算数")),
    ),
)

OPERATIONS: tuple[Operation, ...] = ARITHMETIC + DIGITS + QUESTIONS + EXPRESSIONS
