"""Plans and constrained writing: examples by hand, properties by brute force, and words that mean one thing."""

from collections import defaultdict
from itertools import permutations, product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct.world import lexicon, lists, numbers, plans, writing
from instruct.world.operation import ITEM, SAME, Undefined, is_a, language_of
from instruct.world.program import Program, World

WORLD = World(numbers.OPERATIONS + lists.OPERATIONS + plans.OPERATIONS + writing.OPERATIONS)
seeds = st.integers(0, 2**32).map(Random)
languages = st.sampled_from(["en", "zh"])

EXAMPLES = {  # input = output, computed by hand; a tie goes to what the text mentions earlier
    "route": "A-B B-C C-D B-D ; A D = A B D, 山-河 河-海 ; 海 山 = 海 河 山, A-B ; A A = A, "
    "A-C C-D A-B B-D ; A D = A C D, A-B B-D A-C C-D ; A D = A B D",
    "route_length": "A-B B-C C-D B-D ; A D = 2, A-B ; B B = 0",
    "reachable": "A-B B-C ; C A = yes, A-B C-D ; A D = no",
    "next_to_start": "B-A C-A D-B ; A D = B C, 山-河 河-海 ; 山 海 = 河",
    "return_way": "A-B B-C ; A C = A-B B-C ; C A",
    "order_tasks": "cook<eat shop<cook = shop cook eat, 煮<吃 买<吃 = 煮 买 吃, c<a b<a = c b a",
    "ready_tasks": "cook<eat shop<cook = shop, c<a b<a = c b",
    "count_rounds": "cook<eat shop<cook = 3, c<a b<a = 2",
    "unstack": "a b c | d e = c b e, 红 蓝 | 绿 = 蓝, a | b = none",
    "tower_height": "a b c | d e = 3, a | b = 1",
    "free_blocks": "a b c | d e = c e, 红 | 绿 = 红 绿",
    "single_tower": "a b | c d e | f = a b e d c f, 红 | 绿 = 红 绿",
}
UNDEFINED = {
    "route": ["A-B C-D ; A C", "A-B", "A-B ; A", "A-B ; A C", "A-A ; A A", "A-B B-A ; A B", "A-B- ; A B", "; A B",
              "A B ; A B", "A-B ; A B C", "A-B C-3 ; A B", "nothing"],
    "route_length": ["A-B C-D ; A C"],
    "reachable": ["A-B ; A C"],
    "order_tasks": ["a<b b<a", "a<b b<c c<a", "a<a", "a<b a<b", "a<", "a b", "a<b<c"],
    "ready_tasks": ["a<b b<a"],
    "unstack": ["a b | b", "a |", "| a", "a || b", "a-b"],
    "words_starting 2": ["q", "龘"],
    "same_length 3": ["a", "incomprehensible", "龘龘龘龘龘龘"],
    "same_kind 2": ["gobbledygook", "龘龘"],
    "odd_above 2": ["9998"],
    "sentence_with": ["gobbledygook", "sleep", "France"],
}  # fmt: skip


def answer(program: str, text: str, language: str = "en") -> str:
    return WORLD.run(Program.read(program), text, language)


@pytest.mark.parametrize("program", EXAMPLES)
def test_examples_by_hand(program):
    for example in EXAMPLES[program].split(", "):
        text, expected = example.split(" = ")
        assert answer(program, text) == expected


def test_every_plan_has_an_example():
    assert EXAMPLES.keys() == {operation.name for operation in plans.OPERATIONS}


@pytest.mark.parametrize("program", UNDEFINED)
def test_no_answer_where_there_is_none(program):
    for text in UNDEFINED[program]:
        with pytest.raises(Undefined):
            answer(program, text)


# Routes --------------------------------------------------------------------------------------------------------------


def all_routes(graph: plans.Graph) -> list[list[str]]:
    """Every way from start to goal that visits no place twice: by trying all of them."""
    complete, open_routes = [], [[graph.start]]
    while open_routes:
        route = open_routes.pop()
        if route[-1] == graph.goal:
            complete.append(route)
        else:
            open_routes += [[*route, place] for place in graph.roads[route[-1]] if place not in route]
    return complete


@st.composite
def graphs(draw) -> str:
    """Any map of up to five places, with ties, islands and a goal that may be the start."""
    edges = draw(st.lists(st.sampled_from(["AB", "AC", "AD", "BC", "BD", "CD", "CE", "DE"]), min_size=1, unique=True))
    ends = [draw(st.sampled_from(sorted(set("".join(edges))))) for _ in range(2)]
    return f"{' '.join('-'.join(edge) for edge in edges)} ; {' '.join(ends)}"


