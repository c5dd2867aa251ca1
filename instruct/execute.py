"""Execution: a question comes in, the model constructs the instructions that solve it and carries them out itself.

    python -m instruct.execute RUN "What is the capital of France?" --trace
    python -m instruct.execute RUN "Sort the numbers, then give the first." --input "3 9 1" --strategy search --json
    python -m instruct.execute RUN - < questions.txt

    done = execute(loaded, asking("法国的首都是哪里？"), "construct")
    done.answer, done.refusal, done.steps       # every step with its instruction, input, output and confidence

The strategies are those of `instruct.strategies`; whichever wrote the chain, `carry_out` runs it: each step is asked of
the model (`lessons.execute`), and what it answers is what the next step is given. There is an answer, or a refusal with
its reason and the step at which it came (0: there was no chain).

Refused are chains that are empty, too long or cut off, answers that are cut off or empty, and what the model is less
sure of than `Settings.confidence`. With a verifier, which knows the world, also chains that it cannot read or whose
steps do not fit together, and inputs of a type that a step does not take: these before anything is run.

"search" carries out several sampled chains and takes the answer that most samples agree on (self-consistency, Wang et
al. 2023), of equals the one whose words the model finds likelier (mean log-likelihood of chain and answers). The chains
are written from the instruction alone, but which one wins is told by its answers, which depend on the input.

What it leaves out. Whether a step was carried out rightly: its confidence is the model's own opinion.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

from configs import UserError, run_main
from instruct import lessons, strategies
from instruct.answer import Asked, say
from instruct.embed import Encoder
from instruct.strategies import STRATEGIES, Chain, Embedder, Known, Settings, asking, probabilities, unfit, wrong_type
from instruct.verify import Verifier
from instruct.world.behaviour import Behaviour
from instruct.world.program import normalise, world
from model.complete import complete
from model.load import LoadedModel, load_run
from model.sampling import Sampling

DEFAULT = Settings()
SENTENCE_TOKENS = 64
SENTENCE_TRIES = 8


@dataclass(frozen=True)
class Done:
    """A step that was carried out. `after`: the numbers of the steps whose results it took. `confidence`: mean
    probability of the tokens of `output`."""

    number: int
    instruction: str
    input: str
    output: str
    after: tuple[int, ...]
    confidence: float | None = None


@dataclass(frozen=True)
class Execution:
    """A question with everything that was done for it.

    constructed, given   the chain, and what its first step was given
    confidence           of the chain (`strategies.Chain`)
    steps                those that were carried out
    answer               "" where it was refused
    refusal, failed_at   why ("" where it was answered), and at which step: 0 before the first, None nowhere
    agreement            share of the sampled chains with this answer ("search" only)
    sentence             the answer as a sentence, where one was asked for and came out
    """

    question: Asked
    strategy: str
    constructed: tuple[str, ...] = ()
    given: str = ""
    confidence: float | None = None
    steps: tuple[Done, ...] = ()
    answer: str = ""
    refusal: str = ""
    failed_at: int | None = None
    agreement: float | None = None
    sentence: str = ""

    @property
    def answered(self) -> bool:
        return not self.refusal

    @property
    def log_likelihood(self) -> float:
        """Mean of the chain's and of the steps' log-probabilities per token; -inf where none is known."""
        known = [each for each in (self.confidence, *(step.confidence for step in self.steps)) if each]
        return sum(map(math.log, known)) / len(known) if known else -math.inf


def execute(
    loaded: LoadedModel,
    question: Asked,
    strategy: str = "construct",
    settings: Settings = DEFAULT,
    known: Known | None = None,
    verifier: Verifier | None = None,
) -> Execution:
    """One question by one strategy. known: for "retrieve". verifier: refuses what its world cannot read.

    Raises UserError for an unknown strategy, and for "retrieve" without known instructions.
    """
    return execute_all(loaded, [question], strategy, settings, known, verifier)[0]


def execute_all(
    loaded: LoadedModel,
    questions: Sequence[Asked],
    strategy: str = "construct",
    settings: Settings = DEFAULT,
    known: Known | None = None,
    verifier: Verifier | None = None,
) -> list[Execution]:
    """Many questions in batches, in order; each is answered as it would be alone."""
    if strategy == "search":
        return _search(loaded, questions, settings, verifier)
    ways: dict[str, Callable[[], list[Chain]]] = {
        "direct": lambda: strategies.direct(questions),
        "construct": lambda: strategies.construct(loaded, questions, settings),
        "plan": lambda: strategies.plan(loaded, questions, settings),
        "retrieve": lambda: strategies.retrieve(loaded, questions, settings, known),
    }
    if strategy not in ways:
        raise UserError(f"unknown strategy {strategy!r}: known are {', '.join(STRATEGIES)}")
    return carry_out(loaded, questions, ways[strategy](), settings, verifier, strategy)


def carry_out(
    loaded: LoadedModel,
    questions: Sequence[Asked],
    chains: Sequence[Chain],
    settings: Settings = DEFAULT,
    verifier: Verifier | None = None,
    strategy: str = "given",
) -> list[Execution]:
    """Run one chain for each question, whoever wrote it; steps of the same number share their batches."""
    done = [_started(one, chain, settings, verifier, strategy) for one, chain in zip(questions, chains, strict=True)]
    for number in range(1, 1 + max((len(each.constructed) for each in done), default=0)):
        alive = [i for i, each in enumerate(done) if each.answered and number <= len(each.constructed)]
        for i in alive:
            done[i] = _before_step(done[i], number, verifier)
        alive = [i for i in alive if done[i].answered]
        todo = [(done[i].constructed[number - 1], _latest(done[i])) for i in alive]
        for i, (text, finished, confidence) in zip(alive, _answers(loaded, todo, settings)):
            done[i] = _after_step(done[i], number, text, finished, confidence, settings)
    return [replace(each, answer=each.steps[-1].output) if each.answered else each for each in done]


def in_sentences(loaded: LoadedModel, executions: Sequence[Execution]) -> list[Execution]:
    """The same with each answer as a sentence in the question's language ("The capital of France is Paris."), written
    by the model, the likeliest first, then samples; it stays "" where none of them holds (`holds`)."""
    done = [replace(each, sentence="") for each in executions]
    for attempt in range(SENTENCE_TRIES):
        missing = [i for i, each in enumerate(done) if each.answered and not each.sentence]
        asked = [(done[i].question.instruction, done[i].answer, done[i].question.language) for i in missing]
        sampling = Sampling(temperature=0.7 if attempt else 0.0)
        seeds = [Random(f"{each} {attempt}").getrandbits(62) for each in asked]
        texts = say(loaded, [lessons.sentence(*each) for each in asked], SENTENCE_TOKENS, sampling, seeds)
        for i, text in zip(missing, texts):
            done[i] = replace(done[i], sentence=text if holds(text, done[i]) else "")
    return done


def holds(text: str, done: Execution) -> bool:
    """Whether a text can be the answer of `done` as a sentence.

    It has the answer, not within a longer word, and more than that; what the question names and the chain was given;
    and no name (a word with a capital, but the first), number or quoted text that is neither in the question nor in the
    answer.
    """
    question, answer = done.question.instruction, normalise(done.answer)
    found = re.search(rf"(?<![a-z0-9]){re.escape(answer)}(?![a-z0-9])", normalise(text), re.IGNORECASE)
    if not found or not any(map(str.isalnum, text.replace(found[0], "", 1))):
        return False
    shown, _ = lessons.hide_quoted(question)
    names = {each.casefold() for each in re.findall(r"(?<=\s)[A-Z][a-z]+|-?\d+", text)}
    known = {*re.findall(r"[a-z]+|-?\d+", f"{question} {answer}".casefold())}
    quoted = re.findall(f"[{lessons.QUOTES}](.+?)[{lessons.QUOTES}]", text)
    return (done.given not in shown or done.given in text) and names <= known and all(q in question for q in quoted)


# Running a chain -----------------------------------------------------------------------------------------------------


def _started(one: Asked, chain: Chain, settings: Settings, verifier: Verifier | None, strategy: str) -> Execution:
    """Nothing carried out yet; refused where there is no chain to carry out."""
    refusal = chain.refusal or ("" if chain.steps else "the chain has no step")
    if not refusal and len(chain.steps) > settings.steps:
        refusal = f"the chain has {len(chain.steps)} steps; {settings.steps} are allowed"
    if not refusal and chain.confidence is not None and chain.confidence < settings.confidence:
        refusal = f"the chain's confidence is {chain.confidence:.2f}, below {settings.confidence:g}"
    if not refusal and verifier is not None and strategy != "direct":
        refusal = unfit(chain.steps, verifier)
    begun = Execution(one, strategy, chain.steps, chain.given, chain.confidence, refusal=refusal)
    return replace(begun, failed_at=0) if refusal else begun


def _latest(done: Execution) -> str:
    return done.steps[-1].output if done.steps else done.given


def _refused(done: Execution, number: int, reason: str) -> Execution:
    return replace(done, refusal=reason, failed_at=number)


def _before_step(done: Execution, number: int, verifier: Verifier | None) -> Execution:
    reason = wrong_type(done.constructed[number - 1], _latest(done), verifier) if verifier else ""
    return _refused(done, number, reason) if reason else done


def _after_step(
    done: Execution, number: int, text: str, finished: bool, confidence: float | None, settings: Settings
) -> Execution:
    after = (number - 1,) if number > 1 else ()
    step = Done(number, done.constructed[number - 1], _latest(done), text, after, confidence)
    done = replace(done, steps=(*done.steps, step))
    if not finished:
        return _refused(done, number, f"the answer did not come to its end in {settings.answer_tokens} tokens")
    if not text:
        return _refused(done, number, "the answer is empty")
    if confidence is not None and confidence < settings.confidence:
        return _refused(done, number, f"the answer's confidence is {confidence:.2f}, below {settings.confidence:g}")
    return done


def _answers(
    loaded: LoadedModel, todo: Sequence[tuple[str, str]], settings: Settings
) -> list[tuple[str, bool, float | None]]:
    """What the model answers to each (instruction, input), whether it came to its end, and its confidence. What is
    asked twice is answered once."""
    unique = list(dict.fromkeys(todo))
    prompts = [lessons.execute(*each) for each in unique]
    said = complete(loaded, prompts, settings.answer_tokens, batch_rows=128)
    texts = [each.text.strip() for each in said]
    sure = probabilities(loaded, prompts, texts) if settings.confidences else [None] * len(unique)
    found = dict(zip(unique, zip(texts, [each.finished for each in said], sure)))
    return [found[each] for each in todo]


def _search(
    loaded: LoadedModel, questions: Sequence[Asked], settings: Settings, verifier: Verifier | None
) -> list[Execution]:
    """All different chains of each question, carried out together; the best of each question."""
    scored = replace(settings, confidences=True)
    written = strategies.search(loaded, questions, scored)
    flat = [(i, chain) for i, chains in enumerate(written) for chain in chains]
    done = carry_out(loaded, [questions[i] for i, _ in flat], [chain for _, chain in flat], scored, verifier, "search")
    tried: dict[int, list[tuple[Execution, int]]] = defaultdict(list)
    for (i, chain), each in zip(flat, done):
        tried[i].append((each, chain.count))
    return [_most_agreed(tried[i], settings.candidates) for i in range(len(questions))]


def _most_agreed(tried: Sequence[tuple[Execution, int]], candidates: int) -> Execution:
    """The likeliest execution with the answer that most samples gave; the first one where all were refused."""
    votes: dict[str, int] = defaultdict(int)
    for each, count in tried:
        if each.answered:
            votes[normalise(each.answer)] += count
    if not votes:
        return tried[0][0]
    answered = [each for each, _ in tried if each.answered]
    best = max(answered, key=lambda each: (votes[normalise(each.answer)], each.log_likelihood))
    return replace(best, agreement=votes[normalise(best.answer)] / candidates)


# The command ---------------------------------------------------------------------------------------------------------


def show(done: Execution, trace: bool = False) -> str:
    """What a user reads: the answer or the refusal, after what was done for it where `trace` says so."""
    lines = []
    if trace:
        sure = "" if done.confidence is None else f" ({done.confidence:.2f})"
        lines.append(f"{done.question.instruction}  [{done.strategy}{sure}]")
        if done.given:
            lines.append(f"   given: {done.given}")
        for step in done.steps:
            after = f" <- {', '.join(map(str, step.after))}" if step.after else ""
            sure = "" if step.confidence is None else f"  ({step.confidence:.2f})"
            lines.append(f"   {step.number}. {step.instruction}{after}")
            lines.append(f"      {step.input} -> {step.output}{sure}")
        lines += [f"   {n}. {text}  (not run)" for n, text in _not_run(done)]
    if done.refusal:
        place = f" at step {done.failed_at}" if done.failed_at else ""
        lines.append(f"refused{place}: {done.refusal}")
    else:
        lines.append(done.sentence or done.answer)
    return "\n".join(lines)


def _not_run(done: Execution) -> Iterator[tuple[int, str]]:
    return ((n, text) for n, text in enumerate(done.constructed, 1) if n > len(done.steps))


def as_json(done: Execution) -> str:
    return json.dumps(asdict(done), ensure_ascii=False)


def read_known(path: str, embedder: Embedder) -> Known:
    """Known instructions, one a line of a file. Raises UserError where there is none."""
    lines = [line.strip() for line in Path(path).read_text("utf-8").splitlines()]
    return Known(embedder, [line for line in lines if line])


def world_verifier() -> Verifier:
    return Verifier(Behaviour(world()))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that all commands over this interface share."""
    parser.add_argument("--confidence", type=float, default=0.0, help="refuse what is less sure than this (0)")
    parser.add_argument("--trace", action="store_true", help="print what was done, and how sure the model was")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")


