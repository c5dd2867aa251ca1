"""Operations that any list can undergo, whatever is in it: numbers or words, English or Chinese.

What it is. The family "list". `OPERATIONS` holds these and, behind them, those on lists of numbers
(`instruct.world.number_lists`), so that this is the one room to ask for lists.

Why so. An operation here looks at places and at equality only, never at what an item is; so what a model learns of it
from numbers must carry over to words, which can be tested. Where the list is too short there is no answer (Undefined):
no fourth item of three, no first item of none. Ties go to the item that comes first, and an even count has its middle
item left of the centre.

Words. Places are counted from 1. Phrases say "item", 项, and avoid 先 最后 然后, which join the clauses of a chain.

What it leaves out. Inserting, joining two lists, lists of lists.
"""

from __future__ import annotations

from instruct.world import number_lists
from instruct.world.operation import ITEM, SAME, Operation, Phrases, Undefined

# What they compute ---------------------------------------------------------------------------------------------------


def long_enough(items: list, length: int = 1) -> list:
    """The list itself; Undefined if it has fewer than `length` items."""
    if len(items) < length:
        raise Undefined(f"the list has fewer than {length} items")
    return items


def different(items: list) -> list:
    """Every item once, in the order of its first appearance."""
    return list(dict.fromkeys(items))


def most_frequent(items: list) -> object:
    """The item that occurs most often; of several the one that appears first."""
    return max(different(long_enough(items)), key=items.count)


def swap_ends(items: list) -> list:
    long_enough(items, 2)
    return [items[-1], *items[1:-1], items[0]]


# How people ask for them ---------------------------------------------------------------------------------------------

