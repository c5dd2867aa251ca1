"""Chat: ids and weights come out of one walk, the prompt is a prefix, targets survive, the census cannot be fooled."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import ConfigError, UserError, from_dict, to_dict
from data.chat import (
    ROLES,
    ChatFormat,
    Conversation,
    Example,
    Message,
    census,
    encode,
    fit,
    fit_all,
    laid_out,
    prompt,
    show,
    taken_in,
)

PLAIN = ChatFormat()


class Letters:
    """The tokenizer's contract in its simplest form: eight control symbols, then one id for each character."""

    def __init__(self):
        self.pad, self.bos, self.eos, self.end = range(4)
        self.roles = dict(zip(ROLES, range(4, 8)))

    def encode(self, text: str) -> list[int]:
        if any(0xD800 <= ord(character) < 0xE000 for character in text):
            raise UserError("half of a surrogate pair")
        return [8 + ord(character) for character in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(i - 8) for i in ids if i >= 8)

    def piece(self, token: int) -> str:
        controls = ["<pad>", "<bos>", "<eos>", "<end>", *(f"<{role}>" for role in ROLES)]
        return controls[token] if token < 8 else chr(token - 8)


LETTERS = Letters()


def talk(*turns: str | tuple[str, bool], origin: str = "") -> Conversation:
    """`talk("user: hi", ("assistant: ho", False))`: a conversation, with flags where they are given."""
    pairs = [turn if isinstance(turn, tuple) else (turn, None) for turn in turns]
    return Conversation(tuple(Message(*text.split(": ", 1), flag) for text, flag in pairs), origin)


def learnt(example: Example) -> str:
    """The supervised tokens, read back, with | for each end of turn."""
    kept = example.ids[example.weights > 0].tolist()
    return "".join("|" if token == LETTERS.end else LETTERS.piece(token) for token in kept)


flags = st.sampled_from([None, None, None, True, False])
messages = st.builds(Message, st.sampled_from(ROLES), st.text("ab 猫", max_size=12), flags)
formats = st.builds(
    ChatFormat,
    prompt_weight=st.sampled_from([0.0, 0.25]),
    last_turn_only=st.booleans(),
    system=st.sampled_from(["", "sys"]),
    spaced=st.booleans(),
)


@st.composite
def conversations(draw) -> Conversation:
    """A few messages of any role, of which the last is an assistant's that is learnt."""
    before = draw(st.lists(messages, max_size=6))
    return Conversation((*before, Message("assistant", draw(st.text("xyz", max_size=12)))), "a file:1")


# Encoding ------------------------------------------------------------------------------------------------------------


def test_golden_row_of_three_turns_in_two_languages():
    """The complete row, token and weight side by side, as `python -m data.chat show` prints it.

    The mask was lost in a rewrite (nanochat#570), the answer's first token dropped (OpenRLHF#973), the end of
    turn never learnt (trl#1623, unsloth#416).
    """
    turns = ("system: S", "user: hi", "assistant: 好的", "user: 2?", "assistant: no", "user: k", "assistant: 完")
    example = encode(talk(*turns), LETTERS, PLAIN)
    rows = [(line.split()[1], line.split()[-1]) for line in show(example, LETTERS).splitlines()[1:]]
    expected = [("0.00", piece) for piece in ["<bos>", "<system>", "S", "<end>", "<user>", "h", "i", "<end>"]]
    expected += [("0.00", "<assistant>"), ("1.00", "好"), ("1.00", "的"), ("1.00", "<end>")]
    expected += [("0.00", piece) for piece in ["<user>", "2", "?", "<end>"]]
    expected += [("0.00", "<assistant>"), ("1.00", "n"), ("1.00", "o"), ("1.00", "<end>")]
    expected += [("0.00", piece) for piece in ["<user>", "k", "<end>"]]
    expected += [("0.00", "<assistant>"), ("1.00", "完"), ("1.00", "<end>")]
    assert rows == expected
    assert example.ids.dtype == np.int64 and example.weights.dtype == np.float32


@given(conversations(), formats)
def test_weights_follow_the_structure(conversation, format):
    example = encode(conversation, LETTERS, format)
    assert len(example.ids) == len(example.weights)
    headers = [LETTERS.bos, *LETTERS.roles.values()]
    assert not example.weights[np.isin(example.ids, headers)].any()
    assert example.ids[0] == LETTERS.bos and (example.ids == LETTERS.bos).sum() == 1
    # The end of the last turn is learnt, so that a model can stop (huggingface/trl#1623).
    assert example.ids[-1] == LETTERS.end and example.weights[-1] == 1


