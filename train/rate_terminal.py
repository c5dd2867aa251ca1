"""The terminal of `train.rate`: a prompt, two answers side by side or one below the other, and one key for each rating.

    1 or left arrow   the first is better        t  a tie       u  undo
    2 or right arrow  the second is better       s  skip        q  quit (all is kept)

With --scores there is one answer, and 1 to 5 score it. Where standard input is no terminal a line is a key.

Text of a model is never sent to the terminal as it is: control characters, which could move the cursor or turn the
direction of writing, are shown as escapes. Chinese characters count as two columns.
"""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from itertools import zip_longest
from typing import TextIO

from train.rating import Said, Session

SIDE_BY_SIDE = 80  # columns from which two answers stand beside each other
WIDEST = 160
CUT = "… (cut off)"
ARROWS = {"\x1b[D": "left", "\x1b[C": "right", "\x1bOD": "left", "\x1bOC": "right"}
LETTERS = {"t": "tie", "s": "skip", "u": "undo", "q": "quit"}
TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # direction of writing
PAIR_KEYS = "1/← first  2/→ second  t tie  s skip  u undo  q quit"
SCORE_KEYS = "1 (bad) to 5 (good)  s skip  u undo  q quit"


def rate_in_terminal(session: Session, wait: Callable[[int], None], typed: TextIO, out: TextIO) -> None:
    """Ask for ratings until all are given, the input ends or the person quits. `wait`: until there are answers."""
    with suppress(KeyboardInterrupt), closing(key_presses(typed)) as keys:
        while (question := _next(session, wait, out)) is not None:
            print(screen(session, question, shutil.get_terminal_size().columns), file=out, flush=True)
            command = _command(session, keys, out)
            if command is None:
                return
            if command == "undo":
                session.undo(session.last)
            else:
                session.rate(question, command)


def _next(session: Session, wait: Callable[[int], None], out: TextIO) -> int | None:
    """The question that stands next, with its answers; waiting may pass over some."""
    while (question := session.current) is not None and session.shown(question) is None:
        print("the model is answering ...", file=out, flush=True)
        wait(question)
    return question


def _command(session: Session, keys: Iterator[str], out: TextIO) -> str | None:
    """The next key that means something now: a choice, "undo", or None for the end."""
    for key in keys:
        command = meaning(key, session.setup.scores)
        if command == "quit":
            return None
        if command == "undo" and session.last is None:
            print("nothing to undo", file=out, flush=True)
        elif command:
            return command
        else:
            print(f"keys: {SCORE_KEYS if session.setup.scores else PAIR_KEYS}", file=out, flush=True)
    return None


def meaning(key: str, scores: bool) -> str | None:
    """The choice or command of a key, None for one that has no meaning."""
    key = key.strip().lower()
    if key in LETTERS:
        return None if scores and key == "t" else LETTERS[key]
    if scores:
        return key if key in ("1", "2", "3", "4", "5") else None
    named = {"1": "left", "2": "right", "left": "left", "right": "right", "tie": "tie", "skip": "skip"}
    return named.get(key) or ({"undo": "undo", "quit": "quit"}.get(key))


def say_summary(session: Session) -> str:
    """What has been rated, in a few lines."""
    found = session.summary()
    rated = sum(found["choices"].values())
    left = "" if session.current is None else f" of {session.total}; the same command goes on"
    lines = [f"{rated} rated{left}", f"{found['rows']} rows in {session.path}, the log is {session.log.name}"]
    counts = {**found["choices"], "passed over, as both answers are the same": found["alike"]}
    lines.append(", ".join(f"{count} {name}" for name, count in counts.items() if count))
    for key, text in (("wins", "was better"), ("means", "has the mean score")):
        for run, value in zip(session.setup.runs, found.get(key, ())):
            lines.append(f"{run} {text} {value}{' times' if key == 'wins' else ''}")
    return "\n".join(line for line in lines if line)


# The screen ----------------------------------------------------------------------------------------------------------


