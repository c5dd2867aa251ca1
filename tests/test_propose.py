"""Proposing: every sample follows from its number, and says where it comes from."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from configs import ConfigError, UserError
from instruct import lessons
from instruct.propose import METHODS, OWN_IN_LIST, Pool, ProposeConfig, give_inputs, label_tasks, with_answers, write
from instruct.records import Instance, Origin, Record
from model.complete import Completion
from tests.oracle import oracle_of, read_prompt, shared_course, shared_seeds

PARENTS = {"magpie": 0, "self-instruct": lessons.SHOWN, "evolve:combine": 2}  # others have one
CONFIG = ProposeConfig(samples=84)


@pytest.fixture(scope="module")
def pool():
    seeds = shared_seeds()
    own = [replace(record, instruction=f"{record.instruction} ") for record in seeds[:9]]
    return Pool(seeds, own)


@pytest.fixture
def loaded(monkeypatch):
    return oracle_of(shared_course(), monkeypatch, garbage=0.2, cut=0.1)[0]


def says(monkeypatch, *texts: str | Completion):
    """A model that says these texts in turn; the prompts that it gets are collected."""
    prompts = []

    def complete(loaded, given, new_tokens, sampling=None, seeds=None, batch_rows=64):
        prompts.extend(read_prompt(list(ids)) for ids in given)
        said = [texts[i % len(texts)] for i in range(len(given))]
        return [each if isinstance(each, Completion) else Completion(each, True) for each in said]

    monkeypatch.setattr("instruct.propose.complete_prompts", complete)
    monkeypatch.setattr("model.complete.complete_prompts", complete)
    return prompts


# Writing -------------------------------------------------------------------------------------------------------------


def test_the_union_of_the_parts_is_what_one_process_writes(loaded, pool):
    whole = write(loaded, pool, CONFIG, range(84), 3)
    parts = [write(loaded, pool, CONFIG, range(84)[rank::3], 3) for rank in range(3)]
    assert [parts[i % 3][i // 3] for i in range(84)] == whole
    assert write(loaded, pool, CONFIG, range(84), 3) == whole
    for other in (
        write(loaded, pool, CONFIG, range(84), 4),
        write(loaded, pool, replace(CONFIG, seed=1), range(84), 3),
    ):
        same = sum(one.instruction == another.instruction != "" for one, another in zip(whole, other))
        assert same < 20, "another round or seed writes something else"


def test_every_record_says_where_it_comes_from(loaded, pool):
    known = {record.id: record for record in (*pool.seeds, *pool.own)}
    records = write(loaded, pool, CONFIG, range(84), 5)
    for number, record in enumerate(records):
        origin = record.origin
        assert origin.method == METHODS[number % len(METHODS)] and origin.round == 5
        assert origin.sampling == {"temperature": 1.0, "top_p": 1.0, "seed": 0, "number": number}
        assert origin.checkpoint == loaded.folder.name
        assert set(origin.parents) <= known.keys()
        assert len(origin.parents) == PARENTS.get(origin.method, 1)
        if origin.parents:
            assert {known[parent].lang for parent in origin.parents} == {record.lang}
        if origin.method == "back-translate":
            [parent] = origin.parents
            assert record.instances[0].input in {i.input for i in known[parent].instances}
        assert record.decision is None or record.decision.code in ("cut", "format")
        assert all(instance.output == "" for instance in record.instances), "nobody has answered yet"
    assert {record.decision and record.decision.code for record in records} == {None, "cut", "format"}


def test_both_languages_are_written_about_equally(loaded, pool):
    languages = Counter(record.lang for record in write(loaded, pool, CONFIG, range(280)))
    assert 0.35 < languages["zh"] / (languages["zh"] + languages["en"]) < 0.65


@pytest.mark.parametrize("method", METHODS)
def test_each_method_asks_with_its_own_part(method, loaded, pool, monkeypatch):
    prompts = says(monkeypatch, "Do it.")
    write(loaded, pool, ProposeConfig(samples=6, methods=(method,)), range(6))
    parts = {
        "self-instruct": "continue",
        "evolve:deepen": "deepen",
        "evolve:widen": "widen",
        "evolve:combine": "combine",
    }
    for messages in prompts:
        if method == "magpie":
            assert messages == [("user", "")]
            continue
        assert [role for role, _ in messages] == ["system", "user", "assistant"]
        assert messages[0][1].rpartition(" ")[0] == parts.get(method, method)
        if method in ("induce", "back-translate"):
            assert all(line.partition(lessons.ARROW)[0] for line in messages[1][1].split("\n")), "an input, as taught"


def test_two_different_meanings_of_one_language_are_combined(loaded, pool, monkeypatch):
    prompts = says(monkeypatch, "Do it.")
    records = write(loaded, pool, ProposeConfig(samples=40, methods=("evolve:combine",)), range(40))
    known = {record.id: record for record in (*pool.seeds, *pool.own)}
    for record, messages in zip(records, prompts):
        parents = [known[parent] for parent in record.origin.parents]
        assert messages[1][1] == "\n".join(parent.instruction for parent in parents)
        assert len({parent.behaviour or parent.instruction for parent in parents}) == 2 and {
            p.lang for p in parents
        } == {record.lang}
        assert all(" | " not in (parent.program or "") for parent in parents)
        together = " | ".join(parent.program or "" for parent in parents)
        assert together not in {seed.program for seed in pool.seeds}, "no pair is what is taught already"


@pytest.mark.parametrize(
    "said, code",
    [
        ("Sort it.", None),
        (" Sort it. \n", None),
        (Completion("Sort it.", False), "cut"),
        ("", "format"),
        (" \n ", "format"),
        ("Sort it.\nThen stop.", "format"),
    ],
)
def test_what_is_no_instruction_falls_at_once(said, code, loaded, pool, monkeypatch):
    says(monkeypatch, said)
    records = write(loaded, pool, ProposeConfig(samples=2, methods=("paraphrase", "evolve:deepen")), range(2))
    assert [record.decision and record.decision.code for record in records] == [code] * 2
    if code is None:
        assert {record.instruction for record in records} == {"Sort it."}


def test_the_bare_turn_brings_its_own_input(loaded, pool, monkeypatch):
    says(monkeypatch, "Sort them.\n3 1 2", "What is 2 + 2?", "排序。\n3 1")
    records = write(loaded, pool, ProposeConfig(samples=3, methods=("magpie",)), range(3))
    assert [(r.instruction, [i.input for i in r.instances]) for r in records] == [
        ("Sort them.", ["3 1 2"]),
        ("What is 2 + 2?", []),
        ("排序。", ["3 1"]),
    ]
    assert [record.lang for record in records] == ["en", "en", "zh"] and not any(r.decision for r in records)


def test_methods_are_taken_in_turn(loaded, pool):
    config = ProposeConfig(samples=9, methods=("paraphrase", "induce", "paraphrase"))
    assert Counter(r.origin.method for r in write(loaded, pool, config, range(9))) == {"paraphrase": 6, "induce": 3}


# The pool ------------------------------------------------------------------------------------------------------------


def test_parents_are_chosen_evenly_among_behaviours():
    often = [Record(f"Say it in way {i}.", (Instance("1", "2"),), behaviour="often") for i in range(95)]
    rare = [Record(f"Count to {i}.", (Instance("", "3"),), behaviour=f"rare {i}") for i in range(4)]
    pool, rng = Pool(often, rare), Random(0)
    counts = Counter(pool.parent(rng).behaviour for _ in range(2000))
    assert len(counts) == 5 and all(330 < count < 470 for count in counts.values())
    texts = Pool([Record(f"Tell a story of {i}.") for i in range(3)])
    assert len({texts.parent(rng).instruction for _ in range(50)}) == 3, "free text: every text is a meaning"


def test_what_is_shown_with_its_answer_has_one():
    rng = Random(0)
    closed = Record("What is the capital of France?", (Instance("", "Paris"),), behaviour="a")
    given = Record("Find the capital.", (Instance("Chad", ""), Instance("France", "Paris")), behaviour="a")
    other = Record("Sort it.", (Instance("3 1", ""),), behaviour="b")
    assert all(Pool([closed, given, other]).with_answer(rng) == given for _ in range(20))
    assert Pool([closed, other]).with_answer(rng) == closed, "where no input has an answer, an answer alone"
    assert Pool([other]).with_answer(rng) is None


def test_a_list_of_eight_is_of_one_language_with_the_newest_own_items():
    seeds = [Record(f"Do thing {i}.") for i in range(20)] + [Record(f"做第{i}件事。") for i in range(20)]
    own = [Record(f"Own thing {i}.") for i in range(300)] + [Record("自己的事。")]
    pool, rng, languages = Pool(seeds, own), Random(1), set()
    for _ in range(60):
        shown = pool.listed(rng)
        assert len(shown) == lessons.SHOWN == len({record.id for record in shown})
        [language] = {record.lang for record in shown}
        mine = [record for record in shown if record in own]
        assert len(mine) == (OWN_IN_LIST if language == "en" else 1)
        assert all(int(record.instruction[10:-1]) > 100 for record in mine if language == "en")
        languages.add(language)
    assert languages == {"en", "zh"}
    assert len(Pool(seeds).listed(rng)) == lessons.SHOWN and len(Pool(seeds[:3]).listed(rng)) == 3


def test_documents_are_written_back_to_instructions_too(loaded, monkeypatch):
    pool = Pool(shared_seeds(), documents=["A whale is no fish.", "The sea is wide."])
    prompts = says(monkeypatch, "Do it.")
    records = write(loaded, pool, ProposeConfig(samples=40, methods=("back-translate",)), range(40))
    from_documents = [r for r, messages in zip(records, prompts) if messages[1][1] in pool.documents]
    assert 10 < len(from_documents) < 30
    assert all(not record.origin.parents and not record.instances for record in from_documents)


def test_without_a_seed_there_is_no_pool():
    with pytest.raises(UserError, match="no seed to start from"):
        Pool([], [Record("Do it.")])


# Inputs and answers --------------------------------------------------------------------------------------------------


@pytest.fixture
def written():
    """An instruction of each program, in both languages; closed questions among them."""
    return [replace(record, instances=(), decision=None, origin=Origin("magpie")) for record in shared_seeds()]


def test_inputs_are_different_and_the_same_for_a_record_in_whatever_company(loaded, written):
    config = ProposeConfig(temperature=1.0)
    labelled = label_tasks(loaded, written)
    whole = give_inputs(loaded, labelled, config, 5, "a")
    assert [give_inputs(loaded, [record], config, 5, "a")[0] for record in labelled[::7]] == whole[::7]
    assert give_inputs(loaded, labelled, config, 5, "b") != whole
    for texts in whole:
        assert len(texts) == len(set(texts)) <= 5
    assert any(len(texts) == 5 for texts in whole)


def test_classification_asks_for_a_label_first(monkeypatch, written):
    loaded, oracle = oracle_of(shared_course(), monkeypatch)
    labelled = label_tasks(loaded, written)
    assert "is_even" in {record.program for record in labelled if record.is_classification}
    assert oracle.asked["classify"] == len(written)
    give_inputs(loaded, labelled, ProposeConfig(), 3)
    classes = sum(record.is_classification for record in labelled)
    assert oracle.asked["label"] == oracle.asked["input for"] == 3 * classes > 0
    assert oracle.asked["input"] == 3 * (len(written) - classes)


def test_no_input_is_an_empty_one(loaded, monkeypatch):
    says(monkeypatch, "-", "-", "3 1", "")
    records = [Record("What is 2 + 2?"), Record("Sort them.")]
    assert give_inputs(loaded, records, ProposeConfig(), 2) == [[""], ["3 1"]]


def test_answers_say_that_nobody_verified_them(loaded, monkeypatch):
    records = [Record("Sort them.", (Instance("3 1", ""), Instance("2", "")), decision=None)]
    says(monkeypatch, "1 3", "2")
    [record] = with_answers(loaded, records, ProposeConfig())
    assert record.instances == (Instance("3 1", "1 3", "O3"), Instance("2", "2", "O3"))
    says(monkeypatch, "a", "b", "a", "c")
    [record] = with_answers(loaded, records, ProposeConfig(votes=4))
    assert record.instances == (Instance("3 1", "a", "O4", None, 2), Instance("2", "a", "O4", None, 2))


# Settings ------------------------------------------------------------------------------------------------------------


def test_wrong_settings_are_named_together():
    with pytest.raises(ConfigError) as raised:
        ProposeConfig(samples=0, methods=("magpie", "guess"), votes=0)
    for part in ("samples must be positive", "votes must be positive", "unknown method 'guess'"):
        assert part in str(raised.value)
    with pytest.raises(ConfigError, match="at least one"):
        ProposeConfig(methods=())
    for wrong in ({"temperature": -1.0}, {"top_p": 0.0}):
        with pytest.raises(ConfigError):
            ProposeConfig(**wrong)


def test_a_length_that_leaves_no_room_is_one_sentence(loaded, pool):
    with pytest.raises(UserError, match="does not fit"):
        write(loaded, pool, ProposeConfig(samples=7, new_tokens=loaded.model.config.context), range(7))
