"""Documentation as a teacher: the first instructions, made by program from the documentation of this Python.

What it is. Every entry of the built-in corpus (a module, class, function or method with its text) is a handful of
questions whose answers are certain, because a program reads them off: its name, its kind, its parameters, its first
sentence. Each becomes a short conversation, phrased in several ways in English and in Chinese:

- **reading** tasks put all that is needed into the prompt. They can be learnt as skills and measured on entries that
  no instruction ever mentioned;
- **knowledge** tasks ask for what only the documentation says (what does NAME do?). On held-out entries a model can
  answer from pretraining alone, so a small one will mostly fail: that row of the table is there to be honest.

    python -m instruct.documentation --out documentation.jsonl    # canonical messages, for train.sft
    items = construct(builtin_documents())                        # the same as objects
    share = mean(score(item, reply) for item, reply in ...)       # exact answers

Why so. Items are held out **by entry**: a hash of its module and name decides, so whatever is asked about a held-out
entry is held out, whatever the seed. A held-out item whose question also occurs in training (two entries may look
alike) is left out. No answer may take more than a share of a task, so that a constant guess stays poor; `baseline`
says how poor. `score` wants the exact answer after white space is normalised; for the tasks whose answer is a
sentence (`TASKS[name].sentence`) read `token_f1` beside it.

What it leaves out. Documentation of held-out entries may well be in the pretraining corpus: `is_heldout` tells which.
No answer is written by a model here, and nothing is judged by opinion. The tasks are in `instruct.questions`.
"""

from __future__ import annotations

import argparse
import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from configs import UserError, run_main
from data.chat import Conversation, Message
from data.corpus import Entry, builtin_documents
from data.formats import conversations_of, read_rows, to_row, write_rows
from instruct.questions import TASKS, Facts, Question, facts_of

Split = Literal["train", "heldout"]

HELDOUT_TENTHS = 1  # so many of ten entries are held out


@dataclass(frozen=True)
class Item:
    """One instruction with its certain answer. `module` and `name` are the entry's, which decided the `split`."""

    id: str
    task: str
    language: Literal["en", "zh"]
    split: Split
    conversation: Conversation
    answer: str
    module: str
    name: str


# Construction --------------------------------------------------------------------------------------------------------


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def is_heldout(module: str, name: str) -> bool:
    """Whether the entry is held out: by a hash of its name alone, so that no seed and no order changes it."""
    return _hash(f"{module}:{name}") % 10 < HELDOUT_TENTHS


def construct(
    entries: Iterable[Entry], seed: int = 0, train_per_task: int = 1000, heldout_per_task: int = 100
) -> list[Item]:
    """Make items of all tasks from documentation entries, in a shuffled order that `seed` decides.

    Each task gets at most `train_per_task` and `heldout_per_task` items, half of them in either language. Raises
    `UserError` when the entries yield no item of some split.
    """
    if train_per_task < 1 or heldout_per_task < 1:
        raise UserError("train_per_task and heldout_per_task must be at least 1")
    facts = facts_of(entries)
    items = []
    for task in TASKS:
        asked: set[tuple[str, str]] = set()
        items += _items_of(task, facts, "train", train_per_task, seed, asked)
        items += _items_of(task, facts, "heldout", heldout_per_task, seed, asked)
    for split in ("train", "heldout"):
        if not any(item.split == split for item in items):
            raise UserError(f"{len(facts)} entries give no {split} item; construct from more documentation")
    random.Random(f"{seed}:order").shuffle(items)
    return items


def _items_of(
    task: str, facts: Sequence[Facts], split: Split, count: int, seed: int, asked: set[tuple[str, str]]
) -> Iterator[Item]:
    """Items of one task and split. `asked` collects what has been asked about, so that nothing is asked twice."""
    rng = random.Random(f"{seed}:{task}:{split}")
    candidates = [f for f in facts if is_heldout(f.entry.module, f.entry.name) == (split == "heldout")]
    rng.shuffle(candidates)
    answers = Counter()
    most = max(1, int(count * TASKS[task].share))
    for candidate in candidates:
        if answers.total() == count:
            return
        question = TASKS[task].ask(candidate)
        if question is None or answers[question.answer] == most or (question.passage, question.subject) in asked:
            continue
        asked.add((question.passage, question.subject))
        answers[question.answer] += 1
        yield _item(task, candidate.entry, split, "zh" if answers.total() % 2 else "en", question, rng)


def _item(task: str, entry: Entry, split: Split, language: str, question: Question, rng: random.Random) -> Item:
    phrasing = rng.choice(TASKS[task].english if language == "en" else TASKS[task].chinese).format(question.subject)
    above, below = f"{phrasing}\n{question.passage}", f"{question.passage}\n\n{phrasing}"
    text = rng.choice((above, below)) if question.passage else phrasing
    messages = (Message("user", text), Message("assistant", question.answer))
    identity = f"{task}-{_hash(f'{entry.module}:{entry.name}:{text}:{question.answer}'):016x}"
    conversation = Conversation(messages, f"documentation/{entry.module}:{entry.name}#{task}")
    return Item(identity, task, language, split, conversation, question.answer, entry.module, entry.name)