@given(graphs())
def test_a_route_is_the_shortest_and_of_these_the_one_mentioned_earliest(text):
    graph = plans.read_graph(text)
    rank = {place: number for number, place in enumerate(graph.roads)}
    routes = all_routes(graph)
    assert answer("reachable", text) == ("yes" if routes else "no")
    if routes:
        best = min(routes, key=lambda route: (len(route), [rank[place] for place in route]))
        assert answer("route", text).split() == best
        assert answer("route_length", text) == str(len(best) - 1)
        assert answer("route_length", answer("return_way", text)) == str(len(best) - 1)
    assert answer("return_way", answer("return_way", text)) == text


@given(seeds, languages)
def test_a_sampled_map_has_one_shortest_route_or_none(rng, language):
    text = plans.sample_graph(rng, language)
    assert language_of(text) == language
    routes = sorted(all_routes(plans.read_graph(text)), key=len)
    if routes:
        assert len(routes[0]) >= 3
        assert len(routes) == 1 or len(routes[0]) < len(routes[1])
        assert answer("route | reverse_list", text) == answer("return_way | route", text)


# Tasks and blocks ----------------------------------------------------------------------------------------------------


@given(seeds, languages)
def test_an_order_respects_all_conditions_and_is_the_smallest(rng, language):
    text = plans.sample_tasks(rng, language)
    assert language_of(text) == language
    conditions = [pair.split("<") for pair in text.split()]
    mentioned = list(dict.fromkeys(task for pair in conditions for task in pair))
    allowed = [
        order for order in permutations(mentioned)
        if all(order.index(earlier) < order.index(later) for earlier, later in conditions)
    ]  # fmt: skip
    order = answer("order_tasks", text).split()
    assert order == list(allowed[0]) != mentioned  # permutations come in the order of mention
    assert order[0] == answer("ready_tasks | first", text)
    levels = {task: 1 for task in order}
    for earlier, later in sorted(conditions, key=lambda pair: order.index(pair[0])):
        levels[later] = max(levels[later], levels[earlier] + 1)
    assert answer("count_rounds", text) == str(max(levels.values()))


def on_the_table(towers: list[list[str]], moves: list[str]) -> list[list[str]]:
    """What stands there when each of these blocks has been lifted from the top of its tower onto the table."""
    for block in moves:
        (tower,) = (tower for tower in towers if tower[-1] == block)
        assert len(tower) > 1, "it lies on the table already"
        towers = [[*row[:-1]] if row is tower else row for row in towers] + [[block]]
    return towers


@given(seeds, languages)
def test_unstacking_leaves_every_block_on_the_table(rng, language):
    text = plans.sample_blocks(rng, language)
    assert language_of(text) == language
    towers = plans.read_blocks(text)
    moves = plans.unstacking(towers)
    assert moves and all(len(tower) == 1 for tower in on_the_table(towers, moves))
    assert answer("single_tower | tower_height", text) == str(sum(map(len, towers)))
    assert answer("free_blocks | count_items", text) == str(len(towers))
    assert answer("single_tower | unstack | count_items", text) == str(sum(map(len, towers)) - 1)


@pytest.mark.parametrize("sample", [plans.sample_graph, plans.sample_tasks, plans.sample_blocks])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_inputs_follow_from_the_seed_and_differ(sample, language):
    """Of 200 draws more than 150 are different, and the same seed gives the same ones."""
    first, second = ([sample(rng, language) for _ in range(200)] for rng in (Random(1), Random(1)))
    assert first == second
    assert len(set(first)) > 150


def test_a_quarter_of_the_maps_has_no_route():
    """800 draws at a rate of 1/4: outside 18 % to 32 % once in about 200,000 seeds, and this seed is fixed."""
    rng = Random(2)
    answers = [answer("reachable", plans.sample_graph(rng, "en")) for _ in range(800)]
    assert 0.18 < answers.count("no") / 800 < 0.32


# Writing -------------------------------------------------------------------------------------------------------------


def words(language: str) -> list[str]:
    return [word for category in lexicon.CATEGORIES for word in lexicon.words_of(category, language)]


INPUTS = {
    "letter": [(letter, "en") for letter in "abcdefghijklmnopqrstuvwxyz"] + [(word[0], "zh") for word in words("zh")],
    "number": [(str(number), language) for number in (*range(-25, 120), 9999, -9999) for language in ("en", "zh")],
    "word": [(word, language) for language in ("en", "zh") for word in words(language)],
}


@pytest.mark.parametrize("operation", writing.OPERATIONS, ids=lambda operation: operation.name)
def test_every_written_answer_holds(operation):
    written = 0
    for (text, language), argument in product(INPUTS[operation.takes], operation.arguments or (None,)):
        program = Program.read(operation.name if argument is None else f"{operation.name} {argument}")
        try:
            output = WORLD.run(program, text, language)
        except Undefined:
            continue
        assert WORLD.holds(program, text, output, language), (text, output)
        assert operation.takes != "word" or language_of(output) == language
        written += 1
    assert written >= 10


