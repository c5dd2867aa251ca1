"""Records: what is written is read back, nothing contradicts itself, and bad input is one sentence with its place."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import UserError
from data.formats import read_conversations
from instruct.records import (
    LABEL_SOURCES,
    METHODS,
    REASONS,
    Decision,
    Instance,
    Origin,
    Record,
    from_row,
    from_seeds,
    merge,
    read_records,
    to_conversations,
    to_row,
    write_records,
)
from tests.test_formats import SHARED

SEED = Record(
    "Reverse the list.",
    (Instance("3 1 2", "2 1 3", "human", True),),
    origin=Origin(place="s:1"),
    decision=Decision("given"),
)

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
instances = st.builds(
    Instance,
    texts,
    texts,
    st.sampled_from(list(LABEL_SOURCES)),
    st.sampled_from([None, True]),
    st.none() | st.integers(0, 8),
)
numbers = st.dictionaries(texts, st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9), max_size=3)
origins = st.builds(
    Origin,
    st.sampled_from([*METHODS, "evolve:deepen"]),
    st.integers(0, 9),
    st.lists(texts, max_size=2).map(tuple),
    numbers,
    texts,
    texts,
)
records = st.builds(
    Record,
    texts,
    st.lists(instances, max_size=3).map(tuple),
    st.sampled_from([None, "en", "zh", ""]),
    st.sampled_from([None, True, False]),
    origins,
    st.none() | texts,
    st.none() | texts,
    numbers,
    st.none() | st.builds(Decision, st.sampled_from(list(REASONS)), texts),
)


@given(records)
def test_a_row_read_back_is_the_record(record):
    row = json.loads(json.dumps(to_row(record)))
    assert from_row(row) == record
    assert list(row) == list(to_row(SEED))  # the same keys in the same order for every record
    assert json.dumps(to_row(from_row(row))) == json.dumps(to_row(record))


def test_the_order_in_which_scores_came_leaves_no_trace():
    one, other = (replace(SEED, scores=dict(items)) for items in ([("a", 1.0), ("b", 2.0)], [("b", 2.0), ("a", 1.0)]))
    assert json.dumps(to_row(one)) == json.dumps(to_row(other))


def test_files_are_read_back_whole_plain_and_packed(tmp_path):
    many = [replace(SEED, instruction=f"{i}. 反转") for i in range(5)]
    for name in ("a.jsonl", "a.jsonl.gz"):
        assert write_records(tmp_path / name, many) == 5
        assert list(read_records(tmp_path / name)) == many
    assert gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()) == (tmp_path / "a.jsonl").read_bytes()


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.jsonl"
    write_records(path, [SEED])

    def broken():
        yield replace(SEED, instruction="other")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_records(path, broken())
    assert list(read_records(path)) == [SEED]
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


# Identity ------------------------------------------------------------------------------------------------------------


def test_the_id_is_the_content_and_nothing_else():
    same = replace(SEED, origin=Origin("magpie", 3), scores={"rouge": 0.5}, decision=Decision("wrong"), behaviour="ab")
    assert same.id == SEED.id
    assert len(SEED.id) == 16 and int(SEED.id, 16) >= 0
    changed = [
        replace(SEED, instruction="Reverse the list"),
        replace(SEED, instances=()),
        replace(SEED, instances=(Instance("3 1 2", "2 1 4"),)),
        replace(SEED, instances=(Instance("3 1", "2 2 1 3"),)),
    ]
    assert len({SEED.id, *(record.id for record in changed)}) == 5


def test_the_language_follows_from_the_text():
    assert [Record(text).lang for text in ("Sort.", "排序。", "把 cat 译成中文", "3 + 4")] == ["en", "zh", "zh", ""]
    assert Record("Sort.", lang="zh").lang == "zh"


def test_a_code_says_its_stage_and_whether_it_keeps():
    assert Decision("given").kept and not Decision("wrong", "12").kept
    assert Decision("wrong", "right is 12").stage == "V6"
    assert str(Decision("wrong", "right is 12")) == "dropped at V6, wrong: the answer is not right (right is 12)"
    with pytest.raises(UserError, match="unknown reason 'bad'"):
        Decision("bad")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lang": "fr"}, "lang must be en, zh or empty"),
        ({"origin": Origin("dream")}, "unknown method 'dream'"),
        ({"instances": (Instance("a", "b", "O9"),)}, "unknown label_source 'O9'"),
        ({"scores": {"rouge": float("nan")}}, "finite"),
        ({"instruction": "\ud800"}, "surrogate"),
        ({"instances": (Instance("3 1 2", "3", "O1", False),)}, "known to be wrong"),
    ],
)
def test_what_contradicts_itself_is_refused(change, said):
    with pytest.raises(UserError, match=said):
        replace(SEED, **change)


def test_all_problems_are_named_at_once():
    with pytest.raises(UserError) as caught:
        replace(SEED, lang="fr", origin=Origin("dream"))
    assert "lang" in str(caught.value) and "dream" in str(caught.value)


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"instruction": None}, "`instruction` must be text, got null"),
        ({"instrction": "x"}, "unknown key `instrction`: valid are instruction,"),
        ({"instances": {}}, "`instances` must be a list"),
        ({"instances": [3]}, "`instances[0]` must be an object, got 3"),
        ({"instances": [{"input": "a"}]}, "`instances[0].output` is missing"),
        ({"instances": [{"input": "a", "output": 3}]}, "`instances[0].output` must be text, got 3"),
        (
            {"instances": [{"input": "a", "output": "b", "verified": 1}]},
            "`instances[0].verified` must be true or false",
        ),
        ({"origin": {"round": True}}, "`origin.round` must be a whole number, got true"),
        ({"origin": {"sampling": {"top_p": "x"}}}, "`origin.sampling.top_p` must be a number"),
        ({"scores": [1]}, "`scores` must be an object"),
        ({"decision": {"code": "nice"}}, "unknown reason 'nice'"),
        ({"decision": {"code": "wrong", "kept": True}}, "`kept` is True, but follows from the rest"),
        ({"id": "0000000000000000"}, "`id` is '0000000000000000', but follows from the rest"),
        ({"split": "dropped"}, "`split` is 'dropped', but follows from the rest"),
    ],
)
def test_bad_rows_are_one_sentence_with_file_and_line(tmp_path, change, said):
    path = tmp_path / "r.jsonl"
    row = to_row(SEED)
    del row["id"]  # what does not contradict itself otherwise must be refused for what is wrong
    path.write_text(json.dumps(to_row(SEED)) + "\n" + json.dumps(row | change) + "\n", "utf-8")
    with pytest.raises(UserError) as caught:
        list(read_records(path))
    assert str(caught.value).startswith(f"{path}:2: ")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_what_follows_may_be_missing():
    row = {"instruction": "Reverse the list."}
    assert from_row(row) == Record("Reverse the list.")
    whole = to_row(SEED)
    for key in ("id", "split", "program", "scores"):
        del whole[key]
    assert from_row(whole) == SEED


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | texts,
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["instances", "input", "output", "origin", "decision", "code", "scores"]) | texts,
                inner,
                max_size=3,
            )
        ),
        max_leaves=6,
    )
)
def test_no_value_crashes_the_reader(value):
    for row in ({"instruction": "x", "instances": value}, {"instruction": "x", "origin": value, "decision": value}):
        try:
            record = from_row(row)
        except UserError:
            continue
        assert from_row(to_row(record)) == record


# Merging -------------------------------------------------------------------------------------------------------------


def test_merging_keeps_every_record_and_one_of_each_content():
    """Exactly one copy survives, wherever the copies stand; nothing vanishes, and what was dropped stays as it was."""
    wrong = replace(SEED, decision=Decision("wrong", "x"))
    other = replace(SEED, instruction="Sort the list.")
    merged = list(merge([[wrong, SEED, other], [SEED], [other, SEED]]))
    assert [record.decision.code for record in merged] == [
        "wrong",
        "given",
        "given",
        "duplicate",
        "duplicate",
        "duplicate",
    ]
    assert [record.kept for record in merged].count(True) == 2
    assert merged[3].decision.detail == SEED.id
    assert merged[0] == wrong
    assert list(merge([[SEED], [wrong]])) == [SEED, wrong]


# Seeds and conversations ---------------------------------------------------------------------------------------------


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_seeds_of_every_format_become_records(tmp_path):
    path = write(
        tmp_path / "seeds.jsonl",
        {"instruction": "Add.", "instances": [{"input": "1 2", "output": "3"}, {"input": "", "output": "0"}],
         "is_classification": False, "id": "seed_1"},
        {"instruction": "翻译", "input": "cat", "output": "猫"},
        {"question": "2+2?", "answer": "4"},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
        to_row(SEED),
    )  # fmt: skip
    add, translate, question, greeting, seed = from_seeds(path)
    assert add.instances == (Instance("1 2", "3", "human"), Instance("", "0", "human"))
    assert add.is_classification is False and translate.is_classification is None
    assert (translate.lang, translate.instances) == ("zh", (Instance("cat", "猫", "human"),))
    assert (question.instruction, question.instances) == ("2+2?", (Instance("", "4", "human"),))
    assert (greeting.instruction, greeting.instances[0].output) == ("Hi", "Hello")
    assert seed == SEED
    assert [record.origin.place for record in (add, question)] == ["seeds.jsonl:1", "seeds.jsonl:3"]
    assert all(record.kept for record in (add, translate, question, greeting))
    [label] = {each.label_source for record in [*from_seeds(path, "O3")][:4] for each in record.instances}
    assert label == "O3"


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "And?", "input": "", "output": "x", "history": [["a", "b"]]},
        {"instruction": "And?", "input": "", "output": "x", "system": "Be brief."},
        {"text": "only a text"},
        {"instruction": "x", "instances": []},
        {"instruction": "x", "output": 3},
        {"prompt": "x", "chosen": "a", "rejected": "b"},
    ],
)
def test_what_is_no_seed_is_refused_with_its_place(tmp_path, row):
    path = write(tmp_path / "s.jsonl", {"prompt": "a", "completion": "b"}, row)
    with pytest.raises(UserError, match=r"s\.jsonl:2: "):
        list(from_seeds(path))


def test_a_file_of_records_trains_on_what_was_kept_and_on_nothing_else(tmp_path):
    """The loader of the trainer and `to_conversations` agree, and no dropped answer is imitated."""
    two = replace(SEED, instances=(Instance("1 2", "2 1"), Instance("", "none")))
    dropped = replace(SEED, instruction="Bad.", decision=Decision("wrong"))
    undecided = replace(SEED, instruction="Open.", decision=None)
    write_records(tmp_path / "r.jsonl", [SEED, dropped, two, undecided])
    read = [conversation.messages for conversation in read_conversations(tmp_path / "r.jsonl", split="train")]
    made = [conversation for record in (SEED, dropped, two, undecided) for conversation in to_conversations(record)]
    assert read == [conversation.messages for conversation in made]
    assert [messages[0].content for messages in read] == [
        "Reverse the list.\n3 1 2", "Reverse the list.\n1 2", "Reverse the list.",
    ]  # fmt: skip
    assert made[0].origin == SEED.id and made[2].origin == f"{two.id}#2"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public seed files are not on this machine")
@pytest.mark.parametrize(
    ("name", "lang", "classes"), [("self_instruct/seed_tasks.jsonl", "en", 26), ("belle/zh_seed_tasks.json", "zh", 26)]
)
def test_the_175_public_seeds_are_read(name, lang, classes):
    seeds = list(from_seeds(SHARED / name))
    assert len(seeds) == len({seed.id for seed in seeds}) == 175
    assert {seed.lang for seed in seeds} == {lang}
    assert sum(seed.is_classification for seed in seeds) == classes
