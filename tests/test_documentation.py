"""Documentation: answers are read off correctly, held-out entries stay out, and guessing does not pay."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from configs import UserError
from data.chat import ChatFormat, fit_all
from data.corpus import Entry, builtin_documents
from data.formats import read_conversations
from instruct.documentation import (
    Item,
    baseline,
    construct,
    is_heldout,
    read_items,
    score,
    table,
    token_f1,
    write_items,
)
from instruct.questions import TASKS, facts_of, first_sentence, parameters_of


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    return list(builtin_documents())


@pytest.fixture(scope="module")
def items(entries) -> list[Item]:
    return construct(entries)


def question(item: Item) -> str:
    return item.conversation.messages[0].content


# Facts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Return the sum.\n\nMore follows.", "Return the sum."),
        ("Return the\n    sum. It adds.", "Return the sum."),
        ("Copy e.g. Foo or bar. Then stop.", "Copy e.g. Foo or bar."),
        ("Version 3.14 is out. Yes.", "Version 3.14 is out."),
        ("Is it real? No.", "Is it real?"),
        ("No end here\n\nBut here.", ""),
        ("", ""),
    ],
)
def test_first_sentence(text, sentence):
    assert first_sentence(text) == sentence


@pytest.mark.parametrize(
    ("signature", "parameters"),
    [
        ("()", ()),
        ("(self)", ()),
        ("(cls, a)", (("a", None),)),
        ("(a, self)", (("a", None), ("self", None))),
        ("(a, /, b=1, *rest, c, d='x, y', **more)", None),
        ("(a: int=(1, 2))", (("a", "(1, 2)"),)),
        ("(broken", None),
    ],
)
def test_parameters(signature, parameters):
    if signature.startswith("(a, /"):
        parameters = (("a", None), ("b", "1"), ("rest", None), ("c", None), ("d", "'x, y'"), ("more", None))
    assert parameters_of(signature) == parameters


def asked(task: str, *entry: str) -> tuple[str, str, str] | None:
    [facts] = facts_of([Entry(*entry)])
    found = TASKS[task].ask(facts)
    return found and (found.passage, found.subject, found.answer)


METHOD = ("shop.till", "Till.pay", "method", "(self, sum, *, tip=0)", "Pay the sum due. " + "It opens the drawer. " * 5)
HEADER, SENTENCE = "shop.till.Till.pay(self, sum, *, tip=0)", "Pay the sum due."
REST = ("It opens the drawer. " * 5).strip()


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("first_sentence", (f"{SENTENCE} {REST}", "", SENTENCE)),
        ("name", (f"method {HEADER}\n{SENTENCE}", "", "shop.till.Till.pay")),
        ("kind", (f"{HEADER}\n{SENTENCE}", "", "method")),
        ("parameters", (HEADER, "", "sum, tip")),
        ("count_parameters", (HEADER, "", "2")),
        ("default", (HEADER, "tip", "0")),
        ("module", ("method shop.till.Till.pay", "", "shop.till")),
        ("last_part", ("shop.till.Till.pay", "", "pay")),
        ("describe", ("", "shop.till.Till.pay", SENTENCE)),
        ("find", (SENTENCE, "", "shop.till.Till.pay")),
        ("summarise", (REST, "", SENTENCE)),
    ],
)
def test_each_task_reads_its_answer_off_the_entry(task, expected):
    assert asked(task, *METHOD) == expected
    assert set(TASKS) >= {task}


def test_entries_that_do_not_lend_themselves_are_passed_over():
    module = ("shop", "", "module", "", "no sentence")
    assert all(asked(task, *module) is None for task in TASKS)
    assert asked("parameters", *METHOD[:3], "(self)", METHOD[4]) == ("shop.till.Till.pay(self)", "", "none")
    assert asked("default", *METHOD[:3], "(self, sum)", METHOD[4]) is None
    assert asked("describe", "shop", "_hidden", *METHOD[2:]) is None  # what is private is known to no reader
    assert facts_of([Entry("topics", "lists", "topic", "", "A list is a list.")]) == []
    twice = facts_of([Entry(*METHOD), Entry("other", *METHOD[1:])])
    assert all(TASKS["find"].ask(facts) is None for facts in twice)  # the sentence fits two names


# Construction --------------------------------------------------------------------------------------------------------


def test_every_task_has_its_share_of_both_splits_and_languages(items):
    counts = Counter((item.task, item.split) for item in items)
    for name in TASKS:
        assert 300 <= counts[name, "train"] <= 1000, name
        assert 40 <= counts[name, "heldout"] <= 100, name
        for split in ("train", "heldout"):
            languages = Counter(item.language for item in items if (item.task, item.split) == (name, split))
            assert abs(languages["en"] - languages["zh"]) <= 1
    assert len({item.id for item in items}) == len(items)


def test_the_split_is_frozen():
    """Part of what published numbers mean: the same names are held out in every process and every version."""
    assert [i for i in range(60) if is_heldout("shop", f"f{i}")] == [0, 5, 7, 8, 19, 23, 26, 38, 45]


def test_held_out_by_entry_and_by_text(items):
    """No entry stands on both sides, and no held-out question, passage or pair occurs in training."""
    train = [item for item in items if item.split == "train"]
    heldout = [item for item in items if item.split == "heldout"]
    entry = lambda item: (item.module, item.name)
    assert not {entry(item) for item in train} & {entry(item) for item in heldout}
    assert all(is_heldout(*entry(item)) == (item.split == "heldout") for item in items)
    assert not {question(item) for item in train} & {question(item) for item in heldout}
    bare = lambda item: (item.task, frozenset(question(item).split("\n")))  # whichever stands above the other
    assert not {bare(item) for item in train} & {bare(item) for item in heldout}


def test_entries_that_ask_the_same_do_not_leak():
    """Two names with one text: the held-out twin is left out where its question would be the trained one."""
    text = METHOD[4]
    names = [f"f{i}" for i in range(60)]
    same = [Entry("shop", name, "function", "()", text) for name in names]
    items = construct(same, train_per_task=50, heldout_per_task=50)
    assert {item.split for item in items} == {"train", "heldout"}
    summaries = [item for item in items if item.task in ("summarise", "first_sentence")]
    assert [item.split for item in summaries] == ["train"] * 2


def test_construction_is_deterministic_and_the_seed_moves_it_but_not_the_split(entries, items):
    assert construct(reversed(list(reversed(entries)))) == items
    other = construct(entries, seed=1)
    assert {item.id for item in other} != {item.id for item in items}
    sides = {(item.module, item.name): item.split for item in items}
    assert all(sides.get((item.module, item.name), item.split) == item.split for item in other)


def test_answers_to_reading_tasks_are_in_the_prompt(items):
    copied = {name for name, task in TASKS.items() if not task.knowledge} - {"parameters", "count_parameters", "kind"}
    assert all(item.answer in question(item) for item in items if item.task in copied)
    for item in items:
        if item.task == "parameters" and item.answer != "none":
            assert all(name in question(item) for name in item.answer.split(", "))


def test_guessing_does_not_pay(items):
    """A constant answer gets no more than the share that the task allows, up to rounding."""
    found = baseline(items)
    assert set(found) == set(TASKS)
    for name, constant in found.items():
        assert constant.accuracy <= TASKS[name].share + 0.03, name
    assert found["kind"].accuracy >= 0.15  # four kinds: it is a guess, not nothing


def test_the_baseline_is_the_best_constant_of_the_train_split(items):
    template = next(item for item in items if item.task == "kind")
    make = lambda split, answer: replace(template, split=split, answer=answer)
    rows = [make("train", a) for a in ("class", "class", "method")] + [make("heldout", a) for a in ("class", "x")]
    assert baseline(rows)["kind"].answer == "class" and baseline(rows)["kind"].accuracy == 0.5
    assert baseline(rows[:3]) == {}


def test_scoring_is_exact_up_to_white_space(items):
    item = replace(items[0], answer="Return the sum.")
    assert score(item, " Return\tthe \n sum. ")
    assert not any(score(item, reply) for reply in ("return the sum.", "Return the sum", "", "Return the sum. Yes."))
    assert token_f1("a b c d", "a b") == pytest.approx(2 / 3)
    assert token_f1("a b", "a b") == 1 and token_f1("a", "b") == token_f1("a", "") == token_f1("", "") == 0


def test_too_little_documentation_is_refused():
    with pytest.raises(UserError, match="0 entries give no train item"):
        construct([])
    with pytest.raises(UserError, match="at least 1"):
        construct([], train_per_task=0)


# Lengths, files, command ---------------------------------------------------------------------------------------------


def test_items_fit_the_demo(entries, items):
    """With a vocabulary of 4,096 trained on both, every row fits into 256 tokens and every answer into 40."""
    from data.corpus import render
    from data.tokenizer import Tokenizer, TokenizerConfig

    texts = [render(entry) for entry in entries[::8]] + [question(item) for item in items if item.split == "train"]
    tokenizer = Tokenizer.train(texts, TokenizerConfig(kind="bpe", vocab_size=4096))
    _, fitting = fit_all((item.conversation for item in items), tokenizer, ChatFormat(), 256)
    assert fitting.kept == len(items), str(fitting)
    assert max(len(tokenizer.encode(item.answer)) for item in items) <= 40


def test_files_return_the_items_and_training_reads_its_split_only(tmp_path, items):
    path = tmp_path / "items.jsonl"
    assert write_items(path, items[:200]) == 200
    assert read_items(path) == items[:200]
    first = json.loads(path.read_text("utf-8").splitlines()[0])
    assert set(first) == {"messages", "origin", "id", "task", "split", "language", "answer", "module", "name"}
    train = list(read_conversations(path, split="train"))
    assert train == [item.conversation for item in items[:200] if item.split == "train"]
    path.write_text('{"text": "a"}\n', "utf-8")
    with pytest.raises(UserError, match="1: not an item of instruct"):
        read_items(path)


def test_the_table_has_a_line_and_a_sample_for_each_task(items):
    text = table(items)
    for name in TASKS:
        assert sum(line.startswith(f"{name} ") for line in text.splitlines()) == 1
        assert f"[{name}] " in text


def run(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "instruct.documentation", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)


def test_the_command_writes_items(tmp_path):
    done = run("--out", tmp_path / "new" / "items.jsonl.gz", "--train", "20", "--heldout", "10")
    assert done.returncode == 0, done.stderr
    items = read_items(tmp_path / "new" / "items.jsonl.gz")
    assert f"wrote {len(items)} items" in done.stdout and 28 * len(TASKS) <= len(items) <= 30 * len(TASKS)


def test_the_command_fails_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("", "utf-8")
    for out, train in ((tmp_path / "file" / "x", 1), (tmp_path / "out", 0)):
        done = run("--out", out, "--train", train)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
