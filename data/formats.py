"""Formats: read the instruction data of others into conversations, and write them in one canonical form.

What it is. Public instruction data comes in half a dozen shapes. Each row is recognised by its keys and becomes one
`Conversation` (Self-Instruct: one for each instance):

    alpaca          {instruction, input, output[, system, history]}       tatsu-lab/stanford_alpaca
    sharegpt        {conversations: [{from, value}][, system, tools]}     lm-sys/FastChat
    messages        {messages: [{role, content[, tool_calls, weight]}]}   OpenAI's format, and our canonical one
    self-instruct   {instruction, instances: [{input, output}]}           yizhongw/self-instruct, the seeds of BELLE
    completion      {prompt, completion}
    question        {question, answer}                                    openai/grade-school-math (GSM8K)
    text            {text}: the assistant alone speaks, all of it is learnt

    for conversation in read_conversations("seed_tasks.jsonl"): ...
    python -m data.formats FILE                    # which formats, how many rows, a sample
    python -m data.formats FILE --to OUT.jsonl     # convert to messages

Files are JSON arrays or JSON lines, told apart by their first character and not by their names, plain or `.gz`. A
message may carry `weight` 0 or 1 as in OpenAI's format: whether it is learnt (`Message.supervise`). A row's `origin`
is kept where it has one, and is the place in the file otherwise. `split="train"` leaves out rows whose own `split`
field says something else, so that held-out items stay held out.

Why so. A row that is misread is trained on all the same. So nothing is guessed: an unknown role, a number where text
should be or a broken line is an error with its file and line, and rows that rate answers (`chosen`/`rejected`,
`label`) are refused, because to imitate the rejected ones would be wrong.

What it leaves out. Preference and feedback data, images, JSON arrays larger than memory (convert those to lines).
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from configs import UserError, run_main
from data.chat import Conversation, Message

Row = dict[str, Any]

SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "system": "system",
}
MESSAGE_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


# Rows ----------------------------------------------------------------------------------------------------------------


def read_rows(path: str | Path) -> Iterator[tuple[str, Row]]:
    """Yield (place, object) for each row of a JSON array or of JSON lines; place is "file, row 3" or "file:3".

    Raises `UserError` with the place when the file is missing, empty, damaged, not UTF-8, not JSON, or not objects.
    """
    path = Path(path)
    empty = True
    for place, row in _array(path) if _starts_with_bracket(path) else _lines(path):
        empty = False
        if not isinstance(row, dict):
            raise UserError(f"{place}: a row must be a JSON object, this one is {_kind(row)}")
        yield place, row
    if empty:
        raise UserError(f"{path} has no rows; give a JSON array or one JSON object per line")


def _open(path: Path) -> Any:
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a .json, .jsonl or .jsonl.gz file")
    try:
        return gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; give a .json, .jsonl or .jsonl.gz file") from None


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(f"{path} is damaged after line {number}: it is no complete gzip file; fetch it again") from None


def _starts_with_bracket(path: Path) -> bool:
    first = next((line.lstrip() for _, line in _raw_lines(path) if line.strip()), b"")
    return first.startswith(b"[")


def _decoded(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number}: not UTF-8 text (byte {error.start + 1}); save the file as UTF-8") from None


def _parsed(path: Path, number: int, text: str) -> Any:
    """The JSON value of `text`, which begins at line `number`."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except UserError as error:
        raise UserError(f"{path}:{number}: {error}") from None
    except json.JSONDecodeError as error:
        line = number + error.lineno - 1
        raise UserError(f"{path}:{line}: not JSON ({error.msg} at column {error.colno}); mend the line") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}:{number}: JSON with a number too long or nested too deep; remove the row") from None


def _object(pairs: list[tuple[str, Any]]) -> Row:
    """An object whose keys are all different; JSON itself would keep the last and drop the others."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise UserError(f"the key {twice!r} is given twice; remove one")
    return found


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in _raw_lines(path):
        text = _decoded(path, number, line).strip()
        if text:
            yield f"{path}:{number}", _parsed(path, number, text)


def _array(path: Path) -> Iterator[tuple[str, Any]]:
    text = "".join(_decoded(path, number, line) for number, line in _raw_lines(path))
    for number, row in enumerate(_parsed(path, 1, text), 1):
        yield f"{path}, row {number}", row


# Formats: each turns a row into lists of messages, and raises UserError without the place, which the caller adds -----


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names[type(value)]


def _text(row: Row, key: str, default: str | None = None) -> str:
    value = row.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise UserError(f"`{key}` must be text, it is {_kind(value) if key in row else 'missing'}")
    return value


def _objects(row: Row, key: str) -> list[Row]:
    value = row.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        raise UserError(f"`{key}` must be a list of one or more objects")
    return value


def _question(instruction: str, input: str) -> str:
    return f"{instruction}\n{input}" if instruction and input else instruction or input


def _pair(question: str, answer: str) -> list[Message]:
    return [Message("user", question), Message("assistant", answer)]


def _system(row: Row) -> list[Message]:
    """The row's own system text with the tools that it offers, which a function call cannot be understood without."""
    tools = row.get("tools")
    listed = "" if not tools else tools if isinstance(tools, str) else json.dumps(tools, ensure_ascii=False)
    text = "\n".join(part for part in (_text(row, "system", ""), f"Tools: {listed}" if listed else "") if part)
    return [Message("system", text)] if text else []


