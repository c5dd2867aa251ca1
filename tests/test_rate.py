"""The rating command: answers by seed, the terminal, simulated raters, and what wrong input gives."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from configs import UserError
from data.chat import ChatFormat, Message
from data.formats import read_rows, write_rows
from data.preferences import read_labelled, read_preferences
from model.load import LoadedModel, model_files
from model.sampling import Sampling
from model.storage import checkpoint_folder, write_folder
from tests.small import small_model
from train import rate
from train.rate import Ahead, Answerer, read_prompts
from train.rate_terminal import key_presses, meaning, rate_in_terminal, say_summary, screen, visible, width_of, wrap
from train.rating import Said, Session, Setup, are_alike, questions_of

ROOT = Path(__file__).parent.parent
PROMPTS = [(Message("user", f"kato {i}"),) for i in range(9)]
OPTIONS = ["--tokens", "5", "--temperature", "1.5"]


@pytest.fixture(scope="module")
def loaded(small_tokenizer) -> LoadedModel:
    return LoadedModel(
        small_model(vocab_size=small_tokenizer.vocab_size, context=64), small_tokenizer, ChatFormat(), Path("none")
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory, small_tokenizer) -> Path:
    """A run folder with an untrained model."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    model = small_model(vocab_size=small_tokenizer.vocab_size, context=64)
    write_folder(checkpoint_folder(folder, 7), model_files(model, small_tokenizer, ChatFormat()))
    return folder


@pytest.fixture
def prompts(tmp_path) -> Path:
    path = tmp_path / "prompts.jsonl"
    write_rows(path, [{"instruction": "kato", "input": str(i), "output": "known"} for i in range(9)])
    return path


def fake(questions) -> list[tuple[Said, ...]]:
    """Answers without a model."""
    return [tuple(Said(f"{q.prompt[0].content} by {run}.{sample}") for run, sample in q.makers) for q in questions]


def session_in(folder, scores: bool = False, runs: int = 1) -> Session:
    questions = questions_of(PROMPTS, runs, scores, 1, 0)
    return Session(Path(folder) / "out.jsonl", questions, Setup(("one", "two")[:runs], scores=scores))


# Answers -------------------------------------------------------------------------------------------------------------


def test_an_answer_follows_from_seed_prompt_and_maker_alone(loaded):
    """In whatever company it is made; two samples differ, and so do two seeds."""
    questions = questions_of(PROMPTS[:2], 1, False, 2, 0)
    answer = Answerer([loaded], Sampling(temperature=1.5), 6)
    together = answer(questions)
    assert [answer([question])[0] for question in questions] == together
    assert not any(are_alike(pair) for pair in together)
    assert Answerer([loaded], Sampling(temperature=1.5), 6, seed=1)(questions) != together
    assert any(not said.finished for pair in together for said in pair)


def test_two_samples_that_are_the_same_are_drawn_again(loaded):
    """At a low temperature, where some stay alike; those of two models are left as they are."""
    questions = questions_of(PROMPTS, 1, False, 2, 0)
    cold = Sampling(temperature=0.05)
    answer = Answerer([loaded], cold, 3)
    first = answer._draw(questions, 0)
    again = answer(questions)
    assert sum(map(are_alike, again)) < sum(map(are_alike, first))
    assert [pair[0] for pair in again] == [pair[0] for pair in first]
    two = Answerer([loaded, loaded], Sampling(), 3)(questions_of(PROMPTS, 2, False, 1, 0))
    assert all(map(are_alike, two))


def test_each_run_gives_the_answers_that_are_its_own(loaded, small_tokenizer):
    other = small_model(vocab_size=small_tokenizer.vocab_size, context=64)
    other.trunk.embedding.weight.data *= -1
    other = LoadedModel(other, small_tokenizer, ChatFormat(), Path("none"))
    greedy = {
        name: Answerer([model], Sampling(), 6)(questions_of(PROMPTS, 1, True, 1, 0))
        for name, model in (("first", loaded), ("second", other))
    }
    both = Answerer([loaded, other], Sampling(), 6)(questions_of(PROMPTS, 2, False, 1, 0))
    assert both == [(one[0], two[0]) for one, two in zip(greedy["first"], greedy["second"])]
    assert greedy["first"] != greedy["second"]


def test_answers_are_made_ahead_but_not_all_of_them(tmp_path):
    session = session_in(tmp_path)
    with Ahead(session, fake, ahead=3, block=2) as ahead:
        ahead.wait(0)
        deadline = time.monotonic() + 20
        while len(session.state.answers) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert sorted(session.state.answers) == [0, 1, 2, 3]
        session.rate(0, "left")
        session.rate(1, "left")
        ahead.wait(5)
    assert 6 not in session.state.answers


def test_what_ends_the_thread_is_told_to_who_waits(tmp_path):
    def fails(questions):
        raise UserError("the model gives no numbers")

    with Ahead(session_in(tmp_path), fails) as ahead, pytest.raises(UserError, match="no numbers"):
        ahead.wait(0)