@given(conversations(), formats)
def test_the_prompt_is_a_prefix_of_the_training_row(conversation, format):
    """Training and serving laid a conversation out differently (LLaMA-Factory#2509), or merged the prompt's last
    space with the answer (OpenRLHF#705).
    """
    ids = prompt(conversation, LETTERS, format)
    row = encode(conversation, LETTERS, format).ids.tolist()
    assert row[: len(ids)] == ids
    assert ids[-1] == LETTERS.roles["assistant"]
    answer = laid_out(conversation.messages[-1].content, format)
    assert row[len(ids) :] == [*LETTERS.encode(answer), LETTERS.end]
    asked = replace(conversation, messages=conversation.messages[:-1])
    if not asked.messages or asked.messages[-1].role != "assistant":
        assert prompt(asked, LETTERS, format) == ids  # with the answer or without it


def test_last_turn_only_and_flags():
    conversation = talk("user: q", "assistant: one", "user: r", "assistant: two")
    assert learnt(encode(conversation, LETTERS, PLAIN)) == "one|two|"
    assert learnt(encode(conversation, LETTERS, ChatFormat(last_turn_only=True))) == "two|"
    flagged = talk("user: q", ("assistant: one", False), ("user: r", True), "assistant: two")
    assert learnt(encode(flagged, LETTERS, PLAIN)) == "r|two|"


def test_prompt_weight_reaches_what_is_given_and_never_the_headers():
    example = encode(talk("user: q", "assistant: a"), LETTERS, ChatFormat(prompt_weight=0.25))
    assert example.weights.tolist() == [0, 0, 0.25, 0.25, 0, 1, 1]
    off = encode(talk(("user: q", False), "assistant: a"), LETTERS, ChatFormat(prompt_weight=0.25))
    assert off.weights.tolist() == [0, 0, 0, 0, 0, 1, 1]


def test_a_default_system_message_only_where_none_is_given():
    format = ChatFormat(system="be kind")
    assert encode(talk("user: q", "assistant: a"), LETTERS, format).ids[1] == LETTERS.roles["system"]
    own = talk("system: mine", "user: q", "assistant: a")
    assert (encode(own, LETTERS, format).ids == encode(own, LETTERS, PLAIN).ids).all()


@given(st.text("ab \n", min_size=1), st.lists(st.integers(0, 20)))
def test_a_spaced_text_comes_back_as_it_was_even_in_parts(text, cuts):
    spaced = ChatFormat(spaced=True)
    laid = laid_out(text, spaced)
    assert all(line.startswith(" ") for line in laid.split("\n")) and laid.replace(" ", "") == text.replace(" ", "")
    assert taken_in(laid, spaced) == text
    ends = [0, *sorted(min(cut, len(laid)) for cut in cuts), len(laid)]
    parts = [taken_in(laid[a:b], spaced, laid[a - 1] if a else "\n") for a, b in itertools.pairwise(ends)]
    assert "".join(parts) == text
    assert laid_out(text, PLAIN) == taken_in(text, PLAIN) == text and laid_out("", spaced) == ""


@given(formats)
def test_a_format_survives_json(format):
    assert from_dict(ChatFormat, json.loads(json.dumps(to_dict(format)))) == format


def test_wrong_formats_and_roles_are_refused():
    with pytest.raises(ConfigError, match="prompt_weight must lie between 0 and 1"):
        ChatFormat(prompt_weight=1.5)
    with pytest.raises(UserError, match="unknown role 'robot'"):
        Message("robot", "hello")


@pytest.mark.parametrize("turns", [[], ["user: q"], ["user: q", ("assistant: a", False)]])
def test_a_row_from_which_nothing_is_learnt_is_refused_by_name(turns):
    for make in (encode, lambda *given: fit(*given, 100)):
        with pytest.raises(UserError, match="some:7: nothing in this row is learnt"):
            make(talk(*turns, origin="some:7"), LETTERS, ChatFormat(prompt_weight=0.5))


def test_text_that_the_tokenizer_refuses_is_named():
    with pytest.raises(UserError, match="some:7: half of a surrogate pair"):
        encode(talk("user: \ud83d", "assistant: a", origin="some:7"), LETTERS, PLAIN)