SINGLE_ITEMS = (
    Operation(
        "first", "list", "list", ITEM, lambda x, k, language: long_enough(x)[0],
        Phrases(("pick the first item from {x}", "select the item that stands at the start of {x}",
                 "read off the opening item of {x}"),
                ("the first item of {x}", "the opening item of {x}", "the head of {x}")),
        Phrases(("取{x}开头的一项", "挑出{x}的头一个", "从{x}里拿排在首位的那一项"),
                ("{x}的第一项", "{x}的首项", "{x}开头的那一项")),
    ),
    Operation(
        "last", "list", "list", ITEM, lambda x, k, language: long_enough(x)[-1],
        Phrases(("pick the last item from {x}", "select the item that stands at the end of {x}",
                 "read off the closing item of {x}"),
                ("the last item of {x}", "the closing item of {x}")),
        Phrases(("取{x}末尾的一项", "挑出{x}的倒数第一个", "从{x}里拿排在末位的那一项"),
                ("{x}的末项", "{x}的倒数第一项", "{x}末尾的那一项")),
    ),
    Operation(
        "item", "list", "list", ITEM, lambda x, k, language: long_enough(x, k)[k - 1],
        Phrases(("pick the {k} item from {x}", "select the item in {k} place of {x}", "read off the {k} entry of {x}"),
                ("the {k} item of {x}", "the item in {k} place of {x}"),
                {2: "second", 3: "third", 4: "fourth"}),
        Phrases(("取{x}里的第{k}项", "挑出{x}的第{k}个", "从{x}里拿排在第{k}位的那一项"),
                ("{x}的第{k}项", "{x}中排在第{k}位的项"),
                {2: "二", 3: "三", 4: "四"}),
        arguments=(2, 3, 4),
    ),
    Operation(
        "middle", "list", "list", ITEM, lambda x, k, language: long_enough(x)[(len(x) - 1) // 2],
        Phrases(("pick the middle item from {x}", "select the item that stands halfway along {x}",
                 "read off the central item of {x}"),
                ("the middle item of {x}", "the item halfway along {x}")),
        Phrases(("取{x}正中间的一项", "挑出{x}里位置居中的那个", "从{x}里拿中间的那一项"),
                ("{x}的中间项", "{x}位置居中的项")),
    ),
    Operation(
        "most_frequent", "list", "list", ITEM, lambda x, k, language: most_frequent(x),
        Phrases(("pick the item that occurs most often in {x}", "select the most frequent item from {x}",
                 "see which item of {x} is repeated most"),
                ("the most frequent item in {x}", "the item that occurs most often in {x}")),
        Phrases(("挑出{x}中出现次数最多的一项", "看看{x}里哪一项出现得最多", "从{x}里选重复最多的项"),
                ("{x}中出现最多的项", "{x}里最常见的一项")),
    ),
)

COUNTS = (
    Operation(
        "count_items", "list", "list", "number", lambda x, k, language: len(x),
        Phrases(("count the items in {x}", "count how many items there are in {x}", "tally the entries of {x}"),
                ("the number of items in {x}", "the item count of {x}")),
        Phrases(("数一数{x}有多少项", "统计{x}的项数", "看看{x}一共有几项"), ("{x}的项数", "{x}里项目的总数")),
    ),
    Operation(
        "count_distinct", "list", "list", "number", lambda x, k, language: len(set(x)),
        Phrases(("count the different items in {x}", "count how many distinct items there are in {x}",
                 "tally the entries of {x} ignoring repetitions"),
                ("the number of different items in {x}", "the count of distinct items in {x}")),
        Phrases(("数一数{x}有多少个不同的项", "统计{x}里不重复的项数", "看看{x}中有几种不同的项"),
                ("{x}中不同项的个数", "{x}里互异项的数量")),
    ),
)

PARTS = (
    Operation(
        "take", "list", "list", SAME, lambda x, k, language: long_enough(x, k)[:k],
        Phrases(("keep only the first {k} items of {x}", "take {k} items from the front of {x}",
                 "cut {x} down to the first {k} items"),
                ("the list of the first {k} items of {x}", "the opening stretch of {k} items in {x}"),
                {2: "two", 3: "three"}),
        Phrases(("只保留{x}的前{k}项", "从{x}开头取{k}项", "把{x}截短到前{k}项"),
                ("{x}的前{k}项", "{x}开头的{k}项"),
                {2: "两", 3: "三"}),
        arguments=(2, 3),
    ),
    Operation(
        "drop", "list", "list", SAME, lambda x, k, language: long_enough(x, k)[k:],
        Phrases(("remove the first {k} items from {x}", "skip {k} items at the front of {x}",
                 "cut {k} items off the start of {x}"),
                ("the rest of {x} behind the first {k} items", "the part of {x} that follows the first {k} items"),
                {2: "two", 3: "three"}),
        Phrases(("去掉{x}的前{k}项", "跳过{x}开头的{k}项", "把{x}的前{k}项删掉"),
                ("{x}去掉前{k}项所剩的部分", "{x}除前{k}项以外的部分"),
                {2: "两", 3: "三"}),
        arguments=(2, 3),
    ),
    Operation(
        "drop_first", "list", "list", SAME, lambda x, k, language: long_enough(x)[1:],
        Phrases(("remove the first item from {x}", "leave out the opening item of {x}",
                 "cut off the item at the start of {x}"),
                ("everything but the first item of {x}", "the part of {x} behind the first item")),
        Phrases(("去掉{x}的第一项", "把{x}的首项删掉", "略去{x}开头的那一项"),
                ("{x}去掉首项所剩的部分", "{x}除第一项以外的部分")),
    ),
    Operation(
        "drop_last", "list", "list", SAME, lambda x, k, language: long_enough(x)[:-1],
        Phrases(("remove the last item from {x}", "leave out the closing item of {x}",
                 "cut off the item at the end of {x}"),
                ("everything but the last item of {x}", "the part of {x} before the last item")),
        Phrases(("去掉{x}的倒数第一项", "把{x}的末项删掉", "略去{x}末尾的那一项"),
                ("{x}去掉末项所剩的部分", "{x}除倒数第一项以外的部分")),
    ),
    Operation(
        "every_other", "list", "list", SAME, lambda x, k, language: long_enough(x)[::2],
        Phrases(("keep only the items at odd positions in {x}", "delete every second item of {x}",
                 "take every other item from {x} starting with the first"),
                ("the list of items at odd positions in {x}", "every other item of {x} from the first on")),
        Phrases(("只保留{x}中奇数位上的项", "把{x}里偶数位上的项删掉", "从{x}的第一项起隔一项取一项"),
                ("{x}中奇数位上的项", "{x}从第一项起隔项所取的列表")),
    ),
    Operation(
        "deduplicate", "list", "list", SAME, lambda x, k, language: different(x),
        Phrases(("remove duplicates from {x}", "delete repeated items from {x}", "keep each item of {x} only once"),
                ("the duplicate-free version of {x}", "the list of different items in {x}")),
        Phrases(("去掉{x}中重复的项", "把{x}去重", "让{x}里的每一项只出现一次"),
                ("{x}去重所得的列表", "{x}中互不相同的项")),
    ),
)

ARRANGEMENTS = (
    Operation(
        "reverse_list", "list", "list", SAME, lambda x, k, language: x[::-1],
        Phrases(("reverse the order of {x}", "put {x} in reverse order", "arrange {x} back to front"),
                ("the reverse order of {x}", "the back-to-front version of {x}")),
        Phrases(("把{x}的顺序颠倒", "将{x}从尾到头排列", "让{x}首尾颠倒"), ("{x}颠倒顺序的列表", "{x}从尾到头的排列")),
    ),
    Operation(
        "rotate", "list", "list", SAME, lambda x, k, language: [*long_enough(x)[1:], x[0]],
        Phrases(("move the first item of {x} to the end", "rotate {x} one place to the left",
                 "send the front item of {x} to the back"),
                ("the one-step left rotation of {x}", "the version of {x} with the first item moved to the end")),
        Phrases(("把{x}的第一项移到末尾", "将{x}向左循环移动一位", "让{x}的首项排到队尾"),
                ("{x}循环左移一位的列表", "{x}首项移到末尾所得的列表")),
    ),
    Operation(
        "swap_ends", "list", "list", SAME, lambda x, k, language: swap_ends(x),
        Phrases(("swap the first item of {x} with the last", "exchange the two end items of {x}",
                 "let the outermost items of {x} trade places"),
                ("the end-swapped version of {x}", "the version of {x} with the end items exchanged")),
        Phrases(("交换{x}的首尾两项", "把{x}的第一项与末项对调", "让{x}两端的项互换位置"),
                ("{x}首尾两项互换所得的列表", "{x}两端对调的列表")),
    ),
    Operation(
        "repeat_list", "list", "list", SAME, lambda x, k, language: long_enough(x) * 2,
        Phrases(("append a copy of {x} at the end", "go through all the items of {x} twice in a row",
                 "follow {x} with a second copy of every item"),
                ("the twofold repetition of {x}", "the version of {x} with a copy appended")),
        Phrases(("在{x}末尾接上一份同样的内容", "把{x}的各项连写两遍", "让{x}整个重复一遍"),
                ("{x}接上自身副本的列表", "{x}的各项连写两遍的列表")),
    ),
)

OPERATIONS: tuple[Operation, ...] = SINGLE_ITEMS + COUNTS + PARTS + ARRANGEMENTS + number_lists.OPERATIONS
