"""Formats: every shape of instruction data reads as the conversation it means, and errors name their place."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from configs import UserError
from data.chat import ChatFormat, Conversation, Message, census, encode
from data.formats import FORMATS, read_conversations, recognise, to_row, write_rows
from tests.test_chat import LETTERS

SHARED = Path(__file__).parents[1] / ".." / "shared" / "data"
U, A, S, T = "user", "assistant", "system", "tool"

# (format, row, the conversations that it means as lists of (role, content))
CASES = {
    "alpaca": (
        {"instruction": "Translate.", "input": "cat", "output": "猫"},
        [[(U, "Translate.\ncat"), (A, "猫")]],
    ),
    "alpaca without input": ({"instruction": "Say hi.", "input": None, "output": "hi"}, [[(U, "Say hi."), (A, "hi")]]),
    "alpaca with history": (
        {"instruction": "And 3?", "output": "9", "system": "Square.", "history": [["2?", "4"]]},
        [[(S, "Square."), (U, "2?"), (A, "4"), (U, "And 3?"), (A, "9")]],
    ),
    "sharegpt": (
        {
            "conversations": [
                {"from": "human", "value": "Weather?"},
                {"from": "function_call", "value": '{"name": "sky"}'},
                {"from": "observation", "value": "blue"},
                {"from": "gpt", "value": "It is blue."},
            ],
            "tools": '[{"name": "sky"}]',
        },
        [
            [
                (S, 'Tools: [{"name": "sky"}]'),
                (U, "Weather?"),
                (A, '{"name": "sky"}'),
                (T, "blue"),
                (A, "It is blue."),
            ]
        ],
    ),
    "sharegpt with two systems": (
        {"conversations": [{"from": "system", "value": "Be brief."}, {"from": "gpt", "value": "Yes."}], "tools": [1]},
        [[(S, "Be brief.\nTools: [1]"), (A, "Yes.")]],
    ),
    "messages": (
        {"messages": [{"role": "developer", "content": "d"}, {"role": U, "content": "q"}, {"role": A, "content": "a"}]},
        [[(S, "d"), (U, "q"), (A, "a")]],
    ),
    "messages with parts and tool calls": (
        {
            "messages": [
                {"role": U, "content": [{"type": "text", "text": "one"}, {"type": "text", "value": "two"}]},
                {"role": A, "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
                {"role": T, "content": "3"},
            ]
        },
        [[(U, "one\ntwo"), (A, '{"name": "f", "arguments": "{}"}'), (T, "3")]],
    ),
    "self-instruct": (
        {"instruction": "Double.", "instances": [{"input": "1", "output": "2"}, {"input": "", "output": "0"}]},
        [[(U, "Double.\n1"), (A, "2")], [(U, "Double."), (A, "0")]],
    ),
    "completion": ({"prompt": "1+1=", "completion": "2"}, [[(U, "1+1="), (A, "2")]]),
    "question": ({"question": "2+2?", "answer": "4\n#### 4"}, [[(U, "2+2?"), (A, "4\n#### 4")]]),
    "text": ({"text": "从前有座山"}, [[(A, "从前有座山")]]),
}


def save(path: Path, rows: list, shape: str) -> Path:
    """Write rows as "array" (.json), "lines" (.jsonl) or "gzip" (.jsonl.gz)."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    text = json.dumps(rows, ensure_ascii=False, indent=1) if shape == "array" else lines
    path = path / {"array": "rows.json", "lines": "rows.jsonl", "gzip": "rows.jsonl.gz"}[shape]
    path.write_bytes(gzip.compress(text.encode()) if shape == "gzip" else text.encode())
    return path


def plain(conversations) -> list:
    return [[(message.role, message.content) for message in c.messages] for c in conversations]


@pytest.mark.parametrize("shape", ["array", "lines", "gzip"])
@pytest.mark.parametrize("case", CASES)
def test_each_format_reads_as_what_it_means_and_survives_the_canonical_form(tmp_path, case, shape):
    row, meant = CASES[case]
    assert recognise(row) == case.split(" ")[0]
    read = list(read_conversations(save(tmp_path, [row], shape)))
    assert plain(read) == meant
    again = tmp_path / "canonical.jsonl"
    assert write_rows(again, map(to_row, read)) == len(meant)
    assert list(read_conversations(again)) == read  # messages, flags and origins


def test_every_known_format_has_a_case():
    assert {case.split(" ")[0] for case in CASES} == set(FORMATS)