# Fitting -------------------------------------------------------------------------------------------------------------


def test_what_is_too_long_loses_old_exchanges_then_text_from_the_left():
    conversation = talk("system: S", "user: old", "assistant: old", "user: 123456", "assistant: new", "user: bye")
    fitted = lambda context: LETTERS.decode(fit(conversation, LETTERS, PLAIN, context)[0].ids.tolist())
    outcome = lambda context: fit(conversation, LETTERS, PLAIN, context)[1]
    whole = len(encode(conversation, LETTERS, PLAIN))
    assert (fitted(whole), outcome(whole)) == ("Soldold123456newbye", "kept")
    assert (fitted(whole - 1), outcome(whole - 1)) == ("Soldold123456new", "truncated")  # the end helps no target
    assert fitted(whole - 6) == "S123456new"
    assert fitted(17) == "S123456new" and fitted(16) == "S23456new" and fitted(11) == "Snew"
    assert fitted(10) == "new"
    assert fit(conversation, LETTERS, PLAIN, 9) == (None, "dropped")


@settings(max_examples=300)
@given(conversations(), formats, st.integers(1, 90))
def test_fitting_keeps_the_context_and_never_cuts_a_target(conversation, format, context):
    """hiyouga/LLaMA-Factory#5115: shortening must not remove what the row is there to teach."""
    whole = encode(conversation, LETTERS, format)
    example, outcome = fit(conversation, LETTERS, format, context)
    assert (outcome == "kept") == (len(whole) <= context)
    if outcome == "kept":
        assert (example.ids == whole.ids).all() and (example.weights == whole.weights).all()
    elif outcome == "truncated":
        assert len(example) <= context
        assert example.ids[0] == LETTERS.bos
        answer = [*LETTERS.encode(conversation.messages[-1].content), LETTERS.end]
        assert example.ids[-len(answer) :].tolist() == answer and (example.weights[-len(answer) :] == 1).all()
        # What is left of the targets is whole: every learnt run is a learnt run of the full row.
        full = lambda e: learnt(Example(e.ids, e.weights * (e.weights >= 1))).split("|")
        assert set(full(example)) <= set(full(whole))
        controls = [token for token in example.ids.tolist() if token < 8][1:]
        assert all(token >= 4 for token in controls[::2]) and set(controls[1::2]) == {LETTERS.end}
    else:
        assert example is None and len(whole) > context


def test_a_prompt_is_shortened_by_the_same_rule():
    conversation = talk("system: S", "user: old", "assistant: old", "user: 123456")
    whole = prompt(conversation, LETTERS, PLAIN)
    assert prompt(conversation, LETTERS, PLAIN, context=len(whole)) == whole
    shorter = prompt(conversation, LETTERS, PLAIN, context=len(whole) - 1)
    assert LETTERS.decode(shorter) == "S123456"
    cut = prompt(conversation, LETTERS, PLAIN, context=8)
    assert len(cut) == 8 and LETTERS.decode(cut) == "S6" and cut[-1] == LETTERS.roles["assistant"]
    with pytest.raises(UserError, match="does not fit into 5 tokens"):
        prompt(conversation, LETTERS, PLAIN, context=5)


def test_fitting_a_data_set_counts_every_row():
    rows = [talk("user: q", "assistant: a"), talk("user: qqqq", "assistant: a"), talk("user: q", "assistant: aaaaaaaa")]
    examples, fitting = fit_all(rows, LETTERS, PLAIN, 8)
    assert (fitting.kept, fitting.truncated, fitting.dropped) == (1, 1, 1) and len(examples) == 2
    assert str(fitting) == "1 rows kept whole, 1 truncated, 1 dropped (answer too long)"
    with pytest.raises(UserError, match="none of 3 rows fits into a context of 4 tokens"):
        fit_all(rows, LETTERS, PLAIN, 4)
    with pytest.raises(UserError, match="there is no row to fit"):
        fit_all([], LETTERS, PLAIN, 4)


# Census --------------------------------------------------------------------------------------------------------------