@pytest.mark.parametrize(
    ("program", "text", "right", "wrong"),
    [
        ("odd_above 2", "7", ["9 11", "13 9"], ["7 9", "9", "9 9", "9 10", "9 11 13", "none", "nine eleven"]),
        ("odd_above 3", "-4", ["-3 5 -1"], ["-5 1 3"]),
        ("adding_up_to 2", "8", ["3 5", "-2 10"], ["4 4", "8", "3 6", "1 2 5"]),
        ("adding_up_to 3", "6", ["1 2 3"], ["2 2 2", "1 5"]),
        ("sentence_with", "cat", ["the dog chased a cat", "the happy cat does not eat an apple"],
         ["the dog chased a cow", "the dog chased the cat", "cat", "a cat", "狗追赶猫", "the catcher chased a cat"]),
        ("sentence_with", "eat", ["does the cat eat an apple?"], ["the cat eats an apple"]),
        ("sentence_with", "猫", ["狗追赶了猫"], ["狗追赶牛", "the dog chased a cat", "猫"]),
        ("calculation_of", "12", ["7 + 5", "3 * 4", "20 - 2 * 4"], ["12", "7 + 6", "7+5", "twelve", "2 ** 3"]),
    ],
)  # fmt: skip
def test_holds_accepts_every_right_answer_and_no_wrong_one(program, text, right, wrong):
    assert all(WORLD.holds(Program.read(program), text, each) for each in right)
    assert not any(WORLD.holds(Program.read(program), text, each) for each in wrong)


def test_words_must_be_different_known_and_fit():
    first, second, *_ = lexicon.words_of("animal", "en")
    colour = lexicon.words_of("colour", "en")[0]
    others = lexicon.words_of("animal", "en")[2:4]
    program = Program.read("same_kind 2")
    assert WORLD.holds(program, first, " ".join(others))
    for wrong in (f"{first} {second}", f"{second} {second}", f"{second} {colour}", f"{second} blorp", second):
        assert not WORLD.holds(program, first, wrong)
    same_length = [word for word in words("en") if len(word) == len(first) and word != first]
    program = Program.read("same_length 2")
    assert WORLD.holds(program, first, " ".join(same_length[-2:]))
    assert not WORLD.holds(program, first + "s", " ".join(same_length[-2:]))
    assert not WORLD.holds(program, first, f"{first} {same_length[0]}")
    assert not WORLD.holds(Program.read("words_starting 2"), "b", "bzzz bzzzz")


# Words that mean one thing -------------------------------------------------------------------------------------------


def said(slot: str, language: str) -> list[tuple[str, object, str]]:
    """(operation and argument, the operation, phrase with its argument filled in)."""
    return [
        (f"{operation.name} {argument}", operation, phrase.replace("{k}", phrases.say(argument)))
        for operation in WORLD.operations
        for phrases in [operation.phrases(language)]
        for argument in operation.arguments or (None,)
        for phrase in getattr(phrases, slot)
    ]


def fits(inner, outer) -> bool:
    """Whether `outer` may be applied to what `inner` gives."""
    gives = {SAME: inner.takes, ITEM: "word"}.get(inner.gives, inner.gives)
    return inner.gives in (SAME, ITEM) or is_a(gives, outer.takes)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_two_programs_are_said_alike(language):
    """Single phrases, nouns in nouns and nouns in verbs: one text, one chain of operations."""
    nouns, verbs = said("nouns", language), said("verbs", language)
    meanings = defaultdict(set)
    for name, _, phrase in nouns + verbs:
        meanings[phrase].add(name)
    for (inner, first, noun), (outer, second, phrase) in product(nouns, nouns + verbs):
        if fits(first, second):
            meanings[phrase.replace("{x}", noun)].add(f"{inner} | {outer}")
    assert {text: found for text, found in meanings.items() if len(found) > 1} == {}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_phrase_holds_what_joins_clauses_or_is_written_twice(language):
    joints = {"en": ["then", "finally", ",", ".", "?", " result"], "zh": [*"，。？再先", "然后", "最后", "结果"]}
    for operation in WORLD.operations:
        phrases = operation.phrases(language)
        every = [*phrases.verbs, *phrases.nouns]
        assert len(phrases.verbs) >= 3 and len(every) == len(set(every)), operation.name
        assert not [phrase for phrase in every if any(joint in phrase for joint in joints[language])], operation.name


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_noun_opens_or_closes_with_its_object_or_encloses_it(language):
    """A noun that begins (English) or ends (Chinese) with its object could be cut in two ways inside another."""
    for name, _, noun in said("nouns", language):
        assert not (noun.startswith("{x}") if language == "en" else noun.endswith("{x}")), name