@pytest.mark.parametrize("case", CASES)
def test_the_loss_mask_of_each_format_covers_the_assistant_and_nothing_else(tmp_path, case):
    row, meant = CASES[case]
    examples = [encode(c, LETTERS, ChatFormat()) for c in read_conversations(save(tmp_path, [row], "lines"))]
    for example, turns in zip(examples, meant):
        learnt = [i for i, w in zip(example.ids.tolist(), example.weights) if w]
        expected = [token for role, text in turns if role == A for token in [*LETTERS.encode(text), LETTERS.end]]
        assert learnt == expected
    counts = census(examples, LETTERS, ChatFormat())
    assert counts.supervised == counts.supervised_by_role[A] > 0


def test_a_file_may_mix_formats_and_blank_lines_and_begin_with_a_byte_order_mark(tmp_path):
    rows = [row for row, _ in CASES.values()]
    path = tmp_path / "mixed.jsonl"
    path.write_text("\ufeff" + "\n\n".join(json.dumps(row) for row in rows) + "\n", "utf-8")
    assert plain(read_conversations(path)) == [turns for _, meant in CASES.values() for turns in meant]


def test_weights_of_messages_become_flags_and_return():
    messages = [{"role": A, "content": "no", "weight": 0}, {"role": A, "content": "yes", "weight": 1}]
    conversation = Conversation((Message(A, "no", False), Message(A, "yes", True), Message(A, "open")), "x:1")
    assert to_row(conversation) == {"messages": [*messages, {"role": A, "content": "open"}], "origin": "x:1"}


def test_origins_name_file_and_line_and_instance(tmp_path):
    rows = [CASES["text"][0], CASES["self-instruct"][0]]
    lines = save(tmp_path, rows, "lines")
    assert [c.origin for c in read_conversations(lines)] == [f"{lines}:1", f"{lines}:2#1", f"{lines}:2#2"]
    array = save(tmp_path, rows, "array")
    assert next(read_conversations(array)).origin == f"{array}, row 1"


def test_a_split_leaves_out_the_rows_of_other_splits_only(tmp_path):
    rows = [{"text": "a", "split": "train"}, {"text": "b", "split": "heldout"}, {"text": "c"}]
    path = save(tmp_path, rows, "lines")
    contents = lambda split: [c.messages[0].content for c in read_conversations(path, split)]
    assert contents("train") == ["a", "c"]
    assert contents("heldout") == ["b", "c"]
    assert contents(None) == ["a", "b", "c"]


