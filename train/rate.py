"""Ask people which answers of a model are better, in the terminal or on a small local page.

    python -m train.rate RUN PROMPTS --out ratings.jsonl              # two samples of one model, side by side
    python -m train.rate RUN OTHER PROMPTS --out ratings.jsonl        # one answer of each of two models
    python -m train.rate RUN PROMPTS --out ratings.jsonl --scores     # single answers, 1 to 5
    python -m train.rate RUN PROMPTS --out ratings.jsonl --web        # the page (pip install "zhiling[serve]")
    python -m train.rate RUN PROMPTS --out ratings.jsonl --simulate verifier+shorter --noise 0.1

PROMPTS is a file of any format of `data.formats`; a last answer in it is left out. What comes out are rows of
`data.preferences`, ready for training, and beside them a log of the session (`train.rating`): the same command goes on
where the last one stopped, however it ended. Answers are made by seed, some questions ahead of the person, in a thread
of their own; two samples of one model that are the same are drawn again.

What it leaves out: a prompt too long for the model is shortened for it (`data.chat.prompt`) and shown whole; an answer
takes at most half of the context, whatever --tokens says.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from random import Random

from configs import UserError, run_main
from data.chat import Conversation, Message
from data.formats import read_conversations
from instruct.raters import Rater, rater_of
from model.complete import complete
from model.generate import add_sampling_arguments, sampling_of
from model.load import WEIGHTS, LoadedModel, load_run
from model.sampling import Sampling
from model.storage import read_manifest
from train.rate_terminal import rate_in_terminal, say_summary
from train.rate_web import require_web, serve
from train.rating import Question, Said, Session, Setup, are_alike, questions_of

ATTEMPTS = 4  # how often two equal samples of one model are drawn
AHEAD = 32  # questions answered before they are needed
BLOCK = 4  # questions answered together for a person, who waits for the first ones
SIMULATED_BLOCK = 64


class Answerer:
    """Answers questions by its models. The text of an answer follows from the seed, the prompt and the maker alone."""

    def __init__(self, models: Sequence[LoadedModel], sampling: Sampling, new_tokens: int, seed: int = 0):
        self.models, self.sampling, self.new_tokens, self.seed = tuple(models), sampling, new_tokens, seed

    def __call__(self, questions: Sequence[Question]) -> list[tuple[Said, ...]]:
        """For each question the answers of its makers, in their order."""
        said = self._draw(questions, 0)
        for attempt in range(1, ATTEMPTS) if len(self.models) == 1 else ():
            alike = [i for i, pair in enumerate(said) if are_alike(pair)]
            for i, pair in zip(alike, self._draw([questions[i] for i in alike], attempt)):
                said[i] = (said[i][0], pair[1])
        return said

    def _draw(self, questions: Sequence[Question], attempt: int) -> list[tuple[Said, ...]]:
        texts: dict[tuple[int, int], Said] = {}
        for run, loaded in enumerate(self.models):
            wanted = [(i, place) for i, each in enumerate(questions) for place in _places(each, run)]
            asked = [Conversation(questions[i].prompt) for i, _ in wanted]
            seeds = [self._seed(questions[i], place, attempt) for i, place in wanted]
            found = complete(loaded, asked, self.new_tokens, self.sampling, seeds)
            texts |= {key: Said(each.text, each.finished) for key, each in zip(wanted, found)}
        return [tuple(texts[i, place] for place in range(len(each.makers))) for i, each in enumerate(questions)]

    def _seed(self, question: Question, place: int, attempt: int) -> int:
        prompt = [(message.role, message.content) for message in question.prompt]
        return Random(repr((self.seed, prompt, question.makers[place], attempt))).getrandbits(62)


def _places(question: Question, run: int) -> list[int]:
    """Which of its answers a run gives."""
    return [place for place, (maker, _) in enumerate(question.makers) if maker == run]


class Ahead:
    """Answers the questions of a session in a thread, `ahead` of them before they are needed; a context manager.

    failure: the error that ended the thread, None while all is well.
    """

    def __init__(
        self,
        session: Session,
        answer: Callable[[Sequence[Question]], list[tuple[Said, ...]]],
        ahead: int = AHEAD,
        block: int = BLOCK,
    ):
        self.session, self.answer, self.ahead, self.block = session, answer, ahead, block
        self.failure: Exception | None = None
        self._ends = False
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)

    def __enter__(self) -> Ahead:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self.session.changed:
            self._ends = True
            self.session.changed.notify_all()
        self._thread.join()

    def wait(self, question: int) -> None:
        """Until its answers are there. Raises what ended the thread."""
        with self.session.changed:
            while question not in self.session.state.answers:
                if self.failure is not None:
                    raise self.failure
                self.session.changed.wait(0.5)  # so that an interrupt is noticed

    def _run(self) -> None:
        try:
            for block in self._blocks():
                said = self.answer([self.session.questions[i] for i in block])
                self.session.answered(dict(zip(block, said)))
        except Exception as error:  # told to whoever waits
            with self.session.changed:
                self.failure = error
                self.session.changed.notify_all()

    def _blocks(self) -> Iterator[list[int]]:
        session = self.session
        missing = [i for i in range(len(session.questions)) if i not in session.state.answers]
        for start in range(0, len(missing), self.block):
            with session.changed:
                session.changed.wait_for(lambda first=missing[start]: self._ends or self._is_needed(first))
                if self._ends:
                    return
            yield missing[start : start + self.block]

    def _is_needed(self, question: int) -> bool:
        current = self.session.current
        return current is not None and question < current + self.ahead


def rate_simulated(session: Session, answer: Callable, rater: Rater, block: int = SIMULATED_BLOCK) -> None:
    """Let a simulated rater rate all that is left, block by block."""
    todo = [i for i in range(len(session.questions)) if i not in session.state.rated]
    for start in range(0, len(todo), block):
        rows = todo[start : start + block]
        new = [i for i in rows if i not in session.state.answers]
        session.answered(dict(zip(new, answer([session.questions[i] for i in new]))) if new else {})
        session.rate_many({i: _verdict(session, rater, i) for i in rows if not session.state.is_alike(i)})
    session.export()


def _verdict(session: Session, rater: Rater, question: int) -> str:
    prompt, texts = session.questions[question].prompt, [said.text for said in session.shown(question)]
    return str(rater.score(prompt, *texts)) if session.setup.scores else rater.choose(prompt, *texts)


# The command ---------------------------------------------------------------------------------------------------------


def read_prompts(path: str) -> list[tuple[Message, ...]]:
    """The prompts of a file: its conversations without a last answer. Raises UserError where nothing is asked."""
    prompts = []
    for conversation in read_conversations(path):
        messages = conversation.messages
        messages = messages[:-1] if messages[-1].role == "assistant" else messages
        if not messages or messages[-1].role == "assistant":
            raise UserError(f"{conversation.origin}: nothing is asked here; give prompts that a model can answer")
        prompts.append(messages)
    return prompts


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m train.rate",
        usage="python -m train.rate RUN [RUN] PROMPTS --out FILE.jsonl [options]",
        description="Collect preferences or scores from people, or from simulated raters.",
    )
    parser.add_argument("inputs", nargs="+", metavar="RUN [RUN] PROMPTS", help="one or two runs, and a file of prompts")
    parser.add_argument("--out", required=True, metavar="FILE.jsonl", help="where the ratings go, and go on")
    parser.add_argument("--scores", action="store_true", help="score single answers, 1 to 5, instead of comparing two")
    parser.add_argument("--samples", type=int, default=1, help="questions (with --scores: answers) for each prompt (1)")
    parser.add_argument("--rater", default="person", help="who rates, as the rows will say (person)")
    parser.add_argument("--web", action="store_true", help="rate on a page in the browser of this machine")
    parser.add_argument("--port", type=int, default=8765, help="of the page; 0: any that is free (8765)")
    parser.add_argument("--simulate", metavar="RATER", help="no person: verifier, shorter, politer, joined by +")
    parser.add_argument("--noise", type=float, default=0.0, help="share of wrong decisions of a simulated rater (0)")
    add_sampling_arguments(parser, temperature=1.0)
    arguments = parser.parse_args(argv)
    if len(arguments.inputs) not in (2, 3):
        parser.error("give one or two runs and a file of prompts")
    if arguments.samples < 1:
        raise UserError(f"--samples must be positive, got {arguments.samples}")
    if not 0 <= arguments.port < 65536:
        raise UserError(f"--port must lie between 0 and 65535, got {arguments.port}")
    if arguments.web and arguments.simulate:
        raise UserError("--simulate rates without a person; leave out --web")
    if arguments.noise and not arguments.simulate:
        raise UserError("--noise is of simulated raters; give --simulate, or leave it out")
    if arguments.temperature == 0 and len(arguments.inputs) == 2 and (not arguments.scores or arguments.samples > 1):
        raise UserError("two answers of one model at --temperature 0 are the same; raise it, or give a second run")
    return arguments


def open_session(
    arguments: argparse.Namespace, models: Sequence[LoadedModel], sampling: Sampling, rater: Rater | None
) -> Session:
    """The session of a command line; `rater` is a simulated one."""
    *runs, prompts = arguments.inputs
    questions = questions_of(read_prompts(prompts), len(runs), arguments.scores, arguments.samples, arguments.seed)
    weights = tuple(read_manifest(loaded.folder)[WEIGHTS][1] for loaded in models)
    drawn = f"{sampling}, {arguments.tokens} tokens"
    who = arguments.rater if rater is None else str(rater)
    setup = Setup(tuple(runs), weights, drawn, arguments.scores, arguments.seed, who, rater is not None)
    return Session(arguments.out, questions, setup)


def main(argv: list[str]) -> None:
    arguments = parse(argv)
    sampling = sampling_of(arguments)
    if arguments.web:
        require_web()
    rater = rater_of(arguments.simulate, arguments.noise, arguments.seed) if arguments.simulate else None
    models = [load_run(run, arguments.device) for run in arguments.inputs[:-1]]
    session = open_session(arguments, models, sampling, rater)
    shortest = min(loaded.model.config.context for loaded in models)
    answer = Answerer(models, sampling, min(arguments.tokens, shortest // 2), arguments.seed)
    try:
        if rater is not None:
            rate_simulated(session, answer, rater)
        else:
            with Ahead(session, answer) as ahead:
                if arguments.web:
                    serve(session, ahead, arguments.port)
                else:
                    rate_in_terminal(session, ahead.wait, sys.stdin, sys.stdout)
        print(say_summary(session))
    finally:
        session.close()


if __name__ == "__main__":
    run_main(main)