def _one_system(messages: list[Message]) -> list[Message]:
    """One system message in front instead of two: what the row says aside (`tools`) after what its messages say."""
    if len(messages) > 1 and messages[0].role == messages[1].role == "system":
        return [Message("system", f"{messages[1].content}\n{messages[0].content}"), *messages[2:]]
    return messages


def _alpaca(row: Row) -> list[list[Message]]:
    messages = _system(row)
    history = row.get("history") or []
    for turn in history if isinstance(history, list) else [history]:
        if not isinstance(turn, list) or list(map(type, turn)) != [str, str]:
            raise UserError("`history` must be a list of [question, answer] pairs of text")
        messages += _pair(*turn)
    return [messages + _pair(_question(_text(row, "instruction"), _text(row, "input", "")), _text(row, "output"))]


def _self_instruct(row: Row) -> list[list[Message]]:
    instruction = _text(row, "instruction")
    instances = _objects(row, "instances")
    return [_pair(_question(instruction, _text(item, "input", "")), _text(item, "output")) for item in instances]


def _sharegpt(row: Row) -> list[list[Message]]:
    turns = _objects(row, "conversations")
    messages = [Message(_role(turn, "from", SHAREGPT_ROLES), _text(turn, "value")) for turn in turns]
    return [_one_system(_system(row) + messages)]


def _messages(row: Row) -> list[list[Message]]:
    turns = _objects(row, "messages")
    messages = [Message(_role(turn, "role", MESSAGE_ROLES), _content(turn), _supervise(turn)) for turn in turns]
    return [_one_system(_system(row) + messages)]


def _role(turn: Row, key: str, known: dict[str, str]) -> str:
    name = _text(turn, key)
    if name not in known:
        raise UserError(f"unknown role {name!r}: `{key}` must be one of {', '.join(known)}")
    return known[name]


def _content(turn: Row) -> str:
    """The text of a message: a string, or a list of typed parts; calls of tools follow it as JSON, one a line."""
    content = turn.get("content")
    if isinstance(content, list):
        parts = []
        for part in content:
            if not isinstance(part, dict) or part.get("type") in ("image_url", "image", "input_audio", "file"):
                raise UserError("`content` has a part that is not text; only text can be learnt")
            parts.append(_text(part, "text" if "text" in part else "value"))
    else:
        parts = [_text(turn, "content", "" if turn.get("tool_calls") else None)]
    for call in _objects(turn, "tool_calls") if turn.get("tool_calls") else []:
        if not isinstance(call.get("function"), dict):
            raise UserError("`tool_calls` must be objects with a `function`")
        parts.append(json.dumps(call["function"], ensure_ascii=False))
    return "\n".join(part for part in parts if part)


def _supervise(turn: Row) -> bool | None:
    weight = turn.get("weight")
    if weight is None:
        return None
    if weight not in (0, 1):
        raise UserError(f"`weight` of a message must be 0 or 1, got {weight!r}")
    return bool(weight)


Parser = Callable[[Row], list[list[Message]]]

# The first format whose keys are all present is the row's. Hence the more telling keys come first.
FORMATS: dict[str, tuple[tuple[str, ...], Parser]] = {
    "messages": (("messages",), _messages),
    "sharegpt": (("conversations",), _sharegpt),
    "self-instruct": (("instruction", "instances"), _self_instruct),
    "alpaca": (("instruction", "output"), _alpaca),
    "completion": (("prompt", "completion"), lambda row: [_pair(_text(row, "prompt"), _text(row, "completion"))]),
    "question": (("question", "answer"), lambda row: [_pair(_text(row, "question"), _text(row, "answer"))]),
    "text": (("text",), lambda row: [[Message("assistant", _text(row, "text"))]]),
}


