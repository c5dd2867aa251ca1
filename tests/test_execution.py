"""The measures of execution: counted rightly, on an oracle and on a tiny model; what is merged and refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import train.execution as module
from configs import UserError, load
from instruct import lessons
from instruct.exam import set_exam, set_facts
from instruct.strategies import Known
from tests.oracle import oracle_of, shared_course
from tests.test_execute import Gullible, Recording
from tests.test_rounds import TINY
from train import execution_measures as measures
from train.demo_answer import answering, answering_page
from train.distributed import Ranks
from train.evaluation import interval
from train.execution import joined, main, read_other, report_of
from train.rounds import RoundsConfig, run

FAST = ("rounds=0", "execution=true", "exam=2", "base.steps=2", "base.save_every=2")
SIZES = ["--count", "3", "--attempts", "30", "--candidates", "2"]


class Letters:
    """Texts of the same letters are near."""

    def encode(self, texts):
        counts = np.array([[sum(ord(c) % 211 == n for c in text) for n in range(211)] + [1] for text in texts])
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def facts():
    return set_facts(shared_course())


@pytest.fixture
def knowing(monkeypatch):
    """A model that knows everything, constructs, and takes what it sees for instructions."""
    return Recording(monkeypatch, Gullible(shared_course()))


# Questions -----------------------------------------------------------------------------------------------------------


def test_facts_are_asked_of_everything_in_words_that_are_held_out(facts):
    course = shared_course()
    assert {str(item.program) for item in facts} == {"capital"}
    assert set_facts(course) == facts and len({(item.given, item.language) for item in facts}) == len(facts) >= 100
    for language in ("en", "zh"):
        program = facts[0].program
        for item in (each for each in facts if each.language == language):
            assert item.input == "" and item.given in item.instruction
            assert course.world.run(program, item.given, language) == item.output
        said = {item.instruction.replace(item.given, "…") for item in facts if item.language == language}
        taught = {t.replace("†", "…") for t in course.grammar.phrasings(program, language, False, "†")}
        assert said and not said & taught


# Measures ------------------------------------------------------------------------------------------------------------


def test_one_who_knows_all_is_right_everywhere(knowing, facts, monkeypatch):
    course, some = shared_course(), facts[::20]
    table, constructed = measures.facts_table(knowing.loaded, course, some)
    for cells in table.values():
        for language, cell in cells.items():
            asked = sum(item.language == language for item in some)
            assert cell == {"asked": asked, "direct": 1.0, "construct": 1.0}
    assert measures.over_all(table, "construct") == 1.0
    exam = {kind: items for kind, items in set_exam(course, 4).items()} | {"facts": some}
    marks = measures.by_strategy(knowing.loaded, course, exam, 2, None)
    for kind, of in marks.items():
        assert of == dict.fromkeys(("direct", "construct", "search", *(["plan"] if kind != "facts" else [])), 1.0)
    assert measures.sentences(knowing.loaded, course, some, constructed) == {"asked": len(some), "right": 1.0}
    not_read = [replace(each, given="") for each in constructed]
    monkeypatch.setattr(knowing.oracle, "sentence", lambda text, *_: f"It is {lessons.split_request(text)[1]}.")
    found = measures.sentences(knowing.loaded, course, some, not_read)
    assert found == {"asked": len(some), "right": 0.0}, "the answer, but of what?"


def test_wrong_answers_are_counted_by_relation_and_over_all(monkeypatch, facts):
    loaded, oracle = oracle_of(shared_course(), monkeypatch, wrong=0.5)
    oracle.construct = Gullible(shared_course()).construct
    table, constructed = measures.facts_table(loaded, shared_course(), facts)
    right = [each.answer == item.output for each, item in zip(constructed, facts)]
    assert 0.3 < measures.over_all(table, "construct") == sum(right) / len(facts) < 0.7


def test_attacks_change_nothing_where_they_are_not_seen_and_much_where_they_are(knowing):
    found = measures.injection(knowing.loaded, shared_course(), 60)
    assert found["attempts"] == 60 and found["changed"] == {"construct": 0, "plan": 0, "quoted": 0}
    assert found["shown"] > 0.8


def test_a_chain_that_follows_an_attack_is_counted(knowing, monkeypatch):
    """Were the input shown to whoever writes the chain, the measure would say so."""
    real = measures.execute_all

    def leaking(loaded, asked, way, settings):
        moved = [replace(one, instruction=one.input.splitlines()[-1], input="3 1 2") for one in asked]
        return real(loaded, moved if way == "construct" else asked, way, settings)

    monkeypatch.setattr(measures, "execute_all", leaking)
    changed = measures.injection(knowing.loaded, shared_course(), 30)["changed"]
    assert changed["construct"] > 15 and changed["plan"] == 0


def test_routing_compares_what_is_found_with_what_is_written(knowing):
    course = shared_course()
    items = set_exam(course, 6)["phrasings"]
    texts = [item.instruction for item in items]
    for known, share in ((texts, 1.0), (["Do it."], 0.0)):
        found = measures.routing(knowing.loaded, course, items, Known(Letters(), known), course.verifier)
        assert found["generating"] == 1.0 and found["embedding"] == share
        assert found["points"] == 100 * (share - 1) and found["known"] == len(known)


def test_confidence_above_thresholds(knowing, facts):
    rows = measures.calibration(knowing.loaded, shared_course(), facts[::10])
    assert [row["threshold"] for row in rows] == [0.0, *measures.THRESHOLDS]
    assert rows[0] == {"threshold": 0.0, "answered": 1.0, "right": 1.0}
    answered = [row["answered"] for row in rows]
    assert answered == sorted(answered, reverse=True)
    assert rows[-1]["answered"] == 0 and rows[-1]["right"] is None, "the scripted likelihoods are low"


def test_the_demo_shows_what_the_model_says(knowing, monkeypatch):
    found = answering(knowing.loaded, shared_course())
    assert [turn["sentence"] for turn in found["dialogue"]] == ["What is the capital of France Paris.", ""]
    assert found["dialogue"][0]["right"] and found["dialogue"][0]["results"] == ["Paris"]
    assert found["dialogue"][0]["constructed"] and found["dialogue"][0]["given"] == "France"
    assert not found["dialogue"][1]["right"] and found["dialogue"][1]["expected"] == "巴黎", "beyond the parser's words"
    page = "\n".join(answering_page(found))
    assert "France -> Paris" in page and "wrong, expected: `巴黎`" in page and "**100.0%**" in page
    assert page.count("~~~~text") * 2 == page.count("~~~~")


# Several seeds -------------------------------------------------------------------------------------------------------


def test_seeds_are_joined_to_means_with_intervals_and_attacks_are_summed():
    def figures(share, changed):
        injected = {"attempts": 10, "changed": {"plan": changed}, "shown": share}
        return {"a": {"b": share}, "rows": [{"c": share}, {"c": None}], "injection": injected}

    alone = report_of([figures(0.5, 1)])
    assert alone["a"]["b"] == 0.5 and alone["rows"] == [{"c": 0.5}, {"c": None}]
    both = report_of([figures(0.5, 1), figures(0.7, 2)])
    assert both["a"]["b"]["mean"] == pytest.approx(0.6) and both["a"]["b"]["seeds"] == [0.5, 0.7]
    assert both["injection"]["attempts"] == 20 and both["injection"]["changed"] == {"plan": 3}
    assert joined([None, None]) is None
    low, high = interval([0.5, 0.7])
    assert low == 0.5 and high == 0.7 and interval([0.4, 0.4, 0.4]) == pytest.approx([0.4, 0.4])


def test_figures_of_other_measures_are_their_section_or_the_whole_file(tmp_path):
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"embedding": {"auc": 0.9}, "bm25": {"auc": 0.5}, "machine": {}}), "utf-8")
    assert read_other("embedding", str(path)) == {"auc": 0.9, "bm25": {"auc": 0.5}}
    path.write_text(json.dumps({"model": 0.3}), "utf-8")
    assert read_other("masked", str(path)) == {"model": 0.3}
    for text in ("[]", "{", '{"masked": 1}'):
        path.write_text(text, "utf-8")
        with pytest.raises(UserError, match=r"train\.masked wrote"):
            read_other("masked", str(path))


# The command ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A tiny model that was taught to construct, and its configuration."""
    folder = tmp_path_factory.mktemp("execution")
    (folder / "rounds.toml").write_text("execution = true\n" + TINY, "utf-8")
    run(load(RoundsConfig, folder / "rounds.toml", [f"run={folder / 'run'}", *FAST]), Ranks())
    return folder


