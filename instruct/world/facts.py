"""Operations that look something up: countries, elements, animals, planets, and the calendar.

What it is. The families "facts" and "calendar", over the rows of `instruct.world.tables`. An answer is in the language
of the name that was asked about; a symbol and a number have no language, so what they name is answered in that of the
instruction.

Why so. These are the operations that cannot be worked out from their input: the fact must have been read. Most lead
from one kind of name to another, so that they chain ("the currency of the country whose capital is ..."), and
countries, elements and months can be reached from two sides.

Conventions (those of the tables). February counts 28 days, seasons are those of the northern hemisphere, the months and
weekdays go round in a circle, the planets do not: nothing lies beyond Neptune.

What it leaves out. Facts with several right answers (the rivers of a country), and facts about two things.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from instruct.world.operation import Operation, Phrases, Undefined
from instruct.world.tables import ANIMALS, COUNTRIES, ELEMENTS, MONTHS, PLANETS, WEEKDAYS, Pair

# What they compute ---------------------------------------------------------------------------------------------------


def column(table: Iterable, key: Callable, value: Callable) -> dict[str, object]:
    """From a name in either language to a fact: in the same language if the fact is a `Pair`. None is no fact."""
    facts = {}
    for row in table:
        for language in ("en", "zh"):
            fact = value(row)
            if fact is not None:
                facts[key(row).text(language)] = fact.text(language) if isinstance(fact, Pair) else fact
    return facts


def neighbours(table: tuple, step: int) -> dict[str, object]:
    """From a name to the name `step` rows further on, round in a circle."""
    return {
        row.name.text(language): table[(place + step) % len(table)].name.text(language)
        for place, row in enumerate(table)
        for language in ("en", "zh")
    }


def lookup(facts: Mapping) -> Callable[[object, object, str], object]:
    """The function of an operation: the fact itself, or its name in the language of the instruction."""

    def run(x: object, k: object, language: str) -> object:
        if x not in facts:
            raise Undefined(f"nothing of this kind is known about {x!r}")
        fact = facts[x]
        return fact.text(language) if isinstance(fact, Pair) else fact

    return run


def name(row) -> Pair:
    return row.name


# How people ask for them ---------------------------------------------------------------------------------------------

OF_COUNTRIES = (
    Operation(
        "capital", "facts", "country", "city", lookup(column(COUNTRIES, name, lambda row: row.capital)),
        Phrases(("name the capital of {x}", "say which city is the capital of {x}", "look up the capital of {x}"),
                ("the capital of {x}", "the capital city of {x}")),
        Phrases(("指出{x}的首都", "说说{x}的首都是哪座城市", "查一查{x}的首都"), ("{x}的首都", "{x}的都城")),
    ),
    Operation(
        "country_of_capital", "facts", "city", "country", lookup(column(COUNTRIES, lambda row: row.capital, name)),
        Phrases(("name the country whose capital is {x}", "say which country has {x} as its capital",
                 "look up the country that is governed from {x}"),
                ("the country whose capital is {x}", "the country with {x} as its capital")),
        Phrases(("指出以{x}为首都的国家", "说说{x}是哪个国家的首都", "查一查哪个国家定都{x}"),
                ("以{x}为首都的国家", "定都{x}的国家")),
    ),
    Operation(
        "currency", "facts", "country", "currency", lookup(column(COUNTRIES, name, lambda row: row.currency)),
        Phrases(("name the currency of {x}", "say what people pay with in {x}", "look up the money used in {x}"),
                ("the currency of {x}", "the money used in {x}")),
        Phrases(("指出{x}的货币", "说说在{x}用什么钱付账", "查一查{x}流通的货币"), ("{x}的货币", "{x}使用的货币")),
    ),
    Operation(
        "continent", "facts", "country", "continent", lookup(column(COUNTRIES, name, lambda row: row.continent)),
        Phrases(("name the continent of {x}", "say which part of the world {x} belongs to",
                 "look up the continent to which {x} belongs"),
                ("the continent of {x}", "the continent to which {x} belongs")),
        Phrases(("指出{x}所属的大洲", "说说{x}在哪个大洲", "查一查{x}位于哪一洲"), ("{x}所在的大洲", "{x}所属的大洲")),
    ),
    Operation(
        "language", "facts", "country", "language", lookup(column(COUNTRIES, name, lambda row: row.language)),
        Phrases(("name the official language of {x}", "say which language is spoken in {x}",
                 "look up the language of {x}"),
                ("the official language of {x}", "the language spoken in {x}")),
        Phrases(("指出{x}的官方语言", "说说{x}的人讲什么语言", "查一查{x}通行的语言"),
                ("{x}的官方语言", "{x}通行的语言")),
    ),
)

OF_ELEMENTS = (
    Operation(
        "symbol", "facts", "element", "symbol", lookup(column(ELEMENTS, name, lambda row: row.symbol)),
        Phrases(("name the chemical symbol of {x}", "say how chemists abbreviate {x}",
                 "look up the sign for {x} in the periodic table"),
                ("the chemical symbol of {x}", "the abbreviation for {x} in the periodic table")),
        Phrases(("指出{x}的化学符号", "说说化学家怎样缩写{x}", "查一查{x}在周期表中的符号"),
                ("{x}的化学符号", "{x}的元素符号")),
    ),
    Operation(
        "element_of_symbol", "facts", "symbol", "element", lookup({row.symbol: row.name for row in ELEMENTS}),
        Phrases(("name the element that {x} stands for", "say which element is abbreviated as {x}",
                 "look up the element behind {x}"),
                ("the element that {x} stands for", "the element abbreviated as {x}")),
        Phrases(("指出{x}代表的元素", "说说{x}是哪种元素的符号", "查一查{x}表示什么元素"),
                ("{x}代表的元素", "用{x}表示的元素")),
    ),
    Operation(
        "atomic_number", "facts", "element", "number", lookup(column(ELEMENTS, name, lambda row: row.number)),
        Phrases(("name the atomic number of {x}", "say how many protons an atom of {x} has",
                 "look up the place of {x} in the periodic table"),
                ("the atomic number of {x}", "the proton count of {x}")),
        Phrases(("指出{x}的原子序数", "数一数{x}的原子有几个质子", "查一查{x}在周期表中排第几"),
                ("{x}的原子序数", "{x}的质子数")),
    ),
    Operation(
        "element_of_number", "facts", "number", "element", lookup({row.number: row.name for row in ELEMENTS}),
        Phrases(("name the element whose atomic number is {x}", "say which element has {x} as its atomic number",
                 "look up the element that has {x} as its proton count"),
                ("the element whose atomic number is {x}", "the element with {x} as its proton count")),
        Phrases(("指出原子序数为{x}的元素", "说说哪种元素的原子序数是{x}", "查一查周期表中序号为{x}的元素"),
                ("原子序数为{x}的元素", "质子数为{x}的元素")),
    ),
)

OF_ANIMALS = (
    Operation(
        "young", "facts", "animal", "word", lookup(column(ANIMALS, name, lambda row: row.young)),
        Phrases(("name the young of {x}", "say what the young of {x} is called", "look up the word for a baby of {x}"),
                ("the young of {x}", "the name for the young of {x}")),
        Phrases(("指出{x}的幼崽叫什么", "说说{x}小时候叫什么", "查一查{x}的幼体叫什么"), ("{x}的幼崽", "{x}的幼体")),
    ),
    Operation(
        "sound", "facts", "animal", "word", lookup(column(ANIMALS, name, lambda row: row.sound)),
        Phrases(("name the sound that {x} makes", "say what noise {x} makes", "imitate the call of {x}"),
                ("the sound made by {x}", "the call of {x}")),
        Phrases(("指出{x}的叫声", "学一学{x}怎么叫", "模仿{x}的叫声"), ("{x}的叫声", "{x}发出的声音")),
    ),
    Operation(
        "legs", "facts", "animal", "number", lookup(column(ANIMALS, name, lambda row: row.legs)),
        Phrases(("count the legs of {x}", "say how many legs {x} has", "look up how many legs {x} walks on"),
                ("the number of legs of {x}", "the leg count of {x}")),
        Phrases(("数一数{x}有几条腿", "说说{x}长着几条腿", "查一查{x}的腿数"), ("{x}的腿数", "{x}所长腿的条数")),
    ),
    Operation(
        "animal_class", "facts", "animal", "word", lookup(column(ANIMALS, name, lambda row: row.group)),
        Phrases(("name the class of animals that {x} belongs to", "say which class of animals {x} is in",
                 "sort {x} into its class of animals"),
                ("the class of animals that {x} belongs to", "the zoological class of {x}")),
        Phrases(("指出{x}属于哪一类动物", "说说{x}是哪类动物", "把{x}归入动物的一大类"),
                ("{x}所属的动物类别", "{x}在动物学上的类别")),
    ),
)

OF_PLANETS = (
    Operation(
        "next_planet", "facts", "planet", "planet",
        lookup({key: planet for key, planet in neighbours(PLANETS, 1).items() if key not in PLANETS[-1].name}),
        Phrases(("name the planet just beyond {x}", "say which planet is next outwards from {x}",
                 "move from {x} one planet away from the sun"),
                ("the planet just beyond {x}", "the next planet outwards from {x}")),
        Phrases(("指出{x}外侧的下一颗行星", "说说从{x}往外数下一颗行星是什么", "从{x}向远离太阳的方向移一颗行星"),
                ("{x}外侧的相邻行星", "{x}往外的下一颗行星")),
    ),
    Operation(
        "planet_position", "facts", "planet", "number", lookup(column(PLANETS, name, lambda row: row.position)),
        Phrases(("say which place {x} has counting from the sun", "count the planets from the sun up to {x}",
                 "rank {x} among the planets by nearness to the sun"),
                ("the place of {x} counting from the sun", "the rank of {x} by nearness to the sun")),
        Phrases(("数一数{x}离太阳是第几颗行星", "说说{x}在太阳系里由内向外排第几", "查一查{x}在行星中的次序"),
                ("{x}离太阳由近到远的位次", "{x}在行星中的次序")),
    ),
)

OF_MONTHS = (
    Operation(
        "month_number", "calendar", "month", "number", lookup(column(MONTHS, name, lambda row: row.number)),
        Phrases(("say which number {x} has in the calendar", "count the months from January up to {x}",
                 "look up the place of {x} in the year"),
                ("the calendar number of {x}", "the place of {x} in the year")),
        Phrases(("说说{x}是一年中的第几个月", "数一数{x}在一年里排第几", "查一查{x}的月序"),
                ("{x}的月序", "{x}在一年中的序号")),
    ),
    Operation(
        "month_of_number", "calendar", "number", "month", lookup({row.number: row.name for row in MONTHS}),
        Phrases(("name the month whose calendar number is {x}", "say which month has {x} as its calendar number",
                 "look up the month that has {x} as its place in the year"),
                ("the month whose calendar number is {x}", "the month with {x} as its place in the year")),
        Phrases(("指出月序为{x}的月份", "说说哪个月的月序是{x}", "查一查一年中序号为{x}的月份"),
                ("月序为{x}的月份", "一年中序号为{x}的月份")),
    ),
    Operation(
        "next_month", "calendar", "month", "month", lookup(neighbours(MONTHS, 1)),
        Phrases(("name the month after {x}", "say which month follows {x}", "move {x} one month forward"),
                ("the month after {x}", "the month that follows {x}")),
        Phrases(("指出{x}的下一个月", "说说{x}过后是哪个月", "把{x}往后推一个月"), ("{x}的下一个月", "{x}后面的月份")),
    ),
    Operation(
        "previous_month", "calendar", "month", "month", lookup(neighbours(MONTHS, -1)),
        Phrases(("name the month before {x}", "say which month precedes {x}", "move {x} one month back"),
                ("the month before {x}", "the month that precedes {x}")),
        Phrases(("指出{x}的上一个月", "说说比{x}早一个月是哪个月", "把{x}往前推一个月"),
                ("{x}的上一个月", "{x}前面的月份")),
    ),
    Operation(
        "days_in_month", "calendar", "month", "number", lookup(column(MONTHS, name, lambda row: row.days)),
        Phrases(("count the days of {x} in a common year", "say how many days {x} has in a common year",
                 "look up the length of {x} in days"),
                ("the number of days in {x}", "the length of {x} in days")),
        Phrases(("数一数{x}平年有多少天", "说说{x}在平年里有几天", "查一查{x}的天数"), ("{x}的天数", "{x}平年的日数")),
    ),
    Operation(
        "season", "calendar", "month", "word", lookup(column(MONTHS, name, lambda row: row.season)),
        Phrases(("name the season of {x}", "say which season {x} belongs to", "sort {x} into its season"),
                ("the season of {x}", "the season to which {x} belongs")),
        Phrases(("指出{x}所属的季节", "说说{x}是什么季节", "看看{x}在哪个季节"), ("{x}所属的季节", "{x}所在的季节")),
    ),
)

OF_WEEKDAYS = (
    Operation(
        "next_weekday", "calendar", "weekday", "weekday", lookup(neighbours(WEEKDAYS, 1)),
        Phrases(("name the day after {x}", "say which day follows {x}", "move {x} one day forward"),
                ("the day after {x}", "the day that follows {x}")),
        Phrases(("指出{x}的下一天是星期几", "说说{x}过后是星期几", "把{x}往后推一天"), ("{x}的下一天", "{x}的次日")),
    ),
    Operation(
        "previous_weekday", "calendar", "weekday", "weekday", lookup(neighbours(WEEKDAYS, -1)),
        Phrases(("name the day before {x}", "say which day precedes {x}", "move {x} one day back"),
                ("the day before {x}", "the day that precedes {x}")),
        Phrases(("指出{x}的前一天是星期几", "说说比{x}早一天是星期几", "把{x}往前推一天"),
                ("{x}的前一天", "{x}的上一天")),
    ),
    Operation(
        "is_weekend", "calendar", "weekday", "truth", lookup(column(WEEKDAYS, name, lambda row: row.weekend)),
        Phrases(("check whether {x} is part of the weekend", "decide if {x} belongs to the weekend",
                 "say whether {x} falls on a weekend", "test if {x} is a weekend day")),
        Phrases(("判断{x}是不是周末", "检查{x}是否属于周末", "看看{x}在不在周末", "说说{x}算不算周末")),
    ),
)

OPERATIONS: tuple[Operation, ...] = OF_COUNTRIES + OF_ELEMENTS + OF_ANIMALS + OF_PLANETS + OF_MONTHS + OF_WEEKDAYS
