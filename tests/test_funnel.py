"""Reports: the funnel adds up, ancestry is followed back to the seeds, statistics are counted by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import UserError
from instruct.funnel import diversity, funnel, main, show_funnel, show_stats, stats, why
from instruct.records import REASONS, Decision, Instance, Origin, Record, write_records

ROOT = Path(__file__).parents[1]
SEED = Record("Sort the numbers.", (Instance("2 1", "1 2", "human"),), program="sort_up", behaviour="a1",
              origin=Origin(place="s.jsonl:1"), decision=Decision("given"))  # fmt: skip
CHILD = Record("Sort, then reverse.", (Instance("2 1", "2 1", "O1", True, 6),), program="sort_up | reverse",
               behaviour="b2", origin=Origin("evolve:deepen", 1, (SEED.id,), {"temperature": 1.3}, "runs/a"),
               scores={"rouge": 0.25}, decision=Decision("verified"))  # fmt: skip
GRANDCHILD = Record("排序", (Instance("3 1", "3 1", "O1", False),), decision=Decision("wrong", "right is 1 3"),
                    origin=Origin("magpie", 2, (CHILD.id, SEED.id, "gone")))  # fmt: skip
OPEN = Record("Add them.", origin=Origin("magpie", 2))
ALL = [SEED, CHILD, GRANDCHILD, OPEN]


@given(st.lists(st.sampled_from([None, *REASONS]), max_size=30), st.integers(0, 5))
def test_the_funnel_adds_up(codes, seeds):
    """raw = dropped + undecided + kept, whatever the fates; what is left at the end is what was kept."""
    made = [Record(str(i), origin=Origin("magpie"), decision=code and Decision(code)) for i, code in enumerate(codes)]
    counts = funnel([SEED] * seeds + made, asked=40)
    kept = sum(counts["kept"].values())
    assert counts["raw"] == len(codes) == sum(counts["dropped"].values()) + counts["undecided"] + kept
    assert counts["seeds"] == seeds
    assert all(not REASONS[code].kept for code in counts["dropped"]) and all(
        REASONS[code].kept for code in counts["kept"]
    )
    lines = list(show_funnel(counts))
    [line] = [line for line in lines if line.startswith("kept")]
    assert int(line.split()[1]) == kept
    falling = [int(line.split()[-1]) for line in (each[:47] for each in lines) if line.startswith("  ") and "-" in line]
    assert falling == sorted(falling, reverse=True) and (not falling or falling[-1] == kept)


def test_the_funnel_says_what_was_asked_for_and_never_came():
    lines = "\n".join(show_funnel(funnel(ALL, asked=1000)))
    assert "997 fewer than were asked for" in lines
    assert "0.1% of what was asked for" in lines
    assert "the answer is not right" in lines and "nothing has judged it yet" in lines


def test_why_shows_the_whole_ancestry_once():
    text = "\n".join(why(ALL, GRANDCHILD.id[:10]))
    first, *rest = text.splitlines()
    assert first == f"{GRANDCHILD.id}  dropped at V6, wrong: the answer is not right (right is 1 3)"
    assert "'3 1' -> '3 1'   [O1, the model's own answer, judged by the verifier; wrong]" in text
    assert "evolve:deepen: made from its parent by an operator; round 1, temperature 1.3" in text
    assert f"    {CHILD.id}  kept, verified: a program ran it, and every answer is right" in rest
    assert f"        {SEED.id}  kept, given: a seed" in rest  # the seed under the child
    assert f"    {SEED.id}  (see above)" in rest
    assert "    gone  (not in these files)" in rest
    assert "s.jsonl:1" in text and "runs/a" in text and "rouge 0.25" in text and "6 votes" in text


def test_why_ends_in_a_circle_of_parents():
    one = Record("a", origin=Origin("paraphrase", 1, (Record("b").id,)))
    two = Record("b", origin=Origin("paraphrase", 1, (Record("a").id,)))
    assert sum("(see above)" in line for line in why([one, two], one.id)) == 1


@pytest.mark.parametrize("id", ["", "zz", "nothing"])
def test_why_wants_one_item(id):
    with pytest.raises(UserError, match="0 of 4 ids begin with"):
        list(why(ALL, id))


def test_stats_count():
    found = stats(ALL)
    assert found["records"] == 4 and found["standing"] == 3
    assert found["methods"]["magpie"] == {"raw": 2, "kept": 0}
    assert found["languages"] == {"en": 3}
    assert found["depth"] == {"1": 1, "2": 1}
    assert found["behaviours"] == 2
    assert found["label sources"] == {"O1": 1, "human": 1}
    assert found["verified"] == {"none": 1, "true": 1}
    assert any(line.startswith("methods") and "magpie 0 kept of 2" in line for line in show_stats(found))


def test_diversity_by_hand():
    found = diversity(["a b", "a b", "把 a 排"], [["x", "y"], ["y", "x", "y"], ["x"]])
    assert found["distinct instructions"] == round(2 / 3, 4)
    assert found["distinct-1"] == round(4 / 7, 4)  # a b 把 排 of a b a b 把 a 排
    assert found["distinct-2"] == round(3 / 4, 4)
    assert found["pairs of operations"] == 2
    assert found["entropy of pairs"] == 0.9183  # x y twice, y x once
    assert diversity([], [])["entropy of pairs"] == 0.0


# The command ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    write_records(tmp_path / "seeds.jsonl", [SEED])
    write_records(tmp_path / "round.jsonl", ALL[1:])
    return [str(tmp_path / "seeds.jsonl"), str(tmp_path / "round.jsonl")]


def test_the_command_reads_several_files(files, capsys):
    main(["funnel", *files, "--asked", "5", "--json"])
    assert json.loads(capsys.readouterr().out) == funnel(ALL, 5)
    main(["stats", *files, "--json"])
    assert json.loads(capsys.readouterr().out) == stats(ALL)
    main(["why", *files, "--id", CHILD.id])
    assert SEED.id in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["why"], ["funnel", "--id", "3"]])
def test_why_and_id_belong_together(files, arguments):
    with pytest.raises(UserError, match="needs --id"):
        main([arguments[0], *files, *arguments[1:]])


def test_the_command_line_runs_and_fails_in_one_sentence(files, tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "instruct.records", *arguments], cwd=ROOT, capture_output=True, encoding="utf-8"
        )

    good = run("funnel", *files)
    assert good.returncode == 0 and good.stdout.startswith("raw") and not good.stderr
    (tmp_path / "bad.jsonl").write_text('{"instruction": 3}\n', "utf-8")
    bad = run("stats", str(tmp_path / "bad.jsonl"))
    assert bad.returncode == 2 and bad.stdout == ""
    assert bad.stderr.startswith("error: ") and "bad.jsonl:1: `instruction` must be text, got 3" in bad.stderr
