"""Audit: annotations, final answers and lengths of lists; repairs that make no new contradiction."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct.audit import audit, repaired


def kinds(answer: str, instruction: str = "") -> list[tuple[str, str]]:
    return [(fault.kind, fault.right) for fault in audit(instruction, answer).faults]


# GSM8K ---------------------------------------------------------------------------------------------------------------

GOOD = "Sold 48/2 = <<48/2=24>>24 clips in May.\nSold 48+24 = $<<48+24=72>>72 altogether.\n#### 72"


def test_what_is_right_is_counted_and_passes():
    found = audit("How many?", GOOD)
    assert found.faults == ()
    assert found.checked == {"sum": 2, "annotation": 2, "final": 1}


@pytest.mark.parametrize(
    ("answer", "faults"),
    [
        (GOOD.replace("<<48/2=24>>", "<<48/2=25>>"), [("annotation", "24")]),
        (GOOD.replace("=72>>72", "=72>>73"), [("sum", "72"), ("annotation", "72")]),
        (GOOD.replace("#### 72", "#### 70"), [("final", "72")]),
        ("The rest is <<100-30=70>>70.\nThen he takes 5 more.\n#### 75", []),  # a step without annotation
        ("x = <<10=10>>10\n#### 4", [("final", "10")]),
        ("<<5/20*100=25>>25% of it.\n#### 25", []),
        ("It is <<25/100=.25>>25%.\n#### 25", []),  # shown as per cent
        ("<<2/3=.67>>.67 of 9", []),
        ("<<720+270=990.00>>990.00\n#### 990", []),
        ("<<1000+200=1200>>$1,200 in all\n#### 1,200", []),
        ("<<+30+46=76>>76 and <<180//3=60>>60", []),
        ("<<what>>3 <<=>>4 <<3=>>", []),
        ("a << b and c >> d", []),
    ],
)
def test_annotations_and_final_answers(answer, faults):
    assert kinds(answer) == faults


# Lists ---------------------------------------------------------------------------------------------------------------


def numbered(count: int) -> str:
    return "\n".join(f"{i}. Item {'abcdefghij'[i - 1]}" for i in range(1, count + 1))


@pytest.mark.parametrize(
    "instruction",
    [
        "List five advantages of tea.",
        "Name 5 rivers in Asia",
        "Give me five examples of metaphors.",
        "Please suggest five ways to save water",
        "Create a list of 5 hobbies.",
        "列出五种水果。",
        "请给出5个保护环境的建议",
        "列出企业管理的五个要素。",
    ],
)
def test_lists_of_the_wrong_length(instruction):
    assert kinds(numbered(5), instruction) == [] and audit(instruction, numbered(5)).checked == {"count": 1}
    assert kinds(numbered(4), instruction) == [("count", "5")]
    assert kinds(f"Here they are:\n\n{numbered(6)}\n\nGood luck!", instruction) == [("count", "5")]
    bullets = "\n".join(f"- point {letter}" for letter in "abcd")
    assert kinds(bullets, instruction) == [("count", "5")]
    assert kinds(bullets + "\n- point e", instruction) == []
    assert kinds("red, green, blue, white", instruction) == [("count", "5")]
    assert kinds("red, green, blue, white and black", instruction) == []
    assert kinds("红色、绿色、蓝色、白色和黑色。", instruction) == []


def test_at_least():
    assert kinds(numbered(5), "List at least three fruits.") == []
    assert kinds(numbered(2), "List at least three fruits.") == [("count", "at least 3")]
    assert kinds(numbered(2), "列出至少三种水果。") == [("count", "at least 3")]


@pytest.mark.parametrize(
    ("instruction", "answer"),
    [
        ("List five words that rhyme with cat.", numbered(4)),  # words may stand in running text
        ("Write three sentences about tea.", numbered(2)),
        ("Create a 5-step plan.", numbered(4)),
        ("List 3 pros and 2 cons.", numbered(5)),
        ("List three advantages and disadvantages.", numbered(6)),
        ("Give three examples for each group.", numbered(6)),
        ("Suggest 5-6 cities.", numbered(7)),
        ("List one fruit.", numbered(2)),
        ("Name three ways to cook two eggs.", numbered(2)),
        ("写三个句子。", numbered(2)),
        ("用五个字描述春天。", numbered(2)),
        ("列出三个优点和缺点。", numbered(6)),
        ("List five planets.", "1. Mars\n  1. red\n  2. dry\n2. Venus"),  # lists within a list
        ("List five planets.", "1. Mars\n2. Venus\n\n1. Earth\n2. Pluto"),  # two lists
        ("List five planets.", "Inner:\n- Mars\nOuter:\n- Saturn"),
        ("List twelve planets.", "There are only eight:\n" + numbered(8)),
        ("请列出五位女首相。", "只有两位：\n" + numbered(2)),
        ("List five planets.", "Mars, which is red, Venus (hot), and more."),
        ("List five planets.", "The planets are many, big, old"),
        ("List five planets.", "the small red one far out, the hot one, a cold one"),
        ("List five planets.", "No idea"),
        ("Explain why five is odd.", numbered(3)),
    ],
)
def test_lists_that_are_not_judged(instruction, answer):
    assert audit(instruction, answer).checked["count"] == 0


# Repairs -------------------------------------------------------------------------------------------------------------


def mended(answer: str) -> str | None:
    return repaired(answer, audit("", answer).faults)


def test_a_repaired_answer_is_right_everywhere_else_as_before():
    assert mended("First 3 + 4 = 8, then 10 - 1 = 8.5.") == "First 3 + 4 = 7, then 10 - 1 = 9."
    assert mended("He pays 13 + 4 = $45 for it.") == "He pays 13 + 4 = $17 for it."
    assert mended("Nothing wrong: 1 + 1 = 2") == "Nothing wrong: 1 + 1 = 2"


def test_what_was_used_again_is_not_repaired():
    assert mended("8*3 = <<80*3=240>>240\nThen 240/60 = <<240/60=4>>4\n#### 4") is None
    assert mended("3 + 4 = 8. So it is 8.") is None
    assert repaired(numbered(4), audit("List five rivers.", numbered(4)).faults) is None


@given(st.text(max_size=80), st.text(st.sampled_from("List five\n1.2345 <>=#-+,和列出三个"), max_size=60))
def test_no_text_crashes(one, other):
    for instruction, answer in ((one, other), (other, one), ("List three things.", other)):
        found = audit(instruction, answer)
        assert len(found.faults) <= found.checked.total()
        assert repaired(answer, found.faults) is None or not found.faults or repaired(answer, found.faults) != answer