# Measuring -----------------------------------------------------------------------------------------------------------


def score(item: Item, generated: str) -> bool:
    """Whether the reply is the answer, exactly, after runs of white space are made one space."""
    return generated.split() == item.answer.split()


def token_f1(answer: str, generated: str) -> float:
    """Harmonic mean of precision and recall of words, in 0 to 1 (as for SQuAD, without its normalisation)."""
    shared = (Counter(answer.split()) & Counter(generated.split())).total()
    return 2 * shared / max(1, len(answer.split()) + len(generated.split()))


@dataclass(frozen=True)
class Baseline:
    """The best constant answer of a task, learnt from the train split, and its accuracy on the held-out split."""

    answer: str
    accuracy: float


def baseline(items: Iterable[Item]) -> dict[str, Baseline]:
    """For each task that has items of both splits: what always giving one answer would score."""
    groups: dict[str, dict[str, list[Item]]] = defaultdict(lambda: {"train": [], "heldout": []})
    for item in items:
        groups[item.task][item.split].append(item)
    found = {}
    for task, splits in groups.items():
        if splits["train"] and splits["heldout"]:
            # Ties go to the smaller text, so that the order of items does not matter.
            counts = Counter(item.answer for item in splits["train"])
            answer = min(counts, key=lambda text: (-counts[text], text))
            hits = sum(score(item, answer) for item in splits["heldout"])
            found[task] = Baseline(answer, hits / len(splits["heldout"]))
    return found


# Files and command ---------------------------------------------------------------------------------------------------


def write_items(path: str | Path, items: Iterable[Item]) -> int:
    """Write items as canonical messages (JSON lines) with their task, split, language, answer and entry."""
    return write_rows(path, map(_row, items))


def _row(item: Item) -> dict[str, Any]:
    kept = ("id", "task", "split", "language", "answer", "module", "name")
    return to_row(item.conversation) | {key: getattr(item, key) for key in kept}


def read_items(path: str | Path) -> list[Item]:
    """Read what `write_items` wrote. Raises `UserError` with the place of a row that is not an item."""
    items = []
    for place, row in read_rows(path):
        keys = ("id", "task", "language", "split", "answer", "module", "name")
        missing = [key for key in keys if not isinstance(row.get(key), str)]
        if missing or row["task"] not in TASKS or row["split"] not in ("train", "heldout"):
            raise UserError(f"{place}: not an item of instruct.documentation; write the file again with --out")
        [conversation] = conversations_of(row, place)
        items.append(Item(conversation=conversation, **{key: row[key] for key in keys}))
    return items


def table(items: Sequence[Item]) -> str:
    """Counts of every task by split and language, the constant baseline, and one sample each."""
    baselines = baseline(items)
    lines = [f"{'task':18}{'train':>7}{'heldout':>9}{'en':>6}{'zh':>6}  {'asks for':10}{'constant':>9}"]
    for name, task in TASKS.items():
        of_task = [item for item in items if item.task == name]
        splits = Counter(item.split for item in of_task)
        languages = Counter(item.language for item in of_task)
        constant = f"{baselines[name].accuracy:9.1%}" if name in baselines else f"{'-':>9}"
        lines.append(
            f"{name:18}{splits['train']:7}{splits['heldout']:9}{languages['en']:6}{languages['zh']:6}"
            f"  {'knowledge' if task.knowledge else 'reading':10}{constant}"
        )
    lines.append(f"{'all':18}{sum(i.split == 'train' for i in items):7}{sum(i.split == 'heldout' for i in items):9}")
    for name in TASKS:
        item = next((item for item in items if item.task == name), None)
        if item:
            lines += ["", f"[{name}] {item.conversation.messages[0].content}", f"-> {item.answer}"]
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m instruct.documentation", description="Make instructions from the documentation of this Python."
    )
    parser.add_argument("--out", metavar="FILE", required=True, help="where to write (.jsonl or .jsonl.gz)")
    parser.add_argument("--seed", type=int, default=0, help="decides which items, phrasings and order (default 0)")
    parser.add_argument("--train", type=int, default=1000, metavar="N", help="items a task at most (default 1000)")
    parser.add_argument("--heldout", type=int, default=100, metavar="N", help="items a task at most (default 100)")
    arguments = parser.parse_args(argv)
    items = construct(builtin_documents(), arguments.seed, arguments.train, arguments.heldout)
    written = write_items(arguments.out, items)
    print(f"{table(items)}\n\nwrote {written} items to {arguments.out}")


if __name__ == "__main__":
    run_main(main)