BROKEN = {
    "not JSON": ("{broken", "not JSON"),
    "not an object": ("3", "a row must be a JSON object, this one is a number"),
    "unknown keys": ('{"a": 1, "b": 2}', "unknown format with the keys a, b"),
    "no keys": ("{}", "unknown format with the keys (none)"),
    "output is a number": ('{"instruction": "q", "output": 5}', "`output` must be text, it is a number"),
    "no content": ('{"messages": [{"role": "user"}]}', "`content` must be text, it is missing"),
    "unknown role": ('{"messages": [{"role": "boss", "content": ""}]}', "unknown role 'boss'"),
    "unknown sender": ('{"conversations": [{"from": "bard", "value": ""}]}', "unknown role 'bard'"),
    "no messages": ('{"messages": []}', "`messages` must be a list of one or more objects"),
    "no instances": ('{"instruction": "q", "instances": 3}', "`instances` must be a list"),
    "bad history": ('{"instruction": "q", "output": "a", "history": 5}', "`history` must be a list"),
    "bad weight": ('{"messages": [{"role": "user", "content": "", "weight": 2}]}', "`weight` of a message must be 0"),
    "bad tool call": ('{"messages": [{"role": "assistant", "tool_calls": [{}]}]}', "`tool_calls` must be objects"),
    "tool calls are no list": ('{"messages": [{"role": "assistant", "tool_calls": 5}]}', "`tool_calls` must be a list"),
    "image": ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "not text; only text"),
    "half a surrogate": ('{"text": "\\ud83d"}', "half of a surrogate pair (\\ud83d)"),
    "preference": ('{"conversations": [], "chosen": {}, "rejected": {}}', "compares answers"),
    "feedback": ('{"messages": [], "label": true}', "rates its answer"),
    "nested too deep": ("[" * 100_000, "deep"),
    "endless number": ('{"text": ' + "9" * 5_000 + "}", "number too long"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_line_is_one_sentence_with_file_line_and_fault(tmp_path, fault):
    line, said = BROKEN[fault]
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fine"}\n' * 1233 + line + "\n", "utf-8")
    with pytest.raises(UserError) as caught:
        list(read_conversations(path))
    assert f"{path}:1234: " in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.json", b'[{"text": "a"},\n{"text": }]', "rows.json:2: not JSON"),
        ("rows.json", b'[{"text": "a"}, {"x": 1}]', "rows.json, row 2: unknown format with the keys x"),
        ("rows.json", b"[]", "has no rows"),
        ("rows.jsonl", b"\n \n", "has no rows"),
        ("rows.jsonl", b'{"text": "a"}\n{"text": "\xff"}', "rows.jsonl:2: not UTF-8 text (byte 11)"),
        ("rows.jsonl.gz", b"plain", "no complete gzip file"),
        ("rows.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 999, mtime=0)[:-12], "no complete gzip file"),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        list(read_conversations(tmp_path / name))
    assert said in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    for path, said in ((tmp_path / "none.jsonl", "there is no file"), (tmp_path, "is a folder")):
        with pytest.raises(UserError, match=said):
            list(read_conversations(path))


def test_writing_is_all_or_nothing_and_the_same_each_time(tmp_path):
    def rows():
        yield {"text": "a"}
        raise UserError("stop")

    path = tmp_path / "out.jsonl.gz"
    with pytest.raises(UserError):
        write_rows(path, rows())
    assert list(tmp_path.iterdir()) == []
    write_rows(path, [{"text": "猫"}])
    first = path.read_bytes()
    write_rows(path, [{"text": "猫"}])
    assert path.read_bytes() == first and first[3:8] == bytes(5)  # neither name nor time in the header (RFC 1952)
    assert gzip.decompress(first).decode() == '{"text": "猫"}\n'


def run(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "data.formats", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)


def test_the_command_counts_and_converts(tmp_path):
    path = save(tmp_path, [CASES["self-instruct"][0], CASES["text"][0], CASES["text"][0]], "array")
    done = run(path, "--to", tmp_path / "out.jsonl")
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()[1:3]] == [
        ["self-instruct", "1", "2", "4"],
        ["text", "2", "2", "2"],
    ]
    assert list(read_conversations(tmp_path / "out.jsonl")) == list(read_conversations(path))


def test_the_command_fails_in_one_sentence_and_leaves_nothing(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"a": 1}\n', "utf-8")
    done = run(path, "--to", tmp_path / "out.jsonl")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "rows.jsonl:2" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]
    assert run(tmp_path / "none.jsonl").returncode == 2
    path.write_text('{"text": "a"}\n', "utf-8")
    assert "is a folder" in run(path, "--to", tmp_path).stderr


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public data files are not beside this checkout (../shared/data)")
@pytest.mark.parametrize(
    ("file", "format", "rows", "messages"),
    [
        ("self_instruct/seed_tasks.jsonl", "self-instruct", 175, 350),
        ("belle/zh_seed_tasks.json", "self-instruct", 175, 350),  # JSON lines in spite of its name
        ("gsm8k/train.jsonl", "question", 7473, 14946),
        ("llamafactory_demo/alpaca_en_demo.json", "alpaca", 999, 1998),
        ("llamafactory_demo/alpaca_zh_demo.json", "alpaca", 1000, 2000),
        ("llamafactory_demo/identity.json", "alpaca", 91, 182),
        ("llamafactory_demo/glaive_toolcall_en_demo.json", "sharegpt", 300, 2214),
        ("llamafactory_demo/glaive_toolcall_zh_demo.json", "sharegpt", 300, 2180),
        ("llamafactory_demo/reason_tool_use_demo_50.jsonl", "messages", 50, 274),
        ("llamafactory_demo/c4_demo.jsonl", "text", 300, 300),
    ],
)
def test_public_files(tmp_path, file, format, rows, messages):
    conversations = list(read_conversations(SHARED / file))
    assert len(conversations) == rows
    assert sum(len(c.messages) for c in conversations) == messages
    write_rows(tmp_path / "canonical.jsonl", map(to_row, conversations))
    assert list(read_conversations(tmp_path / "canonical.jsonl")) == conversations
    census((encode(c, LETTERS, ChatFormat()) for c in conversations[:200]), LETTERS, ChatFormat())
    if format != "text":
        assert all(any(m.role == A for m in c.messages) for c in conversations)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public data files are not beside this checkout (../shared/data)")
@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("llamafactory_demo/dpo_en_demo.json", "compares answers"),
        ("llamafactory_demo/kto_en_demo.json", "rates its answer"),
        ("natural_instructions/definitions.jsonl", "unknown format with the keys task, value"),
        ("llamafactory_demo/wiki_demo.txt", "not JSON"),
    ],
)
def test_public_files_that_are_no_conversations_are_refused(file, said):
    with pytest.raises(UserError, match=said):
        list(read_conversations(SHARED / file))


def test_a_key_that_is_given_twice_is_refused(tmp_path):
    """JSON keeps the last one, so that one of two answers would be learnt without a word."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fine"}\n{"prompt": "q", "completion": "a", "completion": "b"}\n', "utf-8")
    with pytest.raises(UserError, match=r"rows.jsonl:2: the key 'completion' is given twice; remove one"):
        list(read_conversations(path))
