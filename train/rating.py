"""A rating session: which answers are compared, what was said of them, and a log from which all of it comes back.

    session = Session("ratings.jsonl", questions, setup)
    session.answered({0: (Said("4"), Said("5"))})     # what the models said, as soon as it is known
    session.rate(0, "left")                           # or "right", "tie", "skip"; with scores "1" to "5", "skip"
    session.undo(0)
    session.close()

What it is. Every event (what the session is of, answers, ratings, undos) is one JSON line at the end of
`ratings.session.jsonl`, on the disk before the caller goes on. The state is nothing but those lines read in order, so a
session that was killed at any moment is opened again where it stood, and undo goes back over restarts. The ratings
themselves, rows of `data.preferences`, are written from the state whenever it changes: a rating taken back is no row.

Which answer stands on the left is drawn for each question and undone in the file and in the log. Two equal answers are
nothing to compare: such a question is passed over. A tie or a skipped question gives no row; the log has it.

What it leaves out. Several raters of one session: each names a file of his own. Ratings of more than two answers.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import FileIO
from pathlib import Path
from random import Random
from typing import Any

from configs import UserError
from data.chat import Message
from data.files import full_disk_explained
from data.preferences import Labelled, Preference, write_labelled, write_preferences

PAIR_CHOICES = ("left", "right", "tie", "skip")
SCORE_CHOICES = ("1", "2", "3", "4", "5", "skip")
VERSION = 1


class Stale(UserError):
    """A rating of another question than the one that stands next: of a page that has not seen the last rating."""


@dataclass(frozen=True)
class Said:
    """An answer, and whether it came to its end or was cut off."""

    text: str
    finished: bool = True


def are_alike(said: Sequence[Said]) -> bool:
    """Whether these are two answers that are the same."""
    return len(said) == 2 and said[0].text.strip() == said[1].text.strip()


@dataclass(frozen=True)
class Question:
    """A prompt, and which answers to it are rated: for each the number of its run and of the sample."""

    prompt: tuple[Message, ...]
    makers: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Setup:
    """What a session is of. One that goes on must have the same, or its parts would not belong together."""

    runs: tuple[str, ...]  # their names, which may change
    weights: tuple[str, ...] = ()  # what tells their models apart
    sampling: str = ""  # how answers are drawn, in words
    scores: bool = False
    seed: int = 0
    rater: str = "person"
    simulated: bool = False

    @property
    def choices(self) -> tuple[str, ...]:
        return SCORE_CHOICES if self.scores else PAIR_CHOICES


def questions_of(
    prompts: Sequence[tuple[Message, ...]], runs: int, scores: bool, samples: int, seed: int
) -> list[Question]:
    """`samples` questions for each prompt: pairs of two samples of the one run, or of one of each of two; with scores
    single answers, those of a prompt in an order that says nothing about who gave them."""
    questions = []
    for number, prompt in enumerate(prompts):
        if scores:
            singles = [(run, sample) for run in range(runs) for sample in range(samples)]
            Random(f"{seed} {number} order of answers").shuffle(singles)
            questions += [Question(prompt, (single,)) for single in singles]
        elif runs == 2:
            questions += [Question(prompt, ((0, sample), (1, sample))) for sample in range(samples)]
        else:
            questions += [Question(prompt, ((0, 2 * sample), (0, 2 * sample + 1))) for sample in range(samples)]
    return questions


# State: a function of the events -------------------------------------------------------------------------------------


@dataclass
class State:
    """What is known after some events. ratings: (question, choice, better answer or score or None), oldest first."""

    answers: dict[int, tuple[Said, ...]] = field(default_factory=dict)
    ratings: list[tuple[int, str, int | None]] = field(default_factory=list)
    rated: set[int] = field(default_factory=set)

    def apply(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "answers":
            self.answers[event["question"]] = tuple(Said(**said) for said in event["said"])
        elif event["event"] == "rate":
            self.ratings.append((event["question"], event["choice"], event["result"]))
            self.rated.add(event["question"])
        elif event["event"] == "undo":
            self.rated.remove(self.ratings.pop()[0])
        else:
            raise KeyError(event["event"])

    def is_alike(self, question: int) -> bool:
        """Whether its answers are known and two that are the same."""
        return are_alike(self.answers.get(question, ()))


class Session:
    """A rating session that survives the process. All methods may be called from any thread.

    path: the file of ratings; the log is beside it. Raises UserError when another process has the session, when it
    was begun with other settings, when the log is damaged, or when `path` is a file of something else.
    """

    def __init__(self, path: str | Path, questions: Sequence[Question], setup: Setup):
        self.path, self.questions, self.setup = Path(path), tuple(questions), setup
        self.log = log_path(self.path)
        self.changed = threading.Condition(threading.RLock())
        self.state = State()
        self._next = 0  # no question before it is open
        self._file = self._open()
        try:
            self._restore()
            self.export()
        except BaseException:
            self._file.close()
            raise

    # What is asked of it ---------------------------------------------------------------------------------------------

    @property
    def current(self) -> int | None:
        """The question that stands next, None when all are rated."""
        with self.changed:
            while self._next < len(self.questions) and self._is_closed(self._next):
                self._next += 1
            return self._next if self._next < len(self.questions) else None

    def order(self, question: int) -> tuple[int, ...]:
        """Which answer is shown in which place."""
        places = list(range(len(self.questions[question].makers)))
        Random(f"{self.setup.seed} {question} order on the screen").shuffle(places)
        return tuple(places)

    def shown(self, question: int) -> tuple[Said, ...] | None:
        """Its answers as they stand on the screen, None where they are not known yet."""
        with self.changed:
            said = self.state.answers.get(question)
        return said and tuple(said[place] for place in self.order(question))

    @property
    def total(self) -> int:
        """Questions without those that, as far as is known, have nothing to compare."""
        with self.changed:
            return len(self.questions) - sum(map(self.state.is_alike, self.state.answers))

    @property
    def last(self) -> int | None:
        """The question that undo would go back to."""
        with self.changed:
            return self.state.ratings[-1][0] if self.state.ratings else None

    def summary(self) -> dict[str, Any]:
        """How often each choice was made ("choices"), questions passed over because the answers were alike ("alike"),
        rows in the file ("rows"); for two runs how often each was better ("wins"), or its mean score ("means")."""
        with self.changed:
            ratings = list(self.state.ratings)
            alike = sum(map(self.state.is_alike, self.state.answers))
        found: dict[str, Any] = {
            "choices": dict(Counter(choice for _, choice, _ in ratings)),
            "alike": alike,
            "rows": sum(result is not None for _, _, result in ratings),
        }
        if len(self.setup.runs) == 2:
            found["means" if self.setup.scores else "wins"] = self._by_run(ratings)
        return found

    def _by_run(self, ratings: list[tuple[int, str, int | None]]) -> list[float]:
        results: list[list[int]] = [[], []]
        for question, _, result in ratings:
            if result is not None:
                run, _ = self.questions[question].makers[0 if self.setup.scores else result]
                results[run].append(result)
        if self.setup.scores:
            return [round(sum(given) / len(given), 2) if given else 0.0 for given in results]
        return [len(won) for won in results]

    # What happens to it ----------------------------------------------------------------------------------------------

    def answered(self, said: Mapping[int, Sequence[Said]]) -> None:
        """The answers to some questions, in the order of their makers."""
        with self.changed:
            self._append(
                {"event": "answers", "question": question, "said": [asdict(each) for each in answers]}
                for question, answers in said.items()
            )

    def rate(self, question: int, choice: str) -> None:
        """Rate the current question. Raises UserError for an unknown choice, Stale for another question."""
        with self.changed:
            self._require(question == self.current, "another question stands next; look at it first")
            self._require(question in self.state.answers, "the answers to this question are not there yet")
            self._append([self._rating(question, choice)])
            self.export()

    def rate_many(self, choices: Mapping[int, str]) -> None:
        """Rate answered questions at once, in their order, without writing the file yet (`export`)."""
        with self.changed:
            self._append(self._rating(question, choice) for question, choice in choices.items())

    def undo(self, question: int) -> None:
        """Take back the last rating, which must be that of `question`. Raises Stale when it is not."""
        with self.changed:
            self._require(question == self.last, "another rating was the last; look at it first")
            self._append([{"event": "undo", "question": question, "time": _now()}])
            self._next = 0
            self.export()

    def export(self) -> None:
        """Write the file of ratings anew, whole or not at all."""
        with self.changed, full_disk_explained(self.path):
            if self.setup.scores:
                write_labelled(self.path, self._scores())
            else:
                write_preferences(self.path, self._pairs())

    def close(self) -> None:
        with self.changed:
            self._file.close()

    def _rating(self, question: int, choice: str) -> dict[str, Any]:
        if choice not in self.setup.choices:
            raise UserError(f"{choice!r} is no rating; choose one of {', '.join(self.setup.choices)}")
        if self.setup.scores:
            result = None if choice == "skip" else int(choice)
        else:
            result = {"left": self.order(question)[0], "right": self.order(question)[1]}.get(choice)
        return {"event": "rate", "question": question, "choice": choice, "result": result, "time": _now()}

    def _require(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise Stale(otherwise)

    def _is_closed(self, question: int) -> bool:
        return question in self.state.rated or self.state.is_alike(question)

    # Rows ------------------------------------------------------------------------------------------------------------

    def _pairs(self) -> Iterator[Preference]:
        for question, _, better in self.state.ratings:
            if better is not None:
                said = self.state.answers[question]
                chosen, rejected = said[better].text, said[1 - better].text
                prompt = self.questions[question].prompt
                yield Preference(prompt, chosen, rejected, None, self.setup.rater, self.setup.simulated)

    def _scores(self) -> Iterator[Labelled]:
        for question, _, score in self.state.ratings:
            if score is not None:
                text, prompt = self.state.answers[question][0].text, self.questions[question].prompt
                yield Labelled(prompt, text, None, score, self.setup.rater, self.setup.simulated)

    # The log ---------------------------------------------------------------------------------------------------------

    def _open(self) -> FileIO:
        if self.path.is_dir():
            raise UserError(f"{self.path} is a folder; give the name of a file to write to")
        if self.path.exists() and not self.log.exists():
            raise UserError(f"{self.path} exists and has no log {self.log.name} beside it; give --out another name")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = open(self.log, "a+b", buffering=0)
        try:
            _lock(file)
        except OSError:
            file.close()
            raise UserError(f"{self.path} is being rated in another process; end that one first") from None
        return file

    def _restore(self) -> None:
        """Read the log. A last line without its end was being written when the process died: nobody was told that it
        is kept, and it is cut off."""
        self._file.seek(0)
        written = self._file.read()
        whole = written[: written.rfind(b"\n") + 1]
        if len(whole) < len(written):
            self._file.truncate(len(whole))
        lines = whole.splitlines()
        start = self._start()
        if not lines:
            self._append_lines([start])
            _sync_folder(self.log.parent)
        for number, line in enumerate(lines, 1):
            try:
                event = json.loads(line)
                if number == 1:
                    self._require_same(event, start)
                else:
                    self.state.apply(event)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                if isinstance(error, UserError):
                    raise
                raise UserError(f"{self.log}:{number} is damaged; mend the line or give --out another name") from None

    def _start(self) -> dict[str, Any]:
        """The first line of a log."""
        asked = [[[m.role, m.content] for m in each.prompt] + [list(each.makers)] for each in self.questions]
        prompts = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        settings = json.loads(json.dumps(asdict(self.setup)))  # as they are read back: lists for tuples
        return {"event": "start", "version": VERSION, "questions": len(asked), "prompts": prompts, **settings}

    def _require_same(self, found: Mapping[str, Any], start: Mapping[str, Any]) -> None:
        if found["event"] != "start" or found["version"] != VERSION:
            raise KeyError("start")
        others = {"prompts": "other prompts", "questions": "other prompts", "weights": "other models"}
        for key, value in start.items():
            if key != "runs" and found.get(key) != value:
                what = others.get(key, f"{key} {found.get(key)} (now {value})")
                raise UserError(f"{self.path} was begun with {what}; go on with that, or give --out another name")

    def _append(self, events: Any) -> None:
        """On the disk first, then in the state."""
        events = list(events)
        self._append_lines(events)
        for event in events:
            self.state.apply(event)
        self.changed.notify_all()

    def _append_lines(self, events: Sequence[Mapping[str, Any]]) -> None:
        """All of them are on the disk, or none and an error says why."""
        lines = "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in events).encode("utf-8")
        before = self._file.seek(0, os.SEEK_END)
        with full_disk_explained(self.log):
            try:
                while lines:
                    lines = lines[self._file.write(lines) :]
                os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(before)
                raise


def log_path(path: str | Path) -> Path:
    """`ratings.session.jsonl` for `ratings.jsonl` and for `ratings.jsonl.gz`."""
    path = Path(path)
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".jsonl") + ".session.jsonl")


def _now() -> float:
    return round(time.time(), 3)


def _lock(file: FileIO) -> None:
    """For as long as the file is open; a process that is killed lets go. Raises OSError when another has it."""
    try:
        import fcntl
    except ImportError:  # not a Unix: two processes at once are not noticed
        return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
