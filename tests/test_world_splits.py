"""Behaviour, inputs and splits: what is the same, what is new, and that nothing of a test is in what is taught."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import UserError
from instruct.world.behaviour import Behaviour
from instruct.world.grammar import Grammar
from instruct.world.human import HUMAN
from instruct.world.inputs import CLOSED, MAKERS, POOLS, pool_of, probes, sample_defined, sample_input
from instruct.world.operation import TYPES, Undefined, language_of
from instruct.world.parse import Ambiguous, Parser, Unreadable
from instruct.world.program import Program, World, read_value, world
from instruct.world.splits import LANGUAGES, NAMES, Sizes, Splits, random_chain, sample_program, skeletons, variants

SEEDS = st.integers(0, 10**6)
read = Program.read
DIGEST = "1aac8969c6289812"
SMALL = ["sort_up", "sort_down", "reverse_list", "first", "last", "sum", "largest", "double", "square", "is_even"]
SMALL += ["add_each", "keep_even", "count_items", "drop_first", "capital", "currency", "continent", "to_english"]
SMALL += ["to_chinese", "plural", "upper", "letter_count", "first_letter", "reverse_word", "alphabetical", "longest"]
SMALL += ["keep_category", "next_month", "days_in_month", "legs"]


@pytest.fixture(scope="module")
def behaviour():
    return Behaviour(world())


@pytest.fixture(scope="module")
def splits(behaviour):
    return Splits(behaviour)


@pytest.fixture(scope="module")
def small():
    return Splits(Behaviour(world().subset(SMALL)), seed=1)


# Inputs --------------------------------------------------------------------------------------------------------------


@given(SEEDS, st.sampled_from(sorted(MAKERS)), st.sampled_from(LANGUAGES), st.sampled_from(POOLS))
def test_inputs_are_of_their_type_their_language_and_their_pool(seed, kind, language, pool):
    text = sample_input(kind, Random(seed), language, pool)
    assert text == sample_input(kind, Random(seed), language, pool)
    read_value(kind, text)
    assert language_of(text) in (None, language) or kind == "symbol"
    assert kind in CLOSED or pool_of(text) == pool


def test_every_type_that_an_operation_takes_can_be_drawn():
    assert {operation.takes for operation in world().operations} <= MAKERS.keys() <= TYPES.keys()


def test_pools_of_open_types_have_their_shares():
    drawn = Counter(pool_of(MAKERS["numbers"](Random(i), "en")) for i in range(2000))
    assert 0.64 < drawn["train"] / 2000 < 0.76 and 0.15 < drawn["test"] / 2000 < 0.25  # each wider than 5 deviations
    assert pool_of("3  1 2") == pool_of("3 1 2")


def test_operations_are_mostly_defined_on_what_is_drawn_and_rarely_constant(behaviour):
    for program in world().singles():
        operation = world().by_name[program.steps[0].name]
        found = [sample_defined(world(), program, Random(i), language) for i in range(8) for language in LANGUAGES]
        assert sum(each is not None for each in found) >= 8, operation.name  # of 16: some know one language only
        assert not behaviour.is_identity(program), program
        assert not behaviour.is_constant(program), program


# Behaviour -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sort_up | reverse_list", "sort_down"),
        ("sort_down | first", "largest"),
        ("add_each 2 | add_each 3", "add_each 5"),
        ("next_month | next_month | previous_month", "next_month"),
        ("reverse_list | last", "first"),
        ("sort_up | sum", "sum"),
    ],
)
def test_one_behaviour_has_one_fingerprint(behaviour, one, other):
    assert behaviour.same(read(one), read(other))
    assert behaviour.trivial(read(one)).startswith("equals ")
    assert not behaviour.novel(read(one), set())


def test_single_operations_have_behaviours_of_their_own(behaviour):
    found = {}
    for program in world().singles():
        found.setdefault(behaviour.fingerprint(program), []).append(str(program))
    assert [programs for programs in found.values() if len(programs) > 1] == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("reverse_list | reverse_list", "identity"),
        ("next_month | previous_month", "identity"),
        ("capital | country_of_capital", "identity"),
        ("square_each | product", "mostly undefined"),
        ("to_chinese | upper", "mostly undefined"),
        ("sort_up | differences | smallest", ""),
    ],
)
def test_what_says_nothing_is_trivial(behaviour, text, why):
    assert behaviour.trivial(read(text)) == why


def test_a_constant_is_trivial(behaviour):
    assert behaviour.is_constant(read("double | is_even"))
    assert behaviour.is_constant(read("sort_up | take 2 | count_items"))
    assert not behaviour.is_constant(read("is_even"))


def test_what_is_known_is_not_novel(behaviour):
    program = read("sort_up | item 2")
    assert behaviour.novel(program, set())
    assert not behaviour.novel(program, {behaviour.fingerprint(program)})


def test_equal_fingerprints_agree_on_fresh_inputs():
    """A longer chain that equals a shorter program gives the same on inputs that are no probes, but for rare ones: a
    fingerprint is evidence, not proof."""
    agreed = []
    for seed in range(400):
        rng = Random(seed)
        program = random_chain(world(), 2, rng)
        other = BEHAVIOUR.equal_shorter(program)
        if other is None or BEHAVIOUR.is_mostly_undefined(program):
            continue
        for language in LANGUAGES:
            drawn = sample_defined(world(), program, rng, language, "test")
            if drawn:
                agreed.append(world().run(other, drawn[0], language) == drawn[1])
    assert len(agreed) > 40 and sum(agreed) >= 0.97 * len(agreed)


BEHAVIOUR = Behaviour(world())


def test_probes_are_fixed_and_are_nobodys_inputs():
    for kind in MAKERS:
        assert probes(kind) == probes.__wrapped__(kind)
        if kind not in CLOSED | {"number"}:
            assert {pool_of(text) for text, _ in probes(kind)} == {"probe"}


# Splits --------------------------------------------------------------------------------------------------------------


def test_the_splits_are_frozen(splits):
    assert splits.digest == DIGEST
    assert len(splits.seeds) >= 400 and len(splits.held_out) >= 200 and len(splits.depth3) >= 200
    assert set(splits.singles) <= set(splits.seeds)


def test_the_same_seed_gives_the_same_splits_and_another_others(small):
    again = Splits(Behaviour(world().subset(reversed(SMALL))), seed=1)
    assert again.digest == small.digest
    assert Splits(Behaviour(world().subset(SMALL)), seed=2).digest != small.digest


@pytest.mark.parametrize("which", ["splits", "small"])
def test_nothing_that_is_held_out_is_among_the_seeds(which, request):
    splits = request.getfixturevalue(which)
    assert splits.seeds and splits.held_out and splits.depth3 and splits.open
    for program in (*splits.seeds, *splits.open):
        assert splits.touches(program) == "", program
    for program in (*splits.held_out, *splits.depth3):
        assert "is held out" in splits.touches(program)
    for program in splits.open:
        assert not splits.behaviour.fingerprints(program) & splits._seed_behaviours


@pytest.mark.parametrize("which", ["splits", "small"])
def test_held_out_pairs_are_seen_inside_longer_chains_and_in_disguise(which, request):
    splits = request.getfixturevalue(which)
    rng = Random(0)
    wrapped = 0
    for program in splits.held_out:
        for step in rng.sample(splits.world.steps(), 12):
            for longer in (Program((step, *program.steps)), Program((*program.steps, step))):
                if splits.world.well_typed(longer):
                    wrapped += 1
                    assert splits.touches(longer), longer
    assert wrapped > 50


def test_another_chain_of_the_same_behaviour_is_held_out_too(behaviour):
    """Sorted upwards and reversed is sorted downwards, so its second item is what is held out."""
    splits = Splits(Behaviour(world().subset(["sort_up", "sort_down", "reverse_list", "item", "double"])))
    splits.test_behaviours = splits.behaviour.fingerprints(read("sort_down | item 2"))
    assert splits.touches(read("sort_up | reverse_list | item 2"))
    assert splits.touches(read("sort_up | reverse_list | item 2 | double"))
    assert not splits.touches(read("sort_up | item 2"))


def test_a_pair_is_held_out_with_all_its_arguments(splits):
    pairs = {tuple(step.name for step in program.steps) for program in splits.held_out}
    for program in splits.seeds:
        assert tuple(step.name for step in program.steps) not in pairs
    for names in pairs:
        for program in variants(splits.world, names):
            assert splits.touches(program) or splits.behaviour.trivial(program)


def test_operations_of_one_language_may_not_be_taught_in_the_other(splits):
    assert {"en", "zh"} == set(splits.taught_in.values())
    for name, language in splits.taught_in.items():
        program = next(each for each in splits.singles if each.steps[0].name == name)
        other = "zh" if language == "en" else "en"
        assert splits.languages(program) == (language,)
        assert splits.touches(program, language) == ""
        assert splits.touches(program, other) == f"{name} is taught in {language} only"


@pytest.mark.parametrize("which", ["splits", "small"])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "human"])
def test_items_are_what_their_split_says(name, which, request):
    splits = request.getfixturevalue(which)
    items = splits.items(name, 60)
    parser = Parser(splits.world, splits.behaviour)
    assert items == splits.items(name, 60)
    assert len(set(items)) == len(items) == 60
    for item in items:
        given_ = item.input or item.given
        assert splits.world.holds(item.program, given_, item.output, item.language)
        reading = parser.parse(item.instruction)
        assert splits.behaviour.same(reading.program, item.program)
        assert (reading.literal or item.input) == given_ and reading.language == item.language
        takes = splits.world.signature(item.program).takes
        assert takes in CLOSED or pool_of(given_) == ("train" if name == "seeds" else "test")
        touched = splits.touches(item.program, item.language)
        assert bool(touched) == (name in ("compositions", "depth3", "language")), (item, touched)
        if name == "inputs":
            assert takes not in CLOSED


def test_unseen_phrasings_cannot_be_said_in_training(small):
    grammar = Grammar(small.world)
    for item in small.items("phrasings", 40):
        said = set(grammar.phrasings(item.program, item.language, False, None if item.input else item.given))
        assert item.instruction not in said


def test_unknown_and_empty_splits_are_refused(behaviour):
    with pytest.raises(UserError, match="there is no split 'dept3'"):
        Splits(Behaviour(world().subset(["sum", "double"]))).items("dept3", 5)
    with pytest.raises(UserError, match="too small"):
        Splits(Behaviour(world().subset(["sum", "double"])), sizes=Sizes(held_out=0)).items("compositions", 5)


def test_sampled_programs_are_worth_asking_for(behaviour):
    rng = Random(4)
    for depth in (1, 2, 3):
        for _ in range(20):
            program = sample_program(behaviour, depth, rng)
            assert len(program) == depth and behaviour.trivial(program) == ""


def test_chains_are_drawn_uniformly_whatever_their_arguments():
    """Chi-squared over all pairs of a small world; exceeded by chance less than once in 10,000."""
    tiny = world().subset(["sort_up", "add_each", "sum", "double", "is_even", "times"])
    pairs = list(skeletons(tiny, 2))
    rng = Random(0)
    counts = Counter(tuple(step.name for step in random_chain(tiny, 2, rng).steps) for _ in range(100 * len(pairs)))
    assert set(counts) == set(pairs)
    statistic = sum((counts[pair] - 100) ** 2 / 100 for pair in pairs)
    assert statistic < len(pairs) - 1 + 4.5 * (2 * (len(pairs) - 1)) ** 0.5


# What people would say -----------------------------------------------------------------------------------------------


def test_human_wording_has_programs_that_run(splits):
    assert len(HUMAN) >= 60 and len(splits.human) == len(HUMAN)
    assert {each.language for each in HUMAN} == set(LANGUAGES)
    items = splits.items("human", 0)
    assert len(items) == len(HUMAN)
    for item, human in zip(items, HUMAN):
        assert item.output and human.closed == (item.input == "")
        assert item.given in item.instruction if human.closed else item.input == human.given


def test_human_wording_is_not_the_grammar_and_never_read_wrongly(behaviour):
    parser = Parser(world(), behaviour)
    unread = 0
    for each in HUMAN:
        try:
            assert behaviour.same(parser.parse(each.instruction).program, read(each.program)), each
        except (Unreadable, Ambiguous):
            unread += 1
    assert unread > len(HUMAN) / 2


def test_a_subset_is_a_world_of_its_own(small):
    assert isinstance(small.world, World)
    with pytest.raises(Unreadable):
        Parser(small.world).parse("Find the median of the numbers.")
    assert all(step.name in SMALL for program in (*small.seeds, *small.depth3) for step in program.steps)
    with pytest.raises(Undefined):
        small.world.run(read("capital"), "Atlantis")