def recognise(row: Row) -> str:
    """The name of a row's format. Raises `UserError` that names the keys seen and the formats known."""
    if "chosen" in row or "rejected" in row:
        raise UserError("this row compares answers (`chosen`, `rejected`): it is preference data, not a conversation")
    if isinstance(row.get("label"), bool) and ("messages" in row or "completion" in row):
        raise UserError("this row rates its answer (`label`): it is feedback, not a conversation to imitate")
    for name, (keys, _) in FORMATS.items():
        if all(key in row for key in keys):
            return name
    known = "; ".join(f"{name} {{{', '.join(keys)}}}" for name, (keys, _) in FORMATS.items())
    raise UserError(f"unknown format with the keys {', '.join(map(str, row)) or '(none)'}; known are {known}")


def conversations_of(row: Row, place: str) -> list[Conversation]:
    """The conversations of one row; `place` (file and line) opens every error and is the origin of rows without one."""
    try:
        found = FORMATS[recognise(row)][1](row)
        for message in itertools.chain.from_iterable(found):
            message.content.encode("utf-8")
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):x}"
        raise UserError(f"{place}: half of a surrogate pair ({half}); remove it") from None
    origin = row["origin"] if isinstance(row.get("origin"), str) and row["origin"] else place
    origins = [origin] if len(found) == 1 else [f"{origin}#{i}" for i in range(1, len(found) + 1)]
    return [Conversation(tuple(messages), name) for messages, name in zip(found, origins)]


def read_conversations(path: str | Path, split: str | None = None) -> Iterator[Conversation]:
    """All conversations of a file, in its order, whatever mixture of formats it holds.

    With `split`, rows that have a `split` field of another value are left out (held-out items stay held out).
    Raises `UserError` with file and line for every row that is broken or of unknown format.
    """
    for place, row in read_rows(path):
        if split is None or row.get("split", split) == split:
            yield from conversations_of(row, place)


# Canonical form ------------------------------------------------------------------------------------------------------


def to_row(conversation: Conversation) -> Row:
    """The canonical JSON object of a conversation: `messages` and, where it has one, `origin`."""
    messages = []
    for message in conversation.messages:
        weight = {} if message.supervise is None else {"weight": int(message.supervise)}
        messages.append({"role": message.role, "content": message.content} | weight)
    return {"messages": messages} | ({"origin": conversation.origin} if conversation.origin else {})


def write_rows(path: str | Path, rows: Iterable[Row]) -> int:
    """Write JSON lines (gzipped when `path` ends in .gz) under a temporary name, then rename; gives their number."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file to write to")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    try:
        with open(temporary, "wb") as raw:
            # No name and no time in the gzip header: the same rows give the same file.
            file = gzip.GzipFile("", "wb", 6, raw, 0) if path.suffix == ".gz" else raw
            with file:
                for row in rows:
                    file.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8"))
                    count += 1
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def main(argv: list[str]) -> None:
    """`python -m data.formats FILE [--to OUT]`: count the formats of a file, show a sample, convert."""
    parser = argparse.ArgumentParser(prog="python -m data.formats", description="Recognise and convert instructions.")
    parser.add_argument("file", help="instruction data (.json, .jsonl, .jsonl.gz)")
    parser.add_argument("--to", metavar="OUT", help="write all conversations as messages to OUT (.jsonl or .jsonl.gz)")
    arguments = parser.parse_args(argv)
    tally: dict[str, Counter] = {}
    rows = _converted(arguments.file, tally)
    sample = next(rows)
    rows = itertools.chain([sample], rows)
    written = write_rows(arguments.to, rows) if arguments.to else sum(1 for _ in rows)
    print(f"{'format':14} {'rows':>8} {'conversations':>14} {'messages':>9}")
    for name, counts in tally.items():
        print(f"{name:14} {counts['rows']:8} {counts['conversations']:14} {counts['messages']:9}")
    print("first:", json.dumps(sample, ensure_ascii=False)[:400])
    if arguments.to:
        print(f"wrote {written} conversations to {arguments.to}")


def _converted(path: str, tally: dict[str, Counter]) -> Iterator[Row]:
    """The canonical rows of a file; `tally` counts rows, conversations and messages of each format on the way."""
    for place, row in read_rows(path):
        found = conversations_of(row, place)
        counts = tally.setdefault(recognise(row), Counter())
        counts.update(rows=1, conversations=len(found), messages=sum(len(c.messages) for c in found))
        yield from map(to_row, found)


if __name__ == "__main__":
    run_main(main)