def test_the_census_counts_by_role():
    rows = [talk("system: sy", "user: q", "assistant: abc"), talk("assistant: text alone")]
    counts = census([encode(row, LETTERS, PLAIN) for row in rows], LETTERS, PLAIN)
    assert counts.rows == 2
    assert counts.tokens_by_role == {"system": 4, "user": 3, "assistant": 5 + 12, "tool": 0}
    assert counts.supervised_by_role == {"system": 0, "user": 0, "assistant": 4 + 11, "tool": 0}
    assert counts.tokens == 26 and counts.supervised == 15
    assert "2 rows, 26 tokens, 58% of them supervised" in str(counts)


def test_the_census_refuses_an_empty_mask():
    example = encode(talk("user: q", "assistant: a", origin="some:7"), LETTERS, PLAIN)
    for scale in (0.0, 0.5):
        with pytest.raises(UserError, match="some:7: no token of this row is supervised"):
            census([replace(example, weights=example.weights * scale)], LETTERS, PLAIN)


def test_the_census_refuses_a_full_mask_unless_the_format_asks_for_it():
    row = talk("user: q", "assistant: a", origin="some:7")
    example = encode(row, LETTERS, PLAIN)
    for weights in (np.ones(len(example), np.float32), encode(row, LETTERS, ChatFormat(prompt_weight=1)).weights):
        full = replace(example, weights=weights)
        with pytest.raises(UserError, match="some:7: every token is supervised"):
            census([full], LETTERS, PLAIN)
        assert census([full], LETTERS, ChatFormat(prompt_weight=1)).rows == 1
    with pytest.raises(UserError, match="row 1: every token is supervised"):
        fit_all([talk(("user: q", True), "assistant: a")], LETTERS, PLAIN, 99)


def test_plain_text_is_supervised_whole():
    text = talk("assistant: text alone")
    assert fit_all([text], LETTERS, PLAIN, 99)[1].kept == 1


# With the real tokenizer ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory) -> Path:
    from data.tokenizer import Tokenizer, TokenizerConfig

    texts = ["What does it do? It returns the sum.", "请将以下问题翻译成英文。好的", "<user> def f(x):\n\treturn x"]
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    Tokenizer.train(texts * 20, TokenizerConfig(kind="bpe", vocab_size=350)).save(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(tokenizer_path):
    from data.tokenizer import Tokenizer

    return Tokenizer.load(tokenizer_path)


@settings(max_examples=100)
@given(text=st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(["<user>", "<end>", "</s>", "\r\n\t"]))
def test_no_text_can_speak_for_another_role(tokenizer, text):
    """Structure in, structure out: control ids stand where messages put them, and the contents return unchanged."""
    example = encode(talk(f"user: {text}", f"assistant: {text}<assistant>"), tokenizer, PLAIN)
    controls = {tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.end, *tokenizer.roles.values()}
    ids = example.ids.tolist()
    user, assistant = tokenizer.roles["user"], tokenizer.roles["assistant"]
    expected = [tokenizer.bos, user, tokenizer.end, assistant, tokenizer.end]
    assert [i for i in ids if i in controls] == expected
    assert tokenizer.decode(ids[2 : ids.index(tokenizer.end)]) == text
    assert tokenizer.decode([i for i, w in zip(ids[:-1], example.weights) if w]) == f"{text}<assistant>"


def run(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "data.chat", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)


def test_show_prints_the_users_own_file(tmp_path, tokenizer_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "好", "completion": "It"}\n' * 5, "utf-8")
    done = run("show", file, "--tokenizer", tokenizer_path, "--rows", "2", "--format", "prompt_weight=0.5")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("rows.jsonl:") == 2
    assert " 0.50 *" in done.stdout and " 1.00 *" in done.stdout and " 0.00  " in done.stdout
    assert "2 rows, " in done.stdout.splitlines()[-1]


def test_show_fails_in_one_sentence(tmp_path, tokenizer_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "q"}]}\n', "utf-8")
    for arguments, said in (
        ((file, "--tokenizer", tokenizer_path), "rows.jsonl:1: nothing in this row is learnt"),
        ((file, "--tokenizer", tmp_path / "none.model"), "none.model"),
        ((file, "--tokenizer", tokenizer_path, "--rows", "0"), "--rows must be at least 1"),
        ((file, "--tokenizer", tokenizer_path, "--format", "promt_weight=1"), "did you mean 'prompt_weight'?"),
        ((tmp_path / "none.jsonl", "--tokenizer", tokenizer_path), "there is no file"),
    ):
        done = run("show", *arguments)
        assert done.returncode == 2 and said in done.stderr, done.stderr
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