# Terminal ------------------------------------------------------------------------------------------------------------


def rated_by(text: str, session: Session) -> str:
    out = io.StringIO()
    with Ahead(session, fake) as ahead:
        rate_in_terminal(session, ahead.wait, io.StringIO(text), out)
    return out.getvalue()


def test_lines_are_keys(tmp_path):
    session = session_in(tmp_path)
    out = rated_by("1\n2\nT\n?\nu\n\ns\nleft\nu\nq\n1\n", session)
    assert [choice for _, choice, _ in session.state.ratings] == ["left", "right", "skip"]
    assert "1 of 9" in out and "4 of 9" in out and "5 of 9" in out and "keys: 1/←" in out
    assert out.count("3 of 9") == 2, "the tie was taken back"
    assert len(read_preferences(session.path)) == 2
    assert say_summary(session).startswith("3 rated of 9; the same command goes on\n2 rows in")


def test_undo_at_the_start_and_the_end_of_input(tmp_path):
    session = session_in(tmp_path)
    assert "nothing to undo" in rated_by("u\n1", session)
    assert len(session.state.ratings) == 1
    rated_by("u\n2\n" + "1\n" * 20, session)
    assert session.current is None and "9 rated\n9 rows" in say_summary(session)
    assert session.state.ratings[0][1] == "right"


def test_scores_in_the_terminal(tmp_path):
    session = session_in(tmp_path, scores=True)
    out = rated_by("5\nt\n6\n0\n1\ns\n3\nu\n", session)
    assert [choice for _, choice, _ in session.state.ratings] == ["5", "1", "skip"]
    assert [each.score for each in read_labelled(session.path)] == [5, 1]
    assert "1 (bad) to 5 (good)" in out and "tie" not in out


@pytest.mark.parametrize("columns", [100, 60])
def test_answers_stand_side_by_side_where_there_is_room(tmp_path, columns):
    session = session_in(tmp_path)
    session.answered(dict(zip(range(9), fake(session.questions))))
    left, right = (said.text for said in session.shown(0))
    lines = screen(session, 0, columns).splitlines()
    beside = [line for line in lines if left in line and right in line]
    assert (len(beside) == 1 and beside[0].index(left) < beside[0].index(right)) == (columns == 100)
    assert max(map(width_of, lines)) <= columns
    text = "\n".join(lines)
    assert text.index(left) < text.index(right) and "user: kato 0" in text


def test_text_of_a_model_cannot_move_the_cursor():
    assert visible("a\x1b[2Jb\x07\x9b\u202ec\td\r\ne") == "a\\x1b[2Jb\\x07\\x9b\\x202ec    d\ne"
    assert visible("指令 é 😀") == "指令 é 😀"


@pytest.mark.parametrize("columns", [1, 2, 7, 20, 45])
def test_wrapped_lines_fit_and_lose_nothing(columns):
    text = "the model answers 指令模型可以自己构造指令，然后执行。 averyveryverylongwordthatfits e\u0301nd\n\n  - item"
    if columns == 1:
        text = text.translate({c: None for c in range(0x2E80, 0xFFEF)})
    lines = wrap(text, columns)
    assert max(map(width_of, lines)) <= columns
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_keys():
    assert [meaning(key, False) for key in ("1", "2", " T ", "s", "u", "q", "3", "x", "")] == [
        *("left", "right", "tie", "skip", "undo", "quit"),
        *(None, None, None),
    ]
    assert [meaning(key, True) for key in ("1", "5", "t", "0", "left")] == ["1", "5", None, None, None]


def test_keys_of_a_real_terminal_need_no_return():
    """Arrows in both of their forms, and the terminal's settings come back."""
    import termios

    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    with os.fdopen(slave, "r", encoding="utf-8") as typed:
        keys, found = key_presses(typed), []
        for raw in (b"1", b"\x1b[D", b"\x1bOC", b"t", b"\x1b", b"u"):
            os.write(master, raw)
            found.append(next(keys))
        assert found == ["1", "left", "right", "t", "\x1b", "u"]
        os.write(master, b"\x04")
        assert list(keys) == []
        assert termios.tcgetattr(typed.fileno()) == before
        again = key_presses(typed)
        os.write(master, b"st")
        assert next(again) == "s" and termios.tcgetattr(typed.fileno()) != before
        again.close()
        assert termios.tcgetattr(typed.fileno()) == before
    os.close(master)


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_goes_on_where_it_stopped(run, prompts, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.jsonl"
    arguments = [str(run), str(prompts), "--out", str(out), *OPTIONS]
    for typed in ("1\n2\nt\n", "u\n1\n2\n", "1\n" * 9):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        rate.main(arguments)
    printed = capsys.readouterr().out
    assert "3 rated of" in printed and "4 rated of" in printed and f"rows in {out}" in printed
    pairs = read_preferences(out)
    assert pairs[0].prompt == (Message("user", "kato\n0"),) and pairs[0].rater == "person" and not pairs[0].simulated
    assert len(pairs) == len({pair.prompt for pair in pairs}) >= 7


@pytest.mark.slow
def test_a_killed_terminal_loses_nothing(run, prompts, tmp_path):
    """SIGKILL after three ratings were acknowledged by the next question on the screen."""
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "train.rate", str(run), str(prompts), "--out", str(out), *OPTIONS]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", env=environment
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    for number in range(1, 4):
        while f"── {number} of" not in process.stdout.readline():
            assert process.poll() is None
        process.stdin.write(f"{1 + number % 2}\n")
        process.stdin.flush()
    while "── 4 of" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    watchdog.cancel()
    process.stdin.close()
    process.stdout.close()
    assert len(read_preferences(out)) == 3
    session = rate.open_session(
        rate.parse([str(run), str(prompts), "--out", str(out), *OPTIONS]),
        [rate.load_run(run)],
        Sampling(temperature=1.5),
        None,
    )
    assert [choice for _, choice, _ in session.state.ratings] == ["right", "left", "right"]