def add_chain_arguments(parser: argparse.ArgumentParser, offered: Sequence[str] = ()) -> None:
    """Those of commands that run chains. offered: strategies to choose from, the first one by default."""
    if offered:
        parser.add_argument("--strategy", default=offered[0], choices=offered, help=f"({offered[0]})")
        parser.add_argument(
            "--candidates", type=int, default=DEFAULT.candidates, help="chains of the strategy search (8)"
        )
    parser.add_argument("--steps", type=int, default=DEFAULT.steps, help=f"of a chain, at most ({DEFAULT.steps})")
    parser.add_argument("--seed", type=int, default=DEFAULT.seed, help="of what is sampled (0)")
    parser.add_argument(
        "--world", action="store_true", help="refuse chains and inputs that the embedded world cannot read"
    )


def settings_of(arguments: argparse.Namespace) -> Settings:
    names = ("confidence", "candidates", "steps", "seed", "temperature")
    return replace(DEFAULT, **{name: value for name, value in vars(arguments).items() if name in names})


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m instruct.execute",
        description="Answer questions by instructions that the model constructs and carries out.",
        epilog="exit status: 0 all answered, 1 at least one refused, 2 wrong use",
    )
    parser.add_argument("run", help="run folder or checkpoint folder of a model that knows the lessons")
    parser.add_argument("question", help='the question, its input quoted once or beside it; "-": one a line from stdin')
    parser.add_argument("--input", default="", help="what the question is about; never read as an instruction")
    parser.add_argument("--sentence", action="store_true", help="answer in a whole sentence")
    parser.add_argument("--embedder", metavar="RUN", help="embedder for the strategy retrieve")
    parser.add_argument("--known", metavar="FILE", help="known instructions for the strategy retrieve, one a line")
    add_arguments(parser)
    add_chain_arguments(parser, ("construct", "direct", "retrieve", "search", "plan"))
    arguments = parser.parse_args(argv)
    retrieves = arguments.strategy == "retrieve"
    if retrieves != (arguments.embedder is not None) or retrieves != (arguments.known is not None):
        raise UserError("the strategy retrieve needs --embedder and --known, and no other strategy takes them")
    lines = sys.stdin.read().splitlines() if arguments.question == "-" else [arguments.question]
    questions = [asking(line, arguments.input) for line in lines if line.strip() or arguments.question != "-"]
    if not questions:
        raise UserError("there is no question on the standard input; write one a line")
    settings = settings_of(arguments)
    loaded = load_run(arguments.run, arguments.device)
    known = read_known(arguments.known, Encoder.load(arguments.embedder)) if retrieves else None
    verifier = world_verifier() if arguments.world else None
    done = execute_all(loaded, questions, arguments.strategy, settings, known, verifier)
    if arguments.sentence:
        done = in_sentences(loaded, done)
    for each in done:
        print(as_json(each) if arguments.json else show(each, arguments.trace))
    return 0 if all(each.answered for each in done) else 1


if __name__ == "__main__":
    run_main(main)
