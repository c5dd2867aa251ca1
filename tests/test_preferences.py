"""Preferences: what is written is read back equal, the shapes of others mean the same, and errors name their place."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from configs import UserError
from data.chat import Message
from data.preferences import (
    Labelled,
    Preference,
    is_paired,
    labelled_row,
    preference_row,
    read_labelled,
    read_preferences,
    write_labelled,
    write_preferences,
)

TEXT = st.text("ab \n\"\\\u2028\x00猫😀", max_size=6)
MESSAGES = st.builds(Message, st.sampled_from(["system", "user", "assistant", "tool"]), TEXT, st.none() | st.booleans())
ASKED = st.builds(Message, st.sampled_from(["user", "tool"]), TEXT, st.none() | st.booleans())
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def prompts(draw):
    """At most one system message, as in what is read (two are joined into one)."""
    before = draw(st.lists(MESSAGES, max_size=3))
    before = [each for i, each in enumerate(before) if each.role != "system" or i == 0]
    return (*before, draw(ASKED))


@st.composite
def preferences(draw):
    chosen, rejected = draw(TEXT), draw(TEXT)
    assume(chosen != rejected)
    margin = draw(st.none() | NUMBERS.map(abs))
    return Preference(draw(prompts()), chosen, rejected, margin, draw(TEXT), draw(st.booleans()))


@st.composite
def judgements(draw):
    label = draw(st.none() | st.booleans())
    score = draw(NUMBERS) if label is None else None
    return Labelled(draw(prompts()), draw(TEXT), label, score, draw(TEXT), draw(st.booleans()))


def save(path: Path, *rows) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz"])
@settings(max_examples=25, deadline=None)
@given(pairs=st.lists(preferences(), min_size=1, max_size=4))
def test_pairs_come_back_equal(pairs, name):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        assert write_preferences(path, pairs) == len(pairs)
        found = read_preferences(path)
        assert found == pairs
        assert [each.origin for each in found] == [f"{path}:{i}" for i in range(1, len(pairs) + 1)]
        assert is_paired(path)
        assert path.read_bytes()[:2] == (b"\x1f\x8b" if name.endswith("gz") else b'{"')


@settings(max_examples=25, deadline=None)
@given(judged=st.lists(judgements(), min_size=1, max_size=4))
def test_judged_answers_come_back_equal(judged):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "judged.jsonl"
        write_labelled(path, judged)
        assert read_labelled(path) == judged
        assert not is_paired(path)


U, A = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
WRONG = {"role": "assistant", "content": "5"}
MEANT = Preference((Message("user", "2+2?"),), "4", "5")
PAIRS = {
    "text": {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
    "messages": {"prompt": [U], "chosen": [A], "rejected": [WRONG]},
    "mixed": {"prompt": [U], "chosen": "4", "rejected": [WRONG], "margin": None, "rater": None, "simulated": False},
    "conversations": {"chosen": [U, A], "rejected": [U, WRONG]},
    "conversations with the prompt": {"prompt": "2+2?", "chosen": [U, A], "rejected": [U, WRONG], "id": 7},
}


@pytest.mark.parametrize("row", PAIRS.values(), ids=PAIRS)
def test_every_shape_of_a_pair_means_the_same(tmp_path, row):
    assert read_preferences(save(tmp_path / "p.jsonl", row)) == [MEANT]


def test_the_plain_row_is_the_one_that_is_written():
    assert preference_row(MEANT) == PAIRS["text"]
    full = Preference((Message("system", "s"), Message("user", "u")), "a", "b", 1.5, "verifier", True)
    assert preference_row(full) == {
        "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
        "chosen": "a",
        "rejected": "b",
        "margin": 1.5,
        "rater": "verifier",
        "simulated": True,
    }
    labelled = Labelled((Message("user", "u"),), "a", label=False)
    assert labelled_row(labelled) == {"prompt": "u", "completion": "a", "label": False}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2+2?", "completion": "4", "label": True},
        {"prompt": [U], "completion": [A], "label": True},
        {"messages": [U, A], "label": True},
    ],
)
def test_every_shape_of_a_label_means_the_same(tmp_path, row):
    expected = Labelled((Message("user", "2+2?"),), "4", label=True)
    assert read_labelled(save(tmp_path / "p.jsonl", row)) == [expected]
    assert [m.content for m in expected.answer.messages] == ["2+2?", "4"]


def test_the_answers_of_a_pair_share_their_prompt():
    chosen, rejected = MEANT.answers
    assert chosen.messages[:-1] == rejected.messages[:-1] == MEANT.prompt
    assert (chosen.messages[-1], rejected.messages[-1]) == (Message("assistant", "4"), Message("assistant", "5"))


PAIR, JUDGED = PAIRS["text"], {"prompt": "q", "completion": "a"}
BAD_PAIRS = {
    "`rejected` is missing": {"prompt": "q", "chosen": "a"},
    "`chosen` is missing": {"prompt": "q", "completion": "a"},
    "are the same": PAIR | {"rejected": "4"},
    "`prompt` is missing": {"chosen": "a", "rejected": "b"},
    "text or a list of one or more messages": PAIR | {"prompt": 3},
    "`chosen` must be text": PAIR | {"chosen": []},
    "must end with a message of the assistant": PAIR | {"chosen": [U]},
    "must not end with one of the assistant": PAIR | {"prompt": [U, A]},
    "only their last may differ": {"chosen": [U, A], "rejected": [U | {"content": "?"}, WRONG]},
    "begins with other messages than `prompt`": {"prompt": "3+3?", "chosen": [U, A], "rejected": [U, WRONG]},
    "unknown role 'robot'": PAIR | {"prompt": [{"role": "robot", "content": "q"}]},
    "`content` must be text": PAIR | {"prompt": [{"role": "user", "content": 3}]},
    "`margin` must be a number from 0": PAIR | {"margin": -1},
    "`margin` must be a number, got 'much'": PAIR | {"margin": "much"},
    "`margin` must be a number, got True": PAIR | {"margin": True},
    "`rater` must be text": PAIR | {"rater": 3},
    "`simulated` must be true or false": PAIR | {"simulated": 1},
    "half of a surrogate pair": PAIR | {"chosen": "\ud800"},
}
BAD_JUDGED = {
    "either `label`": JUDGED,
    "either `label` ": JUDGED | {"label": True, "score": 1},
    "`label` must be true or false": JUDGED | {"label": "good"},
    "`score` must be a number": JUDGED | {"score": "5"},
    "`score` must be a finite number": JUDGED | {"score": float("inf")},
    "`completion` is missing": {"prompt": "q", "label": True},
}


def refused(reader, path: Path) -> str:
    with pytest.raises(UserError) as caught:
        reader(path)
    return str(caught.value)


@pytest.mark.parametrize(("text", "row"), BAD_PAIRS.items(), ids=BAD_PAIRS)
def test_wrong_pairs_are_one_sentence_with_file_and_line(tmp_path, text, row):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(PAIR) + "\n\n" + json.dumps(row) + "\n", "utf-8")
    found = refused(read_preferences, path)
    assert found.startswith(f"{path}:3: ") and found.count(str(path)) == 1
    assert text in found and "\n" not in found


@pytest.mark.parametrize(("text", "row"), BAD_JUDGED.items(), ids=BAD_JUDGED)
def test_wrong_judgements_are_one_sentence_with_file_and_line(tmp_path, text, row):
    found = refused(read_labelled, save(tmp_path / "p.jsonl", JUDGED | {"label": True}, row))
    assert found.startswith(f"{tmp_path / 'p.jsonl'}:2: ")
    assert text.strip() in found and "\n" not in found


def test_damaged_and_missing_files_are_one_sentence(tmp_path):
    whole = gzip.compress(json.dumps(PAIR).encode() * 50)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-12])
    assert "damaged" in refused(read_preferences, tmp_path / "cut.jsonl.gz")
    assert "there is no file" in refused(read_labelled, tmp_path / "none.jsonl")
    (tmp_path / "broken.jsonl").write_text(json.dumps(PAIR) + "\n{'prompt'\n", "utf-8")
    assert refused(read_preferences, tmp_path / "broken.jsonl").startswith(f"{tmp_path / 'broken.jsonl'}:2: not JSON")