def simulated(run, prompts, out: Path, *more: str) -> list[dict]:
    rate.main([str(run), str(prompts), "--out", str(out), *OPTIONS, "--simulate", *more])
    return [row for _, row in read_rows(out)]


def test_simulated_ratings_say_so(run, prompts, tmp_path, capsys):
    rows = simulated(run, prompts, tmp_path / "a.jsonl", "shorter", "--noise", "0.1")
    assert rows and all(row["simulated"] is True and row["rater"] == "shorter, noise 0.1" for row in rows)
    assert rows == simulated(run, prompts, tmp_path / "b.jsonl", "shorter", "--noise", "0.1")
    exact = simulated(run, prompts, tmp_path / "c.jsonl", "shorter")
    assert all(len(row["chosen"].strip()) < len(row["rejected"].strip()) for row in exact)
    assert "rows in" in capsys.readouterr().out


def test_a_simulated_rater_that_was_killed_goes_on(run, prompts, tmp_path, monkeypatch):
    """Killed between blocks: the same rows in the end, and nothing twice."""
    whole = simulated(run, prompts, tmp_path / "a.jsonl", "shorter")
    calls = []

    def dies(self, choices):
        if calls:
            raise KeyboardInterrupt
        calls.append(real(self, choices))

    real = Session.rate_many
    with monkeypatch.context() as patch:
        patch.setattr(rate, "SIMULATED_BLOCK", 4)
        patch.setattr(Session, "rate_many", dies)
        patch.setattr(rate.rate_simulated, "__defaults__", (4,))
        with pytest.raises(KeyboardInterrupt):
            simulated(run, prompts, tmp_path / "b.jsonl", "shorter")
    assert simulated(run, prompts, tmp_path / "b.jsonl", "shorter") == whole


def test_simulated_scores(run, prompts, tmp_path):
    rows = simulated(run, prompts, tmp_path / "a.jsonl", "shorter+politer", "--scores", "--samples", "2")
    assert len(rows) == 18 and all(row["simulated"] and 1 <= row["score"] <= 5 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--samples", "0"], "--samples must be positive"),
        (["--temperature", "0"], "are the same; raise it"),
        (["--simulate", "nobody"], "unknown rater 'nobody'"),
        (["--simulate", "shorter", "--noise", "0.5"], "noise must lie between 0 and 0.3"),
        (["--noise", "0.1"], "--noise is of simulated raters"),
        (["--simulate", "shorter", "--web"], "leave out --web"),
        (["--port", "70000"], "--port must lie between"),
    ],
)
def test_wrong_arguments_are_one_sentence(run, prompts, tmp_path, arguments, told):
    with pytest.raises(UserError, match=told):
        rate.main([str(run), str(prompts), "--out", str(tmp_path / "o.jsonl"), *arguments])
    assert not (tmp_path / "o.jsonl").exists()


def test_a_missing_extra_is_one_sentence(run, prompts, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(UserError, match=r'pip install "zhiling\[serve\]"'):
        rate.main([str(run), str(prompts), "--out", str(tmp_path / "o.jsonl"), "--web"])


def test_prompts_of_any_format_lose_their_last_answer(tmp_path):
    path = tmp_path / "p.jsonl"
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]
    write_rows(path, [{"question": "a", "answer": "b"}, {"messages": turns}, {"prompt": "c", "completion": "d"}])
    assert [[message.content for message in prompt] for prompt in read_prompts(str(path))] == [
        ["a"],
        ["system", "user", "assistant", "user"],
        ["c"],
    ]
    path.write_text(json.dumps({"text": "only said"}), "utf-8")
    with pytest.raises(UserError, match=r"p\.jsonl:1: nothing is asked"):
        read_prompts(str(path))
