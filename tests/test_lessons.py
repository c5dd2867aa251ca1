"""Lessons: asking uses the layout that was taught, and only what is wanted is learnt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import UserError
from data.chat import ChatFormat, encode, prompt
from instruct import lessons
from tests.oracle import Letters, part_of

#: Each part: a function of the language that is asked with, and what is then wanted.
PARTS = {
    "continue": (lambda *wanted, language: lessons.continue_list(["A", "B c"], language, *wanted), "Sort it."),
    "classify": (lambda *wanted, language: lessons.classify("Is it even?", language, *wanted), True),
    "input": (lambda *wanted, language: lessons.give_input("Sort them.", language, *wanted), "3 1"),
    "label": (lambda *wanted, language: lessons.give_label("Is it even?", language, *wanted), "no"),
    "input for": (lambda *wanted, language: lessons.give_input_for("Is it even?", "yes", language, *wanted), "4"),
    "combine": (
        lambda *wanted, language: lessons.combine(["Sort them.", "Add them."], language, *wanted),
        "Sort, then add.",
    ),
    "deepen": (lambda *wanted, language: lessons.deepen("Sort them.", language, *wanted), "Sort them, then add."),
    "widen": (lambda *wanted, language: lessons.widen("排序。", language, *wanted), "倒序。"),
    "paraphrase": (lambda *wanted, language: lessons.paraphrase("排序。", language, *wanted), "请排序。"),
    "back-translate": (lambda *wanted, language: lessons.backtranslate("3 1 -> 1 3", language, *wanted), "Sort them."),
    "induce": (lambda *wanted, language: lessons.induce([("3 1", "1 3"), ("2", "2")], language, *wanted), "Sort."),
    "plan": (lambda *wanted, language: lessons.plan("Sort, then add.", language, *wanted), ["Sort.", "Add."]),
    "construct": (
        lambda *wanted, language: lessons.construct("Age of Al?", language, *wanted),
        (False, ["Find it."], "Al"),
    ),
    "sentence": (lambda *wanted, language: lessons.sentence("Age of Al?", "7", language, *wanted), "It is 7."),
    "execute": (lambda *wanted, language: lessons.execute("Sort them.", "3 1", *wanted), "1 3"),
}
CHAT = ChatFormat()
LINES = st.text(st.characters(blacklist_categories=("Cc", "Cs", "Zl", "Zp", "Zs")), min_size=1)


@given(LINES, st.lists(LINES).map("\n".join))
def test_a_request_can_be_taken_apart_again(instruction, given):
    assert lessons.split_request(lessons.request(instruction, given)) == (instruction, given)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("part", PARTS)
def test_a_prompt_is_the_beginning_of_its_row_and_the_rest_is_what_is_learnt(part, language, small_tokenizer):
    ask, wanted = PARTS[part]
    row = encode(ask(*(wanted if part == "construct" else (wanted,)), language=language), small_tokenizer, CHAT)
    asked = prompt(ask(language=language), small_tokenizer, CHAT)
    assert row.ids[: len(asked)].tolist() == asked
    assert row.weights[: len(asked)].sum() == 0 and row.weights[len(asked) :].all()
    learnt = small_tokenizer.decode(row.ids[len(asked) : -1].tolist())
    assert learnt == {"classify": "yes", "plan": "Sort.\nAdd.", "construct": "input: Al\nFind it."}.get(part, wanted)


def test_each_part_names_itself_and_its_language():
    said = {(part, code): PARTS[part][0](language=code) for part in PARTS for code in lessons.LANGUAGES}
    for (part, code), conversation in said.items():
        assert part_of(conversation) == ((part, code) if part != "execute" else ("execute", ""))
    systems = [conversation.messages[0].content for (part, _), conversation in said.items() if part != "execute"]
    assert len(set(systems)) == len(systems)


def test_the_bare_lesson_teaches_what_the_user_says_and_not_the_answer(small_tokenizer):
    row = encode(lessons.bare("Sort them.", "3 1", "1 3"), small_tokenizer, CHAT)
    header = [small_tokenizer.bos, small_tokenizer.roles["user"]]
    said = small_tokenizer.encode("Sort them.\n3 1")
    assert row.ids[:2].tolist() == header, "what `instruct.propose` starts from"
    assert row.ids[2 : 2 + len(said)].tolist() == said
    assert row.weights.tolist() == [0.0] * 2 + [1.0] * (len(said) + 1) + [0.0] * (len(row) - len(said) - 3)


def test_no_input_is_said_and_not_left_empty():
    assert lessons.give_input("What is 2 + 2?", "en", "").messages[-1].content == lessons.NO_INPUT
    assert lessons.give_input("What is 2 + 2?", "en").messages[-1].role == "user", "this asks"
    assert lessons.execute("What is 2 + 2?", "").messages[0].content == "What is 2 + 2?"


def test_a_list_is_numbered_from_one():
    listed = lessons.continue_list([f"text {i}" for i in range(lessons.SHOWN)], "en").messages[1].content.split("\n")
    assert listed[0] == "1. text 0" and listed[-1] == f"{lessons.SHOWN}. text {lessons.SHOWN - 1}"


def test_the_tokenizer_of_the_oracle_reads_what_it_wrote():
    assert Letters().decode(Letters().encode("a 中\n-")) == "a 中\n-"


@given(LINES.map(str.strip).filter(bool), st.lists(st.sampled_from(["Sort it.", "求和。"]), min_size=1), st.booleans())
def test_a_chain_can_be_taken_apart_again(given, steps, has_input):
    said = lessons.construct("q", "en", not has_input, steps, given if has_input else None).messages[-1].content
    assert lessons.split_chain(f" {said} \n\n") == (given if has_input else None, tuple(steps))
    assert lessons.split_chain("") == (None, ()) and lessons.split_chain("input:") == ("", ())


def test_of_an_input_beside_a_question_only_that_it_is_there_is_shown():
    assert lessons.construct("Sort it.", "en", True).messages[-1].content == "Sort it.\n…"
    assert lessons.construct("Sort it.", "en").messages[-1].content == "Sort it."


@pytest.mark.parametrize("quotes", ['""', "“”", "「」", "『』", "„“", "«»", "＂＂"])
def test_what_is_quoted_once_is_hidden_and_nothing_else(quotes):
    start, end = quotes
    for text in ("3 1", "", "Ignore this. Don't!"):
        hidden, found = lessons.hide_quoted(f"Sort Al's {start}{text}{end}.")
        assert (hidden, found) == (f"Sort Al's {start}…{end}.", text)
    assert lessons.hide_quoted("Sort Al's list.") == ("Sort Al's list.", None)
    for text, fault in ((f"a{start}b", "does not close"), (f"{quotes} {quotes}", "more than one")):
        with pytest.raises(UserError, match=fault):
            lessons.hide_quoted(text)
