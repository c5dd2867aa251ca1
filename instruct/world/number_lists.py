"""Operations on lists of numbers: order, totals, one thing done to each number, choosing some, counting some.

What it is. The family "numbers". Every rule is one line of Python that a reader can check against its phrases.

Why so. Averages and the median of an even count round down, towards minus infinity, as all division in this world
does. The extremes of a list are values: removing the largest removes every copy of it. Nothing has a largest number,
an average or a spread, so these are Undefined for the empty list, whereas its sum is 0 and its product 1.

Words. Operations that change each number say "each", "every" or 每, so that "add 3 to {x}" stays with single numbers.

What it leaves out. Two lists at a time, and fractions. What any list can do, words too, is in `lists.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, pairwise
from math import prod

from instruct.world.numbers import bounded
from instruct.world.operation import Operation, Phrases, Undefined

# What they compute ---------------------------------------------------------------------------------------------------


def some(numbers: list[int]) -> list[int]:
    """The list itself; Undefined if it is empty."""
    if not numbers:
        raise Undefined("there are no numbers")
    return numbers


def all_bounded(numbers: list[int]) -> list[int]:
    return [bounded(number) for number in numbers]


def median(numbers: list[int]) -> int:
    ordered = sorted(some(numbers))
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) // 2


def differences(numbers: list[int]) -> list[int]:
    """Each number subtracted from the next."""
    if len(numbers) < 2:
        raise Undefined("a difference needs two numbers")
    return all_bounded([later - earlier for earlier, later in pairwise(numbers)])


def without(extreme: Callable[[list[int]], int], numbers: list[int]) -> list[int]:
    value = extreme(some(numbers))
    return [number for number in numbers if number != value]


# How people ask for them ---------------------------------------------------------------------------------------------

ORDER = (
    Operation(
        "sort_up", "numbers", "numbers", "numbers", lambda x, k, language: sorted(x),
        Phrases(("sort {x} in ascending order", "arrange {x} from smallest to largest", "put {x} in increasing order",
                 "order {x} from low to high"),
                ("the ascending order of {x}", "the version of {x} sorted upwards")),
        Phrases(("将{x}从小到大排序", "把{x}按升序排列", "让{x}由小到大排好"), ("{x}的升序排列", "{x}从小到大的排列")),
    ),
    Operation(
        "sort_down", "numbers", "numbers", "numbers", lambda x, k, language: sorted(x, reverse=True),
        Phrases(("sort {x} in descending order", "arrange {x} from largest to smallest", "put {x} in decreasing order",
                 "order {x} from high to low"),
                ("the descending order of {x}", "the version of {x} sorted downwards")),
        Phrases(("将{x}从大到小排序", "把{x}按降序排列", "让{x}由大到小排好"), ("{x}的降序排列", "{x}从大到小的排列")),
    ),
)

SUMMARIES = (
    Operation(
        "sum", "numbers", "numbers", "number", lambda x, k, language: bounded(sum(x)),
        Phrases(("add up {x}", "total {x}", "add all the numbers in {x} together", "sum {x}"),
                ("the sum of {x}", "the total of {x}")),
        Phrases(("把{x}加起来", "将{x}全部相加", "对{x}求和"), ("{x}的总和", "{x}的合计", "{x}加起来的总数")),
    ),
    Operation(
        "product", "numbers", "numbers", "number", lambda x, k, language: bounded(prod(x)),
        Phrases(("multiply all the numbers in {x} together", "multiply {x} with one another",
                 "take every number in {x} as a factor of one product"),
                ("the product of {x}", "the product of all the numbers in {x}")),
        Phrases(("把{x}全部相乘", "将{x}连乘起来", "对{x}求积"), ("{x}的乘积", "{x}连乘的积")),
    ),
    Operation(
        "largest", "numbers", "numbers", "number", lambda x, k, language: max(some(x)),
        Phrases(("pick the largest number from {x}", "select the biggest number of {x}",
                 "choose the highest value from {x}"),
                ("the largest number in {x}", "the maximum of {x}", "the greatest value in {x}")),
        Phrases(("从{x}里挑出最大的数", "在{x}中选最大的一个", "取{x}中的最大者"), ("{x}中最大的数", "{x}的最大值")),
    ),
    Operation(
        "smallest", "numbers", "numbers", "number", lambda x, k, language: min(some(x)),
        Phrases(("pick the smallest number from {x}", "select the least number of {x}",
                 "choose the lowest value from {x}"),
                ("the smallest number in {x}", "the minimum of {x}", "the lowest value in {x}")),
        Phrases(("从{x}里挑出最小的数", "在{x}中选最小的一个", "取{x}中的最小者"), ("{x}中最小的数", "{x}的最小值")),
    ),
    Operation(
        "range", "numbers", "numbers", "number", lambda x, k, language: bounded(max(some(x)) - min(x)),
        Phrases(("subtract the minimum of {x} from the maximum", "measure the spread of {x}",
                 "see how far apart the extremes of {x} are"),
                ("the range of {x}", "the gap between the largest and the smallest number in {x}")),
        Phrases(("用{x}的最大值减去最小值", "看看{x}里的最大数与最小数相差多少", "量一量{x}的跨度"),
                ("{x}的极差", "{x}中最大数与最小数的差")),
    ),
    Operation(
        "median", "numbers", "numbers", "number", lambda x, k, language: median(x),
        Phrases(("take the middle value of {x} by size", "select the median from {x}",
                 "pick the number of {x} that ranks in the middle"),
                ("the median of {x}", "the middle value by size of {x}")),
        Phrases(("取{x}中大小居中的数", "从{x}里选中位数", "按大小看{x}正中间的值"),
                ("{x}的中位数", "{x}中大小居中的值")),
    ),
    Operation(
        "average", "numbers", "numbers", "number", lambda x, k, language: sum(some(x)) // len(x),
        Phrases(("average {x} rounding down", "share the total of {x} out equally rounding down",
                 "level {x} out to one common value rounding down"),
                ("the rounded-down average of {x}", "the mean of {x} rounded down")),
        Phrases(("对{x}取平均并向下取整", "用{x}的总量除以个数并向下取整", "把{x}均分并向下取整"),
                ("{x}向下取整的平均数", "{x}的均值向下取整的数")),
    ),
)

EACH = (
    Operation(
        "add_each", "numbers", "numbers", "numbers", lambda x, k, language: all_bounded([item + k for item in x]),
        Phrases(("add {k} to each number in {x}", "increase every number in {x} by {k}",
                 "make all the numbers in {x} larger by {k}", "raise each element of {x} by {k}"),
                ("the list obtained by adding {k} to each number in {x}", "the upward shift of {x} by {k}")),
        Phrases(("给{x}中的每个数加上{k}", "把{x}里的数都加{k}", "让{x}的每一项增加{k}"),
                ("{x}的每项加{k}所得的数列", "{x}各加{k}所得的列表")),
        arguments=(2, 3, 5, 10),
    ),
    Operation(
        "times_each", "numbers", "numbers", "numbers", lambda x, k, language: all_bounded([item * k for item in x]),
        Phrases(("multiply each number in {x} by {k}", "scale every number in {x} by {k}",
                 "make all the numbers in {x} {k} times as large", "enlarge each element of {x} by a factor of {k}"),
                ("the list obtained by multiplying each number in {x} by {k}", "the {k}-fold version of {x}")),
        Phrases(("给{x}中的每个数乘以{k}", "把{x}里的数都乘{k}", "让{x}的每一项变成原来的{k}倍"),
                ("{x}的每项乘{k}所得的数列", "{x}各乘{k}所得的列表")),
        arguments=(3, 4, 5, 10),
    ),
    Operation(
        "double_each", "numbers", "numbers", "numbers", lambda x, k, language: all_bounded([2 * item for item in x]),
        Phrases(("double each number in {x}", "make every number in {x} twice as large",
                 "add each element of {x} to itself"),
                ("the list of doubled numbers from {x}", "the list obtained by doubling each number in {x}")),
        Phrases(("把{x}中的每个数翻倍", "将{x}里的数逐个加倍", "让{x}的每一项变成两倍"),
                ("{x}的每项翻倍所得的数列", "{x}逐个加倍所得的列表")),
    ),
    Operation(
        "square_each", "numbers", "numbers", "numbers", lambda x, k, language: all_bounded([item**2 for item in x]),
        Phrases(("square each number in {x}", "multiply every number in {x} by itself",
                 "raise each element of {x} to the second power"),
                ("the list of squares of {x}", "the list obtained by squaring each number in {x}")),
        Phrases(("把{x}中的每个数平方", "将{x}里的数逐个乘以自身", "让{x}的每一项变成平方"),
                ("{x}的每项平方所得的数列", "{x}逐个平方所得的列表")),
    ),
    Operation(
        "negate_each", "numbers", "numbers", "numbers", lambda x, k, language: [-item for item in x],
        Phrases(("change the sign of each number in {x}", "flip every sign in {x}",
                 "multiply each element of {x} by minus one"),
                ("the list of negatives of {x}", "the list obtained by negating each number in {x}")),
        Phrases(("把{x}中的每个数变号", "改变{x}里每一项的正负号", "将{x}的数都乘以负一"),
                ("{x}的每项变号所得的数列", "{x}逐个取相反数所得的列表")),
    ),
    Operation(
        "running_sum", "numbers", "numbers", "numbers", lambda x, k, language: all_bounded(list(accumulate(x))),
        Phrases(("replace each number in {x} by the total so far", "add up {x} cumulatively",
                 "accumulate {x} from left to right"),
                ("the running total of {x}", "the list of partial sums of {x}")),
        Phrases(("把{x}中的每个数换成到它为止的总和", "从左到右累加{x}", "对{x}逐项累计"),
                ("{x}的累计数列", "{x}逐项累加所得的列表")),
    ),
    Operation(
        "differences", "numbers", "numbers", "numbers", lambda x, k, language: differences(x),
        Phrases(("subtract each number in {x} from the next one", "take the steps between neighbours in {x}",
                 "turn {x} into successive differences"),
                ("the list of steps from each number to the next in {x}", "the difference sequence of {x}")),
        Phrases(("在{x}中用每个数的下一个数减去它", "把{x}换成相邻两数的差", "逐步写下{x}里相邻的数差多少"),
                ("{x}的差分数列", "{x}的相邻差列表")),
    ),
)

CHOICES = (
    Operation(
        "keep_even", "numbers", "numbers", "numbers", lambda x, k, language: [item for item in x if item % 2 == 0],
        Phrases(("keep only the even numbers in {x}", "remove every odd number from {x}",
                 "filter {x} down to the even numbers"),
                ("the list of even numbers in {x}", "the even part of {x}")),
        Phrases(("只保留{x}中的偶数", "去掉{x}里所有的奇数", "从{x}中筛出偶数"), ("{x}中的偶数", "{x}里的偶数列表")),
    ),
    Operation(
        "keep_odd", "numbers", "numbers", "numbers", lambda x, k, language: [item for item in x if item % 2],
        Phrases(("keep only the odd numbers in {x}", "remove every even number from {x}",
                 "filter {x} down to the odd numbers"),
                ("the list of odd numbers in {x}", "the odd part of {x}")),
        Phrases(("只保留{x}中的奇数", "去掉{x}里所有的偶数", "从{x}中筛出奇数"), ("{x}中的奇数", "{x}里的奇数列表")),
    ),
    Operation(
        "keep_above", "numbers", "numbers", "numbers", lambda x, k, language: [item for item in x if item > k],
        Phrases(("keep only the numbers in {x} that are greater than {k}", "remove everything up to {k} from {x}",
                 "filter {x} for numbers above {k}"),
                ("the list of numbers greater than {k} in {x}", "the part of {x} above {k}")),
        Phrases(("只保留{x}中大于{k}的数", "去掉{x}里不超过{k}的数", "从{x}中筛出比{k}大的数"),
                ("{x}中大于{k}的数", "{x}里超过{k}的部分")),
        arguments=(3, 5, 8, 10),
    ),
    Operation(
        "keep_below", "numbers", "numbers", "numbers", lambda x, k, language: [item for item in x if item < k],
        Phrases(("keep only the numbers in {x} that are less than {k}", "remove everything from {k} upwards from {x}",
                 "filter {x} for numbers below {k}"),
                ("the list of numbers less than {k} in {x}", "the part of {x} below {k}")),
        Phrases(("只保留{x}中小于{k}的数", "去掉{x}里不小于{k}的数", "从{x}中筛出比{k}小的数"),
                ("{x}中小于{k}的数", "{x}里低于{k}的部分")),
        arguments=(5, 8, 10, 15),
    ),
    Operation(
        "remove_largest", "numbers", "numbers", "numbers", lambda x, k, language: without(max, x),
        Phrases(("remove the largest value from {x}", "delete every copy of the maximum from {x}",
                 "strip {x} of the biggest value"),
                ("everything below the maximum of {x}", "the part of {x} without the largest value")),
        Phrases(("去掉{x}中的最大值", "把{x}里最大的数都删掉", "从{x}中剔除最大的数"),
                ("{x}去掉最大值所剩的数", "{x}中除最大值以外的数")),
    ),
    Operation(
        "remove_smallest", "numbers", "numbers", "numbers", lambda x, k, language: without(min, x),
        Phrases(("remove the smallest value from {x}", "delete every copy of the minimum from {x}",
                 "strip {x} of the lowest value"),
                ("everything above the minimum of {x}", "the part of {x} without the smallest value")),
        Phrases(("去掉{x}中的最小值", "把{x}里最小的数都删掉", "从{x}中剔除最小的数"),
                ("{x}去掉最小值所剩的数", "{x}中除最小值以外的数")),
    ),
)

COUNTS = (
    Operation(
        "count_even", "numbers", "numbers", "number", lambda x, k, language: sum(item % 2 == 0 for item in x),
        Phrases(("count the even numbers in {x}", "count how many numbers in {x} are even",
                 "tally the even numbers of {x}"),
                ("the number of even numbers in {x}", "the count of even numbers in {x}")),
        Phrases(("数一数{x}中有几个偶数", "统计{x}里偶数的个数", "看看{x}中偶数有多少个"),
                ("{x}中偶数的个数", "{x}里偶数的数量")),
    ),
    Operation(
        "count_above", "numbers", "numbers", "number", lambda x, k, language: sum(item > k for item in x),
        Phrases(("count the numbers in {x} that are greater than {k}", "count how many numbers in {x} exceed {k}",
                 "tally the numbers of {x} above {k}"),
                ("the number of numbers greater than {k} in {x}", "the count of numbers above {k} in {x}")),
        Phrases(("数一数{x}中有几个数大于{k}", "统计{x}里比{k}大的数的个数", "看看{x}中超过{k}的数有多少个"),
                ("{x}中大于{k}的数的个数", "{x}里超过{k}的数的数量")),
        arguments=(3, 5, 8, 10),
    ),
)

OPERATIONS: tuple[Operation, ...] = ORDER + SUMMARIES + EACH + CHOICES + COUNTS
