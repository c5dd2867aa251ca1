"""Planning in small: routes through a map, orders for tasks, and towers of blocks.

    "A-B B-C C-D B-D ; A D"       a graph: roads that run both ways; from A, to D
    "wash<cook cook<eat"          tasks: what stands before "<" must be done earlier
    "red blue | green"            blocks: towers from left to right, each from bottom to top

What it is. The families "route", "tasks" and "blocks": readers of these texts, operations on them, and seeded makers
of inputs (`sample_graph`, `sample_tasks`, `sample_blocks`) whose answers are not just a copy of the input.

Why so. A plan is right or wrong, and a reader can see which. Where several plans are equally short or equally allowed,
the one is meant that puts what the text mentions earlier in an earlier place; so every question has one answer, in
English and in Chinese, without an alphabet. A map that is sampled has one shortest route only.

What it leaves out. Distances other than steps, durations, blocks that must end in a given place.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from random import Random

from instruct.world import lexicon
from instruct.world.operation import Operation, Phrases, Undefined

NAME = re.compile(r"[^\W\d_]+")
LETTERS = "ABCDEFGH"
STEMS = "甲乙丙丁戊己庚辛"  # the heavenly stems: what letters are for a Chinese reader
UNREACHABLE = 0.25  # share of sampled maps without a route

# What is read --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Graph:
    """`roads[place]` are its neighbours; places and neighbours in the order in which the text mentions them."""

    roads: dict[str, list[str]]
    start: str
    goal: str


def pairs(text: str, sign: str) -> list[tuple[str, str]]:
    """Of "a<b c<d" with the sign "<": [("a", "b"), ("c", "d")]. Undefined for all else, and for a pair said twice."""
    found = []
    for part in text.split():
        names = tuple(part.split(sign))
        if len(names) != 2 or names[0] == names[1] or not all(map(NAME.fullmatch, names)):
            raise Undefined(f"{part!r} does not join two names with {sign!r}")
        found.append(names)
    if not found or len(set(found)) < len(found):
        raise Undefined(f"{text!r} says nothing, or says something twice")
    return found


def read_graph(text: str) -> Graph:
    """Raises Undefined where the text is no map, or one without its start or goal."""
    edges, bar, ends = text.partition(";")
    roads = {}
    for one, other in pairs(edges, "-"):
        roads.setdefault(one, []).append(other)
        roads.setdefault(other, []).append(one)
    if not bar or len(ends.split()) != 2 or not set(ends.split()) <= roads.keys():
        raise Undefined(f"{text!r} does not end with a start and a goal of the map")
    if any(len(set(places)) < len(places) for places in roads.values()):
        raise Undefined(f"{text!r} has a road twice")
    mentioned = {place: rank for rank, place in enumerate(roads)}
    ordered = {place: sorted(places, key=mentioned.get) for place, places in roads.items()}
    return Graph(ordered, *ends.split())


def read_tasks(text: str) -> dict[str, set[str]]:
    """What each task needs done earlier; tasks in the order in which the text mentions them.

    Raises Undefined where the text is no list of conditions, or one that goes round in a circle.
    """
    needs = {}
    for earlier, later in pairs(text, "<"):
        needs.setdefault(earlier, set())
        needs.setdefault(later, set()).add(earlier)
    order(needs)
    return needs


def read_blocks(text: str) -> list[list[str]]:
    """Towers, each from bottom to top. Raises Undefined where one is empty or a block is there twice."""
    towers = [tower.split() for tower in text.split("|")]
    blocks = [block for tower in towers for block in tower]
    if not all(towers) or len(set(blocks)) < len(blocks) or not all(map(NAME.fullmatch, blocks)):
        raise Undefined(f"{text!r} is not a row of towers of different blocks")
    return towers


# What they compute ---------------------------------------------------------------------------------------------------


def distances(graph: Graph, place: str) -> dict[str, int]:
    """Steps from `place` to every place that can be reached from it."""
    steps, waiting = {place: 0}, deque([place])
    while waiting:
        here = waiting.popleft()
        for there in graph.roads[here]:
            if there not in steps:
                steps[there] = steps[here] + 1
                waiting.append(there)
    return steps


def shortest_route(graph: Graph) -> list[str]:
    """Places from start to goal; at each fork the place mentioned earliest. Raises Undefined where there is no way."""
    left = distances(graph, graph.goal)
    if graph.start not in left:
        raise Undefined("the goal cannot be reached")
    route = [graph.start]
    while left[route[-1]]:
        route.append(next(place for place in graph.roads[route[-1]] if left.get(place) == left[route[-1]] - 1))
    return route


def reachable(graph: Graph) -> bool:
    return graph.goal in distances(graph, graph.start)


def neighbours(graph: Graph) -> list[str]:
    return graph.roads[graph.start]


def return_way(text: str) -> str:
    graph = read_graph(text)
    return f"{' '.join(text.partition(';')[0].split())} ; {graph.goal} {graph.start}"


def order(needs: dict[str, set[str]]) -> list[str]:
    """All tasks, each behind what it needs; of those that can be done next, the one mentioned earliest."""
    done = []
    while len(done) < len(needs):
        free = [task for task in needs if task not in done and needs[task] <= set(done)]
        if not free:
            raise Undefined("the conditions go round in a circle")
        done.append(free[0])
    return done


def ready(needs: dict[str, set[str]]) -> list[str]:
    return [task for task in needs if not needs[task]]


def rounds(needs: dict[str, set[str]]) -> int:
    """Rounds that are needed if any number of tasks can be done at the same time: the longest chain."""
    height = {}
    for task in order(needs):
        height[task] = 1 + max((height[need] for need in needs[task]), default=0)
    return max(height.values())


def unstacking(towers: list[list[str]]) -> list[str]:
    """The blocks in the order in which they are put on the table: tower by tower, each from its top."""
    return [block for tower in towers for block in tower[:0:-1]]


def single_tower(towers: list[list[str]]) -> str:
    """Everything on the leftmost tower, block by block from the tops of the others."""
    return " ".join([*towers[0], *(block for tower in towers[1:] for block in tower[::-1])])


# Inputs --------------------------------------------------------------------------------------------------------------


def names(rng: Random, category: str, language: str, count: int) -> list[str]:
    """Different names: letters (English) or stems (Chinese), or words of one category of the lexicon."""
    words = [word for word in lexicon.words_of(category, language) if NAME.fullmatch(word)]
    plain = LETTERS if language == "en" else STEMS
    return rng.sample(plain, count) if rng.random() < 0.5 else rng.sample(words, count)


def sample_graph(rng: Random, language: str) -> str:
    """A map of five to seven places: one shortest route of at least two steps, or (one in four) none at all."""
    reachable = rng.random() >= UNREACHABLE
    while True:
        places = names(rng, "building", language, rng.randint(5, 7))
        cut = len(places) if reachable else rng.randint(2, len(places) - 2)
        edges = [edge for part in (places[:cut], places[cut:]) for edge in joined(rng, part)]
        rng.shuffle(edges)
        ends = rng.sample(places, 2) if reachable else rng.sample([places[0], places[-1]], 2)
        text = f"{' '.join('-'.join(rng.sample(edge, 2)) for edge in edges)} ; {' '.join(ends)}"
        if not reachable or has_one_long_route(read_graph(text)):
            return text


def joined(rng: Random, places: list[str]) -> list[tuple[str, str]]:
    """Roads that join the places: a tree and, where there is room, one road more."""
    tree = [(places[rng.randrange(number)], places[number]) for number in range(1, len(places))]
    others = [(one, two) for rank, two in enumerate(places) for one in places[:rank] if (one, two) not in tree]
    return tree + rng.sample(others, min(1, len(others)))


def has_one_long_route(graph: Graph) -> bool:
    """Whether the route has two steps or more and there is no second one as short: no fork on it leads nearer."""
    left = distances(graph, graph.goal)
    return left[graph.start] >= 2 and all(
        sum(left[place] == left[here] - 1 for place in graph.roads[here]) <= 1 for here in shortest_route(graph)
    )


def sample_tasks(rng: Random, language: str) -> str:
    """Three to five tasks with as many conditions or one fewer; their order is not the order of their mention."""
    while True:
        tasks = names(rng, "verb", language, rng.randint(3, 5))
        conditions = [rng.sample(range(len(tasks)), 2) for _ in range(len(tasks) - rng.randint(0, 1))]
        sentences = dict.fromkeys(f"{tasks[min(pair)]}<{tasks[max(pair)]}" for pair in conditions)
        text = " ".join(sentences)
        needs = read_tasks(text)
        if len(needs) == len(tasks) and order(needs) != list(needs):
            return text


def sample_blocks(rng: Random, language: str) -> str:
    """Four to six blocks in two or three towers, so that one of them is at least two high."""
    blocks = names(rng, "colour", language, rng.randint(4, 6))
    cuts = sorted(rng.sample(range(1, len(blocks)), rng.randint(1, 2)))
    return " | ".join(" ".join(blocks[low:high]) for low, high in zip([0, *cuts], [*cuts, len(blocks)]))


# How people ask for them ---------------------------------------------------------------------------------------------

ROUTES = (
    Operation(
        "route", "route", "graph", "words", lambda x, k, language: shortest_route(read_graph(x)),
        Phrases(("walk from start to goal in {x} in as few steps as possible", "plan the quickest way through {x}",
                 "trace the shortest route across {x}"),
                ("the shortest route from start to goal in {x}", "the quickest path through {x}")),
        Phrases(("在{x}上用最少的步数从起点走到终点", "为{x}规划最短的路线", "沿{x}走一条从起点到终点的捷径"),
                ("{x}中从起点到终点的最短路线", "{x}上最短的路径")),
    ),
    Operation(
        "route_length", "route", "graph", "number", lambda x, k, language: len(shortest_route(read_graph(x))) - 1,
        Phrases(("count the steps of the shortest route in {x}", "measure the distance from start to goal in {x}",
                 "see how few steps lead from start to goal in {x}"),
                ("the number of steps on the shortest route in {x}", "the distance between start and goal in {x}")),
        Phrases(("数一数{x}中的最短路线有几步", "量一量{x}里起点到终点的距离", "看看在{x}上最少走几步能到终点"),
                ("{x}中最短路线的步数", "{x}里起点与终点的距离")),
    ),
    Operation(
        "reachable", "route", "graph", "truth", lambda x, k, language: reachable(read_graph(x)),
        Phrases(("check whether the goal can be reached in {x}", "decide if any route joins start and goal in {x}",
                 "say whether start and goal are connected in {x}", "test {x} for a way from start to goal")),
        Phrases(("判断在{x}上能不能走到终点", "检查{x}的起点与终点是否连通", "看看{x}里有没有从起点到终点的路",
                 "说说在{x}中是否到得了终点")),
    ),
    Operation(
        "next_to_start", "route", "graph", "words", lambda x, k, language: neighbours(read_graph(x)),
        Phrases(("list the places next to the start in {x}", "look around the start in {x} for direct neighbours",
                 "collect every place one step away from the start in {x}"),
                ("the list of places next to the start in {x}", "the neighbourhood of the start in {x}")),
        Phrases(("列出{x}中与起点直接相连的地方", "看看从{x}的起点走一步能到哪些地方", "收集{x}里起点的所有邻居"),
                ("{x}中起点的邻居", "{x}里与起点相邻的地方")),
    ),
    Operation(
        "return_way", "route", "graph", "graph", lambda x, k, language: return_way(x),
        Phrases(("exchange start and goal in {x}", "set {x} up for the way back",
                 "let start and goal of {x} trade roles"),
                ("the version of {x} for the way back", "the form of {x} with start and goal exchanged")),
        Phrases(("交换{x}的起点和终点", "把{x}改成返程用的", "让{x}的起点与终点互换"),
                ("{x}的返程形式", "{x}起点终点互换的形式")),
    ),
)

TASKS = (
    Operation(
        "order_tasks", "tasks", "tasks", "words", lambda x, k, language: order(read_tasks(x)),
        Phrases(("put {x} in a workable order", "arrange {x} so that every condition is met",
                 "schedule {x} one at a time"),
                ("the workable order of {x}", "the schedule for {x}")),
        Phrases(("为{x}排出可行的顺序", "安排{x}使每个条件都得到满足", "按照条件给{x}逐个排队"),
                ("{x}的可行顺序", "{x}的日程安排")),
    ),
    Operation(
        "ready_tasks", "tasks", "tasks", "words", lambda x, k, language: ready(read_tasks(x)),
        Phrases(("pick out what can start at once among {x}", "collect whatever in {x} waits for nothing else",
                 "single out from {x} what needs nothing done earlier"),
                ("the list of what can start at once among {x}", "the part of {x} that waits for nothing")),
        Phrases(("挑出{x}中可以立刻动手的", "看看{x}里哪些不必等待", "收集{x}当中没有前提的"),
                ("{x}中可以立刻开始的任务", "{x}里没有前提的任务")),
    ),
    Operation(
        "count_rounds", "tasks", "tasks", "number", lambda x, k, language: rounds(read_tasks(x)),
        Phrases(("count the rounds in which {x} can be done side by side",
                 "measure the longest chain of conditions in {x}", "see how few parallel rounds suffice for {x}"),
                ("the least number of parallel rounds for {x}", "the length of the longest chain in {x}")),
        Phrases(("数一数{x}并行做完需要几轮", "量一量{x}中最长的条件链", "看看{x}同时进行最少要几轮"),
                ("{x}并行所需的轮数", "{x}中最长链的长度")),
    ),
)

BLOCKS = (
    Operation(
        "unstack", "blocks", "blocks", "words", lambda x, k, language: unstacking(read_blocks(x)),
        Phrases(("unstack {x} tower by tower onto the table", "take {x} apart noting each block that is moved",
                 "clear {x} block by block from left to right"),
                ("the unstacking sequence of {x}", "the list of moves that clears {x}")),
        Phrases(("把{x}逐块拆到桌面上", "从左到右拆开{x}并记下搬动的积木", "将{x}一塔一塔地拆平"),
                ("{x}的拆解顺序", "{x}拆平所需的搬动")),
    ),
    Operation(
        "tower_height", "blocks", "blocks", "number", lambda x, k, language: max(map(len, read_blocks(x))),
        Phrases(("measure the tallest tower in {x}", "count the blocks of the highest tower in {x}",
                 "see how high the towers in {x} reach"),
                ("the height of the tallest tower in {x}", "the greatest tower height in {x}")),
        Phrases(("量一量{x}中最高的塔", "数一数{x}里最高那座塔的积木", "看看{x}最高叠到几层"),
                ("{x}中最高塔的层数", "{x}里最高的塔高")),
    ),
    Operation(
        "free_blocks", "blocks", "blocks", "words",
        lambda x, k, language: [tower[-1] for tower in read_blocks(x)],
        Phrases(("collect the topmost block of every tower in {x}", "pick out the blocks in {x} that carry nothing",
                 "look at {x} from above to see the uncovered blocks"),
                ("the list of topmost blocks in {x}", "the list of free blocks in {x}")),
        Phrases(("收集{x}中每座塔顶上的积木", "挑出{x}里上面没有东西的积木", "从上往下看{x}露出哪些积木"),
                ("{x}中各塔顶的积木", "{x}里可以拿起的积木")),
    ),
    Operation(
        "single_tower", "blocks", "blocks", "blocks", lambda x, k, language: single_tower(read_blocks(x)),
        Phrases(("pile {x} up on the leftmost tower", "move everything in {x} onto the tower on the left",
                 "build one tower from {x} starting on the left"),
                ("the single tower built from {x}", "the form of {x} piled up on the left")),
        Phrases(("把{x}全部叠到最左边的塔上", "将{x}其余的积木依次搬到左边的塔上", "用{x}从左边起叠成一座塔"),
                ("{x}叠成的一座塔", "{x}都叠到左边的样子")),
    ),
)

OPERATIONS: tuple[Operation, ...] = ROUTES + TASKS + BLOCKS