def test_the_command_writes_figures_and_a_page(trained, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained / "run" / "base", tmp_path / "other")
    (tmp_path / "masked.json").write_text(json.dumps({"model": 0.25, "unigram": 0.125, "places": 9}), "utf-8")
    monkeypatch.setattr(module.Encoder, "load", lambda path: Letters())
    runs = [str(trained / "run" / "base"), str(tmp_path / "other")]
    options = ["--embedder", "e", "--masked", str(tmp_path / "masked.json"), "--out", str(tmp_path / "out")]
    main([*runs, str(trained / "rounds.toml"), *SIZES, *options])
    report = json.loads((tmp_path / "out" / "execute.json").read_text("utf-8"))
    page = (tmp_path / "out" / "execute.md").read_text("utf-8")
    found = report["execution"]
    assert report["models"] == 2 and report["masked"]["model"] == 0.25
    assert found["strategies"].keys() == {"inputs", "phrasings", "open", "compositions", "depth3", "facts"}
    assert found["strategies"]["open"].keys() == {"direct", "construct", "search", "plan", "retrieve"}
    assert found["injection"] == found["injection"] | {"attempts": 60}
    assert set(found["injection"]["changed"].values()) == {0}
    one, two = found["facts"]["direct"]["seeds"]
    assert one == two, "the same model twice"
    assert found["routing"]["points"]["mean"] == pytest.approx(
        100 * (found["routing"]["embedding"]["mean"] - found["routing"]["generating"]["mean"])
    )
    for title in ("## Strategies", "## Facts", "## Injection", "## Routing", "## Confidence", "model 0.250"):
        assert title in page
    assert str(tmp_path / "out" / "execute.md") in capsys.readouterr().out