def screen(session: Session, question: int, columns: int) -> str:
    """A question as text of at most `columns` columns."""
    columns = max(20, min(columns, WIDEST))
    rated = len(session.state.ratings)
    lines = ["", _rule(f"{rated + 1} of {session.total}", columns)]
    for message in session.questions[question].prompt:
        lines += wrap(f"{message.role}: {message.content}", columns)
    shown = session.shown(question) or ()
    if session.setup.scores:
        lines += ["", _rule("answer", columns), *_answer(shown[0], columns)]
    elif columns >= SIDE_BY_SIDE:
        width = (columns - 3) // 2
        left, right = (_answer(said, width) for said in shown)
        lines += ["", f"{_rule('1', width)}   {_rule('2', width)}"]
        lines += [f"{pad(a, width)}   {b}".rstrip() for a, b in zip_longest(left, right, fillvalue="")]
    else:
        for number, said in enumerate(shown, 1):
            lines += ["", _rule(str(number), columns), *_answer(said, columns)]
    return "\n".join([*lines, "", SCORE_KEYS if session.setup.scores else PAIR_KEYS])


def _answer(said: Said, columns: int) -> list[str]:
    return wrap(said.text.strip() or "(empty)", columns) + ([] if said.finished else [CUT])


def _rule(title: str, columns: int) -> str:
    return pad(f"── {title} ", columns, "─")


def visible(text: str) -> str:
    """The text with control characters and marks that turn the direction of writing as escapes; lines stay lines."""
    return "".join(
        f"\\x{ord(c):02x}" if (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t") or c in TURNING else c
        for c in text.replace("\r\n", "\n").replace("\t", "    ")
    )


def width_of(text: str) -> int:
    """Columns that a text takes."""
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def pad(text: str, columns: int, fill: str = " ") -> str:
    return text + fill * (columns - width_of(text))


def wrap(text: str, columns: int) -> list[str]:
    """Lines of at most `columns` columns, broken at spaces and between Chinese characters where that is possible."""
    lines = []
    for paragraph in visible(text).split("\n"):
        line, width = "", 0
        for piece in re.findall(r"\s+|[\u2e80-\uffef]|[^\s\u2e80-\uffef]+", paragraph):
            while width + width_of(piece) > columns:
                if line.strip():
                    lines.append(line.rstrip())
                    line, width, piece = "", 0, piece.lstrip()
                else:
                    head = _head(piece, columns)
                    lines.append(head)
                    piece = piece[len(head) :]
            line, width = line + piece, width + width_of(piece)
        lines.append(line.rstrip())
    return lines


def _head(text: str, columns: int) -> str:
    """As much of a text as fits."""
    width = 0
    for i, character in enumerate(text):
        width += _columns(character)
        if width > columns:
            return text[:i]
    return text


# Keys ----------------------------------------------------------------------------------------------------------------


def key_presses(typed: TextIO) -> Generator[str, None, None]:
    """What is typed: single keys at a terminal, otherwise lines. Ends with the input."""
    if typed.isatty() and _has_terminals():
        yield from _terminal_keys(typed)
    else:
        yield from map(str.strip, typed)


def _has_terminals() -> bool:
    try:
        import termios  # noqa: F401
    except ImportError:
        return False
    return True


def _terminal_keys(typed: TextIO) -> Generator[str, None, None]:
    """Keys without waiting for the end of a line, until this is closed: then the terminal is as it was. What was typed
    before is not thrown away."""
    import termios
    import tty

    descriptor = typed.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor, termios.TCSADRAIN)
    try:
        while (key := _read_key(descriptor)) not in ("", "\x04"):
            yield ARROWS.get(key, key)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _read_key(descriptor: int) -> str:
    """One byte, or the whole sequence of an arrow key."""
    import select

    key = os.read(descriptor, 1)
    while key.startswith(b"\x1b") and len(key) < 3 and select.select([descriptor], [], [], 0.05)[0]:
        key += os.read(descriptor, 1)
    return key.decode("latin-1")
