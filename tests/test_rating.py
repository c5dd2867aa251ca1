"""Rating sessions: the state follows from the log, whatever happens to the process; rows follow from the state."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import UserError
from data.chat import Message
from data.formats import read_rows
from data.preferences import read_labelled, read_preferences
from train.rating import PAIR_CHOICES, SCORE_CHOICES, Question, Said, Session, Setup, Stale, log_path, questions_of

PROMPTS = [(Message("user", f"question {i}"),) for i in range(6)]
PAIRS = questions_of(PROMPTS, 1, False, 1, 0)
SINGLES = questions_of(PROMPTS, 1, True, 1, 0)
ALIKE = 3  # the question whose two answers are the same


def said_of(question: int, scores: bool = False) -> tuple[Said, ...]:
    if scores:
        return (Said(f"only {question}"),)
    return (Said(f"a {question}"), Said(f" a {question}\n" if question == ALIKE else f"指令 {question}\u2028", False))


def open_session(folder, scores: bool = False, **changes) -> Session:
    setup = Setup(**{"runs": ("run",), "scores": scores} | changes)
    return Session(Path(folder) / "out.jsonl", SINGLES if scores else PAIRS, setup)


def answered(folder, scores: bool = False, **changes) -> Session:
    session = open_session(folder, scores, **changes)
    session.answered({i: said_of(i, scores) for i in range(6) if i not in session.state.answers})
    return session


def snapshot(session: Session) -> tuple:
    return (session.state, session.current, session.last, session.total, session.summary(), session.path.read_bytes())


def killed(session: Session, torn: bytes = b"") -> None:
    """What is left of a process that died while it wrote: the file, and perhaps a part of a line."""
    session._file.write(torn)
    session._file.close()


EVENT = json.dumps({"event": "rate", "question": 0, "choice": "left", "result": 1, "time": 1.5}).encode()
ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("rate"), st.integers(0, 5)),
        st.tuples(st.just("undo"), st.just(0)),
        st.tuples(st.just("kill"), st.integers(0, len(EVENT))),
    ),
    max_size=25,
)


@pytest.mark.parametrize("scores", [False, True])
@settings(max_examples=60)
@given(acts=ACTS)
def test_whatever_happens_the_same_state_comes_back(scores, acts):
    """Against a list that is kept by hand; after every kill all is as it was, and undo goes on."""
    choices = SCORE_CHOICES if scores else PAIR_CHOICES
    order = [i for i in range(6) if scores or i != ALIKE]
    with TemporaryDirectory() as folder:
        session, expected = answered(folder, scores), []
        for act, number in acts:
            if act == "kill":
                before = snapshot(session)
                killed(session, EVENT[:number])
                session = open_session(folder, scores)
                assert snapshot(session) == before
            elif act == "undo" and expected:
                session.undo(expected.pop()[0])
            elif act == "rate" and len(expected) < len(order):
                expected.append((order[len(expected)], choices[number % len(choices)]))
                session.rate(*expected[-1])
            assert [(question, choice) for question, choice, _ in session.state.ratings] == expected
            assert session.current == (order[len(expected)] if len(expected) < len(order) else None)
            assert session.last == (expected[-1][0] if expected else None)
            assert rows(session) == [row_of(session, *each) for each in expected if each[1] not in ("tie", "skip")]
        session.close()


def rows(session: Session) -> list[tuple]:
    if not session.path.read_bytes():
        return []
    if session.setup.scores:
        return [(each.prompt, each.completion, each.score) for each in read_labelled(session.path)]
    return [(each.prompt, each.chosen, each.rejected) for each in read_preferences(session.path)]


def row_of(session: Session, question: int, choice: str) -> tuple:
    """The row of a rating, from what stood on the screen."""
    shown = session.shown(question)
    if session.setup.scores:
        return (PROMPTS[question], shown[0].text, float(choice))
    texts = [said.text for said in shown]
    return (PROMPTS[question], *(texts if choice == "left" else reversed(texts)))


def test_the_order_on_the_screen_is_drawn_and_stays(tmp_path):
    session = answered(tmp_path)
    orders = [session.order(i) for i in range(6)]
    assert set(orders) == {(0, 1), (1, 0)}
    session.close()
    session = open_session(tmp_path)
    assert [session.order(i) for i in range(6)] == orders
    assert [session.shown(i) for i in range(6)] == [tuple(said_of(i)[place] for place in orders[i]) for i in range(6)]
    session.close()
    assert [answered(tmp_path / "other", seed=1).order(i) for i in range(6)] != orders


def test_many_questions_stand_on_either_side_about_equally_often(tmp_path):
    """With 400 fair draws a count outside 150..250 has a probability of about 1e-6; the seed is fixed."""
    many = questions_of([(Message("user", str(i)),) for i in range(400)], 2, False, 1, 0)
    session = Session(tmp_path / "o.jsonl", many, Setup(("a", "b")))
    assert 150 < sum(session.order(i)[0] for i in range(400)) < 250


def test_rows_say_who_rated(tmp_path):
    for simulated in (False, True):
        session = answered(tmp_path / str(simulated), rater="somebody", simulated=simulated)
        session.rate(0, "left")
        [(_, row)] = read_rows(session.path)
        assert row["rater"] == "somebody" and row.get("simulated", False) is simulated


def test_a_rating_of_another_question_is_refused_and_changes_nothing(tmp_path):
    """Two pages of one session, or a key that was pressed twice."""
    session = answered(tmp_path)
    session.rate(0, "left")
    before = snapshot(session)
    for wrong in (lambda: session.rate(0, "left"), lambda: session.rate(2, "left"), lambda: session.undo(1)):
        with pytest.raises(Stale):
            wrong()
    with pytest.raises(UserError, match="'better' is no rating"):
        session.rate(1, "better")
    with pytest.raises(UserError, match="'3' is no rating"):
        session.rate(1, "3")
    assert snapshot(session) == before


def test_nothing_is_rated_before_it_is_answered(tmp_path):
    session = open_session(tmp_path)
    assert session.current == 0 and session.shown(0) is None
    with pytest.raises(Stale, match="not there yet"):
        session.rate(0, "left")


def test_one_process_at_a_time(tmp_path):
    session = answered(tmp_path)
    with pytest.raises(UserError, match=r"out\.jsonl is being rated in another process"):
        open_session(tmp_path)
    session.close()
    open_session(tmp_path).close()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 1}, r"begun with seed 0 \(now 1\)"),
        ({"weights": ("x",)}, "begun with other models"),
        ({"rater": "b"}, r"rater person \(now b\)"),
        ({"scores": True}, "other prompts|scores False"),
    ],
)
def test_a_session_goes_on_with_the_same_settings_only(tmp_path, changes, told):
    answered(tmp_path).close()
    with pytest.raises(UserError, match=told):
        open_session(tmp_path, **changes)
    open_session(tmp_path, runs=("moved",)).close()


def test_other_prompts_are_another_session(tmp_path):
    answered(tmp_path).close()
    with pytest.raises(UserError, match="other prompts"):
        Session(tmp_path / "out.jsonl", PAIRS[:5], Setup(("run",)))


def test_a_file_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "out.jsonl").write_text("mine", "utf-8")
    with pytest.raises(UserError, match="has no log"):
        open_session(tmp_path)
    assert (tmp_path / "out.jsonl").read_text("utf-8") == "mine"
    with pytest.raises(UserError, match="is a folder"):
        Session(tmp_path, PAIRS, Setup(("run",)))


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"event": "other"}', b'{"event": "undo", "question": 0}', b"\xff"])
def test_a_damaged_line_is_named(tmp_path, line):
    killed(answered(tmp_path), line + b"\n")
    with pytest.raises(UserError, match=r"out\.session\.jsonl:8 is damaged"):
        open_session(tmp_path)


@pytest.mark.parametrize("torn", [b"", b'{"event": "sta'])
def test_a_log_that_was_hardly_begun_is_begun_again(tmp_path, torn):
    log_path(tmp_path / "out.jsonl").write_bytes(torn)
    session = answered(tmp_path)
    session.rate(0, "tie")
    before = snapshot(session)
    killed(session)
    assert snapshot(open_session(tmp_path)) == before


def test_a_full_disk_is_said_and_leaves_everything_as_it_was(tmp_path, monkeypatch):
    session = answered(tmp_path)
    session.rate(0, "left")
    before, log = snapshot(session), session.log.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="no space left"):
            session.rate(1, "left")
    assert (snapshot(session), session.log.read_bytes()) == (before, log)
    session.rate(1, "right")
    assert len(read_preferences(session.path)) == 2


def test_a_rating_is_on_the_disk_before_it_counts(tmp_path, monkeypatch):
    session, synced = answered(tmp_path), []
    real = os.fsync

    def fsync(descriptor):
        real(descriptor)
        synced.append((session.log.read_bytes().count(b"\n"), len(session.state.ratings)))

    monkeypatch.setattr(os, "fsync", fsync)
    lines = session.log.read_bytes().count(b"\n")
    session.rate(0, "left")
    assert synced[0] == (lines + 1, 0)


def test_who_was_better_is_counted_by_run(tmp_path):
    questions = questions_of(PROMPTS, 2, False, 1, 0)
    session = Session(tmp_path / "o.jsonl", questions, Setup(("one", "two")))
    session.answered({i: said_of(i) for i in range(6)})
    for question, winner in ((0, 0), (1, 1), (2, 1)):
        session.rate(question, "left" if session.order(question)[0] == winner else "right")
    session.rate(4, "tie")
    session.rate(5, "skip")
    found = session.summary()
    assert found["wins"] == [1, 2] and found["alike"] == 1 and found["rows"] == 3
    assert found["choices"]["tie"] == found["choices"]["skip"] == 1
    assert [pair.chosen for pair in read_preferences(session.path)] == ["a 0", said_of(1)[1].text, said_of(2)[1].text]


def test_mean_scores_by_run_whatever_the_order(tmp_path):
    questions = questions_of(PROMPTS, 2, True, 1, 0)
    session = Session(tmp_path / "o.jsonl", questions, Setup(("one", "two"), scores=True))
    assert {question.makers[0][0] for question in questions[::2]} == {0, 1}, "no run is always first"
    session.answered({i: (Said(str(i)),) for i in range(12)})
    for i, question in enumerate(questions):
        session.rate(i, "4" if question.makers[0][0] else "skip" if i < 2 else "1")
    assert session.summary()["means"] == [1.0, 4.0] and session.summary()["rows"] == 11


@pytest.mark.parametrize(("runs", "scores", "samples"), [(1, False, 3), (2, False, 2), (1, True, 2), (2, True, 3)])
def test_every_question_has_makers_of_its_own(runs, scores, samples):
    questions = questions_of(PROMPTS, runs, scores, samples, 0)
    answers = [(question.prompt, maker) for question in questions for maker in question.makers]
    assert len(set(answers)) == len(answers)
    assert len(questions) == len(PROMPTS) * samples * (runs if scores else 1)
    for question in questions:
        assert isinstance(question, Question) and len(question.makers) == (1 if scores else 2)
        if runs == 2 and not scores:
            assert [run for run, _ in question.makers] == [0, 1]


def test_many_ratings_at_once_equal_one_at_a_time(tmp_path):
    one, many = answered(tmp_path / "one"), answered(tmp_path / "many")
    choices = {0: "left", 1: "tie", 2: "right", 4: "skip"}
    for question, choice in choices.items():
        one.rate(question, choice)
    many.rate_many(choices)
    many.export()
    assert snapshot(one) == snapshot(many)
