"""The demo's section on construction: which items it shows, and what it says of them."""

from __future__ import annotations

from instruct.exam import KINDS
from instruct.records import Decision, Instance, Origin, Record
from train.demo_construct import _shown, chosen, construction_page, points


def record(number: int, code: str, method: str = "magpie") -> Record:
    pair = Instance("a | b", "c", "O1", True)
    kept = code == "verified"
    text, fate = f"Do\nthing {number}.", Decision(code)
    return Record(text, (pair,) if kept else (), "en", False, Origin(method), "first", "f", decision=fate)


def facts(seeds: float, verified: float) -> dict:
    def of(value):
        return {kind: {"asked": 10, "direct": value, "plan": value / 2} for kind in KINDS}

    counts = {"asked": 4, "raw": 4, "dropped": {"parse": 3}, "undecided": 0, "kept": {"verified": 1}, "seeds": 0}
    items = [_shown(each) for each in chosen([record(0, "verified"), record(1, "parse")])]
    marks = {"seeds": [of(0.1), of(seeds)], "verified": [of(0.1), of(verified)]}
    return {"marks": marks, "funnel": counts, "items": items}


def test_kept_and_fallen_are_shown_in_equal_parts_of_different_kinds():
    records = [record(n, "verified", "magpie") for n in range(9)] + [record(9, "verified", "induce")]
    records += [record(10 + n, "parse") for n in range(9)] + [record(20, "known"), record(21, "wrong")]
    shown = chosen(records)
    assert [each.kept for each in shown] == [True] * 5 + [False] * 5
    assert {each.origin.method for each in shown[:2]} == {"magpie", "induce"}
    assert {each.decision.code for each in shown[5:8]} == {"parse", "known", "wrong"}


def test_where_one_kind_is_short_the_other_fills_the_places():
    assert len(chosen([record(n, "verified") for n in range(20)])) == 10
    assert len(chosen([record(n, "parse") for n in range(20)] + [record(30, "verified")])) == 10
    assert chosen([]) == []


def test_the_page_says_the_gain_and_keeps_its_table_whole():
    page = list(construction_page(facts(0.2, 0.45)))
    assert abs(points(facts(0.2, 0.45)) - 25) < 1e-9
    assert any("**+25.0 points**" in line for line in page)
    rows = [line for line in page if line.startswith("| Do thing")]
    assert len(rows) == 2 and "a \\| b → c" in rows[0] and "**kept**" in rows[0] and "parse:" in rows[1]
    assert all(row.replace("\\|", "").count("|") == 6 for row in rows)