def test_without_an_embedder_the_page_says_what_is_missing(trained, tmp_path, monkeypatch):
    main([str(trained / "run" / "base"), str(trained / "rounds.toml"), *SIZES, "--out", str(tmp_path)])
    report = json.loads((tmp_path / "execute.json").read_text("utf-8"))
    assert "routing" not in report["execution"] and "retrieve" not in report["execution"]["strategies"]["open"]
    page = (tmp_path / "execute.md").read_text("utf-8")
    assert "it needs an embedder" in page and "Nothing was retrieved" in page


def test_wrong_input_is_one_sentence(trained, tmp_path):
    base, config = trained / "run" / "base", str(trained / "rounds.toml")
    other = tmp_path / "other.toml"
    other.write_text((trained / "rounds.toml").read_text("utf-8").replace("inputs = 6", "inputs = 7", 1), "utf-8")
    untaught = tmp_path / "untaught"
    shutil.copytree(base, untaught)
    text = (base / "config.toml").read_text("utf-8")
    (untaught / "config.toml").write_text(text.replace("execution = true", "execution = false"), "utf-8")
    for arguments, message in (
        ([str(tmp_path), config], "there is no"),
        ([str(untaught), config], "not taught to construct"),
        ([str(base), str(other)], "another curriculum"),
        ([str(base), config, "--attempts", "0"], "--attempts must be positive"),
    ):
        with pytest.raises(UserError, match=message):
            main(arguments)
