"""The commands `python -m model.generate` and `python -m model.chat`: what they print, and what wrong input gives."""

import io
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from configs import UserError
from data.chat import ChatFormat
from data.formats import read_conversations
from model import chat, generate
from model.load import LoadedModel, load_run, model_files
from model.sampling import Sampling
from model.storage import checkpoint_folder, write_folder
from tests.small import small_model

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory, small_tokenizer) -> Path:
    """A run folder with an untrained model of 40 tokens of context."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    model = small_model(vocab_size=small_tokenizer.vocab_size + 5, context=40)
    write_folder(checkpoint_folder(folder, 7), model_files(model, small_tokenizer, ChatFormat()))
    return folder


class Typed(io.StringIO):
    """Standard input: what is typed, at a terminal or from a pipe."""

    terminal = False

    def isatty(self) -> bool:
        return self.terminal


def type_in(monkeypatch, text: str, terminal: bool = False) -> None:
    typed = Typed(text)
    typed.terminal = terminal
    monkeypatch.setattr("sys.stdin", typed)


# generate ------------------------------------------------------------------------------------------------------------


def test_generate_streams_one_prompt(run, capsys):
    """The prompt, then its continuation; the same for the same seed, another for another."""
    outputs = []
    for seed in ("3", "3", "4"):
        generate.main([str(run), "kato miren", "--tokens", "12", "--seed", seed])
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]
    assert outputs[0].startswith("kato miren") and outputs[0].endswith("\n") and len(outputs[0]) > len("kato miren\n")


def test_generate_gives_the_same_text_alone_and_in_a_batch(run, capsys):
    """Several prompts and samples are numbered; the first has the seed itself, the next ones those that follow."""
    generate.main([str(run), "kato", "sol 指令", "--samples", "2", "--tokens", "10", "--seed", "5"])
    together = capsys.readouterr().out
    alone = ""
    for number, text in enumerate(["kato", "kato", "sol 指令"]):
        generate.main([str(run), text, "--tokens", "10", "--seed", str(5 + number)])
        alone += f"[{number + 1}] {capsys.readouterr().out}"
    assert together.startswith(alone) and "\n[4] sol 指令" in together


def test_generate_reads_standard_input(run, capsys, monkeypatch):
    outputs = []
    for prompt in ("two\nlines 指令", "-"):
        type_in(monkeypatch, "two\nlines 指令")
        generate.main([str(run), prompt, "--tokens", "5", "--temperature", "0"])
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


def test_generate_never_writes_ids_that_stand_for_nothing(run):
    """The model has five rows more than the tokenizer has ids."""
    loaded = load_run(run)
    assert generate.never_generated(loaded) == list(range(420, 425))


def test_generate_takes_all_sampling_options(run):
    """Each one reaches `Sampling`."""
    given = []

    def observe(model, prompt, tokens, sampling, *rest):
        given.append((tokens, sampling))
        return iter(())

    original, generate.stream = generate.stream, observe
    try:
        options = "--temperature 0.5 --top-k 7 --top-p 0.9 --min-p 0.1 --repetition-penalty 1.2 --tokens 9"
        generate.main([str(run), "x", *shlex.split(options)])
    finally:
        generate.stream = original
    assert given == [(9, Sampling(0.5, 7, 0.9, 0.1, 1.2))]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--tokens", "0"], "--tokens must be positive, got 0"),
        (["--samples", "0"], "--samples must be positive, got 0"),
        (["--temperature", "-1"], "temperature must be a number not below 0"),
        (["--top-p", "0", "--top-k", "-1"], "top_k must not be negative, got -1; top_p must be above 0"),
        (["--device", "gpu"], "finds no device 'gpu'"),
    ],
    ids=str,
)
def test_generate_refuses_wrong_options(run, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        generate.main([str(run), "x", *arguments])


def test_generate_refuses_what_is_no_text(run, monkeypatch):
    with pytest.raises(UserError, match="surrogate"):
        generate.main([str(run), "a\udc80"])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"abc\xff"), encoding="utf-8"))
    with pytest.raises(UserError, match=r"standard input is not UTF-8 text \(byte 3\); send UTF-8"):
        generate.main([str(run), "-"])


# chat ----------------------------------------------------------------------------------------------------------------


def test_chat_answers_and_commands(run, capsys, monkeypatch, tmp_path):
    """A session as typed: each line has its reply, a wrong command is said on stderr and the session goes on."""
    lines = [
        f"/save {tmp_path / 'early.jsonl'}",
        "kato miren",
        f"/save {tmp_path / 'talk.jsonl'}",
        "/save",
        "/temperature warm",
        "/temperature -1",
        "/temperature 0.5",
        "/nonsense",
        "",
        "/reset",
        f"/save {tmp_path / 'late.jsonl'}",
        "/quit",
        "never read",
    ]
    type_in(monkeypatch, "\n".join(lines))
    chat.main([str(run), "--tokens", "6"])
    said = capsys.readouterr()
    assert f"saved 2 messages in {tmp_path / 'talk.jsonl'}\ntemperature 0.5\nforgotten\n" in said.out
    assert said.err.splitlines() == [
        "error: nothing has been said yet, so there is nothing to save",
        "error: name a file: /save talk.jsonl",
        "error: give a number: /temperature 0.7",
        "error: temperature must be a number not below 0, got -1.0",
        "error: unknown command /nonsense; commands: /reset  /save FILE  /temperature X  /quit",
        "error: nothing has been said yet, so there is nothing to save",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["talk.jsonl"]
    (conversation,) = read_conversations(tmp_path / "talk.jsonl")
    assert [message.role for message in conversation.messages] == ["user", "assistant"]
    assert conversation.messages[0].content == "kato miren"
    assert conversation.messages[1].content.strip() in said.out


def test_chat_greets_at_a_terminal_only(run, capsys, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda prompt: (_ for _ in ()).throw(EOFError))
    for terminal in (True, False):
        type_in(monkeypatch, "", terminal)
        chat.main([str(run)])
        assert ("commands: /reset" in capsys.readouterr().out) == terminal


def test_chat_survives_lines_that_are_no_text(run, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\n/temperature 1\n"), encoding="utf-8"))
    chat.main([str(run)])
    said = capsys.readouterr()
    assert "error: that line is not UTF-8 text; send UTF-8" in said.err


@pytest.fixture
def session(run) -> chat.Session:
    return chat.Session(load_run(run), Sampling(), new_tokens=12)


def test_chat_goes_on_when_the_context_is_full(session):
    """Twenty turns in 40 tokens: each is answered, and from some turn on the oldest are left out, which is said."""
    forgets = []
    for turn in range(20):
        answer = "".join(session.say(f"kato {turn} miren sol"))
        forgets.append(session.forgets)
        assert session.messages[-1].content == answer and len(session.messages) == 2 * (turn + 1)
    assert not forgets[0] and forgets[-1]
    assert forgets == sorted(forgets)


def test_chat_takes_messages_longer_than_the_context(session):
    """The beginning of such a message is cut; the answer still comes."""
    assert isinstance("".join(session.say("kato miren " * 200)), str)
    assert session.forgets


@pytest.mark.parametrize("context", [4, 8, 16])
def test_chat_in_tiny_contexts(small_tokenizer, context):
    """It answers; or says that the context is too small, when not even the roles fit."""
    model = small_model(vocab_size=small_tokenizer.vocab_size, context=context, position="learned")
    session = chat.Session(LoadedModel(model, small_tokenizer, ChatFormat(), ROOT), Sampling(), new_tokens=50)
    for turn in range(20):
        try:
            "".join(session.say(f"kato {turn}"))
            assert len(session.messages) == 2 * (turn + 1)
        except UserError as error:
            assert context == 4 and "a prompt does not fit into 2 tokens: give the model a larger context" in str(error)
    assert (session.messages == []) == (context == 4)


def test_chat_remembers_and_forgets(session):
    """The same question at the same place has the same answer; with a history before it, another prompt is seen."""
    first = list(session.say("kato"))
    after = list(session.say("kato"))
    assert session.command("/reset") == "forgotten" and session.messages == []
    assert list(session.say("kato")) == first
    assert list(session.say("kato")) == after


def test_chat_answers_in_whole_characters(session):
    """Pieces of the stream are text that can be encoded, and their sum is the answer."""
    session.command("/temperature 2")
    for turn in range(5):
        pieces = list(session.say(f"{turn}"))
        assert "".join(pieces).encode().decode() == "".join(pieces) == session.messages[-1].content


def test_an_answer_broken_off_is_not_remembered(session):
    answer = session.say("kato")
    next(answer)
    answer.close()
    assert session.messages == []


def test_no_run_is_one_sentence(tmp_path):
    for main in (generate.main, chat.main):
        with pytest.raises(UserError, match="there is no checkpoint in"):
            main([str(tmp_path / "nowhere"), *(["x"] if main is generate.main else [])])


# As a program --------------------------------------------------------------------------------------------------------


def test_wrong_input_is_one_sentence_and_exit_code_2(tmp_path):
    command = [sys.executable, "-m", "model.generate", str(tmp_path / "nowhere"), "hello"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert (
        done.stderr
        == f"error: there is no checkpoint in {tmp_path / 'nowhere'}; give the folder of a run that has trained\n"
    )


def test_saved_conversations_are_json_lines(session, tmp_path):
    """Ready for `train.sft`: the messages format, one line."""
    "".join(session.say("指令"))
    session.command(f"/save {tmp_path / 'a.jsonl'}")
    (line,) = (tmp_path / "a.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["messages"][0] == {"role": "user", "content": "指令"}
