"""Chat: from messages to token ids and loss weights, built part by part.

What it is. A conversation becomes one row of ids in the only layout that zhiling knows,

    <bos> <user> content ids <end> <assistant> content ids <end> ...

where `<bos>`, the role headers and `<end>` are control symbols that the tokenizer never makes from text. Every id gets
a loss weight in the same walk: 1 for what the assistant says and for the `<end>` that closes it, so that the model
learns to stop, and 0 for everything else. Training, evaluation and chat use this one renderer with one `ChatFormat`,
which the checkpoint carries.

    example = encode(conversation, tokenizer, ChatFormat())    # ids and weights of a training row
    ids = prompt(conversation, tokenizer, ChatFormat())        # a prefix of them, up to the assistant's header
    python -m data.chat show FILE --tokenizer MODEL            # your own file, token by token, with its weights

Why so. Mask bugs are silent, because the loss still falls: a refactor dropped the mask (karpathy/nanochat#570), a
template without markers trained on everything (NVIDIA-NeMo/Megatron-Bridge#3359), masks were all zero
(huggingface/trl#4201), `eos` was never learnt (huggingface/trl#1623), the prompt's last space merged with the answer's
first word (OpenRLHF/OpenRLHF#705), shortening removed the target (hiyouga/LLaMA-Factory#5115). Encoding a rendered
string and searching in it invites all of them; ids built structurally cannot have offsets that are off. `census` still
counts, and refuses rows that nothing or everything is learnt from.

What it leaves out. No template language, no training flag below the level of a message, no tools' schema: a tool call
is text of the assistant, a result is text of the role `tool`.
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from configs import UserError, check, load, run_main

if TYPE_CHECKING:
    from data.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant", "tool")
Outcome = Literal["kept", "truncated", "dropped"]


@dataclass(frozen=True)
class Message:
    """One turn. `supervise` says whether it is learnt; None leaves that to its role and to the `ChatFormat`."""

    role: str
    content: str
    supervise: bool | None = None

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise UserError(f"unknown role {self.role!r}: a message is from one of {', '.join(ROLES)}")


@dataclass(frozen=True)
class Conversation:
    """Messages in their order, and where they come from (for example `file.jsonl:12`), which error texts name."""

    messages: tuple[Message, ...]
    origin: str = ""


@dataclass(frozen=True)
class ChatFormat:
    """How conversations are laid out and weighted. Stored in checkpoints by `configs.to_dict`, read by `from_dict`.

    prompt_weight: loss weight of what the model is given: 0 masks it, 1 trains on it like on the answer.
    last_turn_only: only the last assistant message of a conversation is learnt; earlier ones count as prompt.
    system: the system message of every conversation that brings none of its own ("" for no message).
    spaced: every line begins with a space, so that a word is the same token at the beginning of a line and inside it.
        A Chinese word inside a sentence has no space in front and stays another token. What a model says is given back
        without these spaces.
    """

    prompt_weight: float = 0.0
    last_turn_only: bool = False
    system: str = ""
    spaced: bool = False

    def __post_init__(self) -> None:
        problems = []
        if not 0 <= self.prompt_weight <= 1:
            problems.append(f"prompt_weight must lie between 0 and 1, got {self.prompt_weight}")
        check(problems)


def laid_out(text: str, format: ChatFormat) -> str:
    """A text as the model sees it."""
    return " " + text.replace("\n", "\n ") if format.spaced and text else text


def taken_in(text: str, format: ChatFormat, before: str = "\n") -> str:
    """A text of the model as people see it; `before` is the character in front of it, for a text in parts."""
    return re.sub(r"(?<=\n) ", "", before + text)[1:] if format.spaced else text


@dataclass(frozen=True, eq=False)
class Example:
    """A training row: ids (T,) int64 and weights (T,) float32; weights[i] is the loss weight of predicting ids[i]."""

    ids: np.ndarray
    weights: np.ndarray
    origin: str = ""

    def __len__(self) -> int:
        return len(self.ids)


# Encoding ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Turn:
    """A message as ids. A target is what the row exists for; it is never shortened."""

    role: str
    content: list[int]
    weight: float
    target: bool

    def __len__(self) -> int:
        return len(self.content) + 2  # the header in front, the end of turn behind


def encode(conversation: Conversation, tokenizer: Tokenizer, format: ChatFormat) -> Example:
    """The training row of a conversation, whatever its length; `fit` is the one that minds the context.

    Raises `UserError` naming the row's origin when no message is learnt, or when the tokenizer refuses its text.
    """
    turns = _turns(conversation, tokenizer, format)
    _require_target(turns, conversation.origin)
    return _assemble(turns, tokenizer, conversation.origin)


def prompt(
    conversation: Conversation, tokenizer: Tokenizer, format: ChatFormat, context: int | None = None
) -> list[int]:
    """The ids that the assistant answers to: everything up to and including its header.

    A last message of the assistant is the answer and left out. With `context`, at most so many ids, shortened by the
    rule of `fit`: oldest exchanges first, then text from the left. Raises `UserError` when not even the frame fits.
    """
    messages = conversation.messages
    if messages and messages[-1].role == "assistant":
        messages = messages[:-1]
    turns = _turns(replace(conversation, messages=messages), tokenizer, format)
    if context is not None:
        turns = _shorten([replace(turn, target=False) for turn in turns], context - 1)
        if _length(turns) > context - 1:
            raise UserError(f"a prompt does not fit into {context} tokens: give the model a larger context")
    return [*_assemble(turns, tokenizer, conversation.origin).ids.tolist(), tokenizer.roles["assistant"]]


def _turns(conversation: Conversation, tokenizer: Tokenizer, format: ChatFormat) -> list[_Turn]:
    messages = conversation.messages
    if format.system and not any(message.role == "system" for message in messages):
        messages = (Message("system", format.system), *messages)
    learnt = [i for i, message in enumerate(messages) if message.role == "assistant"]
    if format.last_turn_only:
        learnt = learnt[-1:]
    turns = []
    for i, message in enumerate(messages):
        target = i in learnt if message.supervise is None else message.supervise
        given = format.prompt_weight if message.supervise is None else 0.0
        try:
            content = tokenizer.encode(laid_out(message.content, format))
        except UserError as error:
            raise UserError(f"{_named(conversation.origin)}{error}") from None
        turns.append(_Turn(message.role, content, 1.0 if target else given, target))
    return turns


def _assemble(turns: Sequence[_Turn], tokenizer: Tokenizer, origin: str) -> Example:
    ids, weights = [tokenizer.bos], [0.0]
    for turn in turns:
        ids += [tokenizer.roles[turn.role], *turn.content, tokenizer.end]
        weights += [0.0, *[turn.weight] * (len(turn.content) + 1)]
    return Example(np.array(ids, dtype=np.int64), np.array(weights, dtype=np.float32), origin)


def _require_target(turns: Sequence[_Turn], origin: str) -> None:
    if not any(turn.target for turn in turns):
        raise UserError(f"{_named(origin)}nothing in this row is learnt: it needs an assistant message to train on")


def _named(origin: str) -> str:
    return f"{origin}: " if origin else ""


# Fitting -------------------------------------------------------------------------------------------------------------


def fit(
    conversation: Conversation, tokenizer: Tokenizer, format: ChatFormat, context: int
) -> tuple[Example | None, Outcome]:
    """The training row in at most `context` ids, and what became of it.

    What does not fit is shortened in this order, until it does: messages after the last target go; whole exchanges go,
    oldest first, while a system message in front stays; text that is not a target is cut from the left, the exchange
    before the system message. A target is never cut: where the last one alone is too long the row is "dropped".
    """
    turns = _turns(conversation, tokenizer, format)
    _require_target(turns, conversation.origin)
    outcome: Outcome = "kept"
    if _length(turns) > context:
        last = max(i for i, turn in enumerate(turns) if turn.target)
        turns = _shorten(turns[: last + 1], context)
        outcome = "truncated"
    if _length(turns) > context:
        return None, "dropped"
    return _assemble(turns, tokenizer, conversation.origin), outcome


def _length(turns: Sequence[_Turn]) -> int:
    return 1 + sum(map(len, turns))


def _shorten(turns: list[_Turn], context: int) -> list[_Turn]:
    """Leave out old exchanges, then cut from the left, until the turns fit or nothing is left that may be cut."""
    first = 1 if turns and turns[0].role == "system" and not turns[0].target else 0
    head, body = turns[:first], turns[first:]
    while _length(head + body) > context:
        later = next((i for i, turn in enumerate(body) if i > 0 and turn.role == "user"), None)
        if later is None:
            break
        body = body[later:]
    excess = _length(head + body) - context
    shortened = []
    for turn in body + head:
        cut = 0 if turn.target else max(0, min(excess, len(turn.content)))
        excess -= cut
        shortened.append(replace(turn, content=turn.content[cut:]))
    return shortened[len(body) :] + shortened[: len(body)]


@dataclass(frozen=True)
class Fitting:
    """What became of the conversations of a data set: counts of rows, one field for each outcome of `fit`."""

    kept: int = 0
    truncated: int = 0
    dropped: int = 0

    def __str__(self) -> str:
        return f"{self.kept} rows kept whole, {self.truncated} truncated, {self.dropped} dropped (answer too long)"


def fit_all(
    conversations: Iterable[Conversation], tokenizer: Tokenizer, format: ChatFormat, context: int
) -> tuple[list[Example], Fitting]:
    """Training rows of a whole data set, with the counts of what was shortened or dropped, after a `census`.

    Raises `UserError` when there is no conversation, when none fits, and for the rows that `census` refuses.
    """
    examples, outcomes = [], Counter()
    for conversation in conversations:
        example, outcome = fit(conversation, tokenizer, format, context)
        outcomes[outcome] += 1
        if example is not None:
            examples.append(example)
    if not examples:
        found = f"none of {outcomes.total()} rows fits" if outcomes else "there is no row to fit"
        raise UserError(f"{found} into a context of {context} tokens: use a larger context or shorter conversations")
    census(examples, tokenizer, format)
    return examples, Fitting(**outcomes)


# Looking -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Census:
    """Counts over rows: tokens, and those of full weight ("supervised"), in total and for each role."""

    rows: int
    tokens: int
    supervised: int
    tokens_by_role: dict[str, int]
    supervised_by_role: dict[str, int]

    def __str__(self) -> str:
        share = f"{self.supervised / self.tokens:.0%}" if self.tokens else "none"
        roles = ", ".join(f"{r} {self.supervised_by_role[r]}/{n}" for r, n in self.tokens_by_role.items() if n)
        return f"{self.rows} rows, {self.tokens} tokens, {share} of them supervised ({roles})"


def census(examples: Iterable[Example], tokenizer: Tokenizer, format: ChatFormat) -> Census:
    """Count the supervised tokens of rows, read from ids and weights alone, so that no mask can fail silently.

    Raises `UserError` naming the origin of a row in which no token has full weight, and of one that has turns of user
    and assistant and yet full weight on everything but its headers, unless `format.prompt_weight` is 1, which asks for
    that.
    """
    names = np.array(["", *ROLES])
    headers = np.array([-1, *(tokenizer.roles[role] for role in ROLES)])
    counts, supervised_counts, rows = Counter(), Counter(), 0
    for row, example in enumerate(examples, 1):
        origin = example.origin or f"row {row}"
        supervised = example.weights >= 1
        is_header = example.ids[:, None] == headers  # (T, 1 + roles)
        header = is_header.any(1)
        starts = np.maximum.accumulate(np.where(header, np.arange(len(example)), 0))
        roles = names[is_header[starts].argmax(1)]  # the role that each token belongs to, "" before the first header
        if not supervised.any():
            raise UserError(f"{origin}: no token of this row is supervised; it needs an assistant message to train on")
        text = (roles != "") & ~header
        if {"user", "assistant"} <= set(roles) and supervised[text].all() and format.prompt_weight < 1:
            raise UserError(f"{origin}: every token is supervised, even what the user says; check its `weight` fields")
        counts.update(roles.tolist())
        supervised_counts.update(roles[supervised].tolist())
        rows += 1
    by_role = {role: counts[role] for role in ROLES}
    total, supervised_total = counts.total(), supervised_counts.total()
    return Census(rows, total, supervised_total, by_role, {role: supervised_counts[role] for role in ROLES})


def show(example: Example, tokenizer: Tokenizer) -> str:
    """A row as text, one token a line: position, loss weight, id, piece. Supervised tokens carry a mark."""
    lines = [f"{example.origin or 'row'}: {len(example)} tokens, {int((example.weights > 0).sum())} with loss"]
    for i, (token, weight) in enumerate(zip(example.ids.tolist(), example.weights.tolist())):
        lines.append(f"{i:5d} {weight:5.2f} {'*' if weight > 0 else ' '} {token:6d}  {tokenizer.piece(token)}")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """`python -m data.chat show FILE --tokenizer MODEL`: rows of a data file, token by token."""
    parser = argparse.ArgumentParser(prog="python -m data.chat", description="Look at conversations as a model does.")
    commands = parser.add_subparsers(dest="command", required=True)
    shown = commands.add_parser("show", help="print tokens and loss weights side by side")
    shown.add_argument("file", help="conversations in any format of data.formats (.json, .jsonl, .jsonl.gz)")
    shown.add_argument("--tokenizer", required=True, help="a model that `python -m data.tokenizer train` wrote")
    shown.add_argument("--rows", type=int, default=3, help="how many conversations (default 3)")
    shown.add_argument("--format", nargs="+", default=[], metavar="key=value", help="such as prompt_weight=0.1")
    arguments = parser.parse_args(argv)
    if arguments.rows < 1:
        raise UserError(f"--rows must be at least 1, got {arguments.rows}")
    from data.formats import read_conversations  # here, because data.formats builds on this module
    from data.tokenizer import Tokenizer

    format = load(ChatFormat, None, arguments.format)
    tokenizer = Tokenizer.load(arguments.tokenizer)
    conversations = itertools.islice(read_conversations(arguments.file), arguments.rows)
    examples = [encode(conversation, tokenizer, format) for conversation in conversations]
    print("\n\n".join(show(example, tokenizer) for example in examples))
    print(f"\n{census(examples, tokenizer, format)}")


if __name__ == "__main__":
    run_main(main)
