"""Verification: every stage is reached, named and passed as it should be; the command tells right from wrong files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import UserError
from data.formats import read_conversations
from instruct.records import Decision, Instance, Origin, Record, write_records
from instruct.verify import Verifier, main
from instruct.world import number_lists, numbers
from instruct.world.behaviour import Behaviour
from instruct.world.grammar import Grammar
from instruct.world.inputs import sample_defined
from instruct.world.program import Program, World

ROOT = Path(__file__).parents[1]
SMALL = World((*numbers.OPERATIONS, *number_lists.OPERATIONS))
VERIFIER = Verifier(Behaviour(SMALL))
SUM = VERIFIER.judge("Add up the numbers.")


def code(*texts: str, **others) -> str | None:
    decision = VERIFIER.judge(*texts, **others).decision
    return decision and decision.code


# The stages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "fate"),
    [
        (("",), "format"),
        ((" \t",), "format"),
        (("Add up\nthe numbers.",), "format"),
        (("Add up the numbers.", "3\n4", "7"), "format"),
        (("Add up the numbers.", "3 4", ""), "format"),
        (("Add up the numbers. " * 40,), "format"),
        (("Add up \ud800 the numbers.",), "format"),
        (("Add up the numbers.", "", "7"), "format"),  # an answer to nothing
        (('What is the sum of "3 4"?', "3 4", "7"), "format"),  # two inputs
        (("Write a poem.", "3 4", "7"), "parse"),
        (("Add up the numberz.", "3 4", "7"), "parse"),
        (("__import__('os').system('true')",), "parse"),
        (("Add up the numbers.", "3 four", "7"), "type"),
        (('What is the sum of "cat dog"?', "", "7"), "type"),
        (("What is the maximum of the numbers?", "none", "1"), "run"),
        (("Add up the numbers.", "3 4", "8"), "wrong"),
        (("Add up the numbers.", "3 4", "7 "), "verified"),
        (("Add up the numbers.", "3 4", "7."), "verified"),
        (("add up the  numbers", "3 4", "７"), "verified"),
        (('What is the sum of "3 4"?', "", "7"), "verified"),
        (("求这些数的总和。", "3 4", "7"), "verified"),
        (("Add up the numbers.",), None),
        (("Add up the numbers.", "3 4"), None),
    ],
)
def test_every_stage(texts, fate):
    assert code(*texts) == fate


def test_a_wrong_answer_comes_with_the_right_one():
    verdict = VERIFIER.judge("Add up the numbers.", "3 4", "8")
    assert (verdict.answer, verdict.right, verdict.program) == ("7", False, "sum")
    assert str(verdict.decision).endswith("(right is 7)") and not verdict.passed
    assert VERIFIER.judge("Add up the numbers.", "3 4", verdict.answer).passed


def phrased(program: str, language: str = "en") -> str:
    return Grammar(SMALL).phrase(Program.read(program), Random(0), language)


@pytest.mark.parametrize(
    ("program", "input", "output", "fate"),
    [
        ("negate_number | negate_number", "5", "5", "identity"),
        ("sort_up | sort_down", "1 3 2", "3 2 1", "redundant"),
        ("square | absolute", "3", "9", "redundant"),
    ],
)
def test_what_is_trivial_falls_though_its_answer_is_right(program, input, output, fate):
    for language in ("en", "zh"):
        verdict = VERIFIER.judge(phrased(program, language), input, output)
        assert verdict.decision.code == fate
        assert verdict.right is True and verdict.answer == output


def test_novelty_is_in_the_behaviour_not_in_the_words():
    known = {SUM.behaviour}
    assert code("Add up the numbers.", "3 4", "7", known=known) == "known"
    assert code("求这些数的总和。", "3 4", "7", known=known) == "known"
    assert code("What is the maximum of the numbers?", "3 4", "4", known=known) == "verified"


def test_what_is_held_out_is_dropped_in_the_language_where_it_is():
    def touches(program: Program, language: str) -> str:
        return "sum is held out" if language == "en" and "sum" in str(program) else ""

    strict = Verifier(Behaviour(SMALL), touches)
    assert strict.judge("Add up the numbers.", "3 4", "7").decision == Decision("test split", "sum is held out")
    assert strict.judge("求这些数的总和。", "3 4", "7").decision.code == "verified"


@given(st.integers(0, 10**6), st.sampled_from(["en", "zh"]))
def test_what_the_world_says_is_verified_and_any_other_answer_is_not(seed, language):
    """Written by the grammar, answered by the interpreter: read back to the same behaviour and accepted as it is."""
    rng = Random(seed)
    step = rng.choice(SMALL.steps())
    program = Program((step,))
    drawn = sample_defined(SMALL, program, rng, language)
    if drawn is None:
        return
    input, output = drawn
    verdict = VERIFIER.judge(Grammar(SMALL).phrase(program, rng, language), input, output)
    assert verdict.behaviour == VERIFIER.behaviour.fingerprint(program)
    assert verdict.right is True
    other = VERIFIER.judge(Grammar(SMALL).phrase(program, rng, language), input, output + " 9")
    assert other.right is False


@given(st.text(max_size=40), st.text(max_size=20), st.none() | st.text(max_size=20))
def test_no_text_crashes(instruction, input, output):
    assert not VERIFIER.judge(instruction, input, output).passed
    VERIFIER.judge("Add up the numbers.", input, output)
    VERIFIER.judge(f'What is the sum of "{input}"?', "", output)


# Records -------------------------------------------------------------------------------------------------------------


def test_a_record_is_decided_by_its_first_instance_that_falls():
    right, wrong = Instance("3 4", "7", "O1"), Instance("1 2", "4", "O1")
    record = Record("Add up the numbers.", (right, wrong, right), origin=Origin("magpie", 1))
    judged = VERIFIER.judged(record)
    assert [instance.verified for instance in judged.instances] == [True, False, True]
    assert judged.decision == Decision("wrong", "right is 3")
    assert (judged.program, judged.behaviour) == ("sum", SUM.behaviour)
    assert judged.id == record.id and judged.origin == record.origin
    good = VERIFIER.judged(Record("Add up the numbers.", (right, right)))
    assert good.kept and good.decision.code == "verified"
    assert VERIFIER.judged(Record("Add up the numbers.")).decision is None
    unread = VERIFIER.judged(Record("Sing.", (right,)))
    assert unread.decision.code == "parse" and unread.instances[0].verified is None and unread.program is None


# The command ---------------------------------------------------------------------------------------------------------

ROWS = [
    {"instruction": "How many?", "input": "", "output": "It is 3 + 4 = 7."},
    {"instruction": "How many?", "input": "", "output": "It is 3 + 4 = 8 clips, and no more."},
    {"instruction": "List three fruits.", "input": "", "output": "1. Apple\n2. Pear"},
    {"instruction": "Add up the numbers.", "input": "3 4", "output": "8"},
    {"instruction": "Add up the numbers.", "input": "3 4", "output": "The sum is seven."},
    {"question": "How much?", "answer": "It is <<2*3=7>>6.\n#### 6"},
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    return path


def test_faults_are_reported_with_line_claim_and_repair(file, tmp_path, capsys):
    assert main([str(file), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    places = [(each["place"].removeprefix(f"{file}:"), each["kind"], each["right"]) for each in found["faults"]]
    assert places == [("2", "sum", "7"), ("3", "count", "3"), ("4", "answer", "7"), ("6", "annotation", "6")]
    assert found["answers"] == 6
    assert found["checked"] == {"sum": 2, "count": 1, "answer": 1, "annotation": 1, "final": 1}
    assert found["wrong"] == {"sum": 1, "count": 1, "answer": 1, "annotation": 1}


def test_what_is_right_or_repaired_is_written_and_is_right(file, tmp_path, capsys):
    out = tmp_path / "repaired.jsonl"
    assert main([str(file), "--repair", str(out)]) == 1
    printed = capsys.readouterr().out
    assert f"{file}:2: sum: '3 + 4 = 8 clips'; right is 7" in printed and "wrote 5 conversations" in printed
    answers = [conversation.messages[-1].content for conversation in read_conversations(out)]
    assert answers == ["It is 3 + 4 = 7.", "It is 3 + 4 = 7 clips, and no more.", "7", "The sum is seven.",
                       "It is <<2*3=6>>6.\n#### 6"]  # fmt: skip
    assert main([str(out)]) == 0


def test_records_that_were_dropped_are_not_audited_again(tmp_path, capsys):
    kept = Record("Add.", (Instance("", "3 + 4 = 7"),), decision=Decision("unverified"))
    dropped = Record("Add!", (Instance("", "3 + 4 = 8"),), decision=Decision("wrong"))
    write_records(tmp_path / "r.jsonl", [kept, dropped])
    assert main([str(tmp_path / "r.jsonl")]) == 0
    assert "1 answers: sum 0 wrong of 1" in capsys.readouterr().out


def test_nothing_to_judge_is_said(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"prompt": "Hi", "completion": "Hello"}\n', "utf-8")
    assert main([str(tmp_path / "a.jsonl")]) == 0
    assert capsys.readouterr().out == "1 answers: nothing that can be judged\n"


def test_a_broken_file_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"prompt": "Hi", "completion": "Hello"}\n{"prompt": 3, "completion": ""}\n', "utf-8"
    )
    with pytest.raises(UserError, match=r"a\.jsonl:2: `prompt` must be text"):
        main([str(tmp_path / "a.jsonl")])


def test_exit_statuses_of_the_command_line(file, tmp_path):
    """1 with faults, 0 without, 2 for a file that is not there; the last in one sentence."""
    (tmp_path / "good.jsonl").write_text(json.dumps(ROWS[0]) + "\n", "utf-8")
    for path, status in ((file, 1), (tmp_path / "good.jsonl", 0), (tmp_path / "none.jsonl", 2)):
        command = [sys.executable, "-m", "instruct.verify", str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
        assert done.returncode == status, done.stderr
        assert (status == 2) == done.stderr.startswith("error: there is no file") and done.stderr.count("\n") <= 1
