"""Customer service: what does a message want, and can it be answered, or does a person have to take over?

    python -m instruct.applications.route RUN INTENTS.json "Where is my parcel?" [--embedder RUN] [--json]

INTENTS.json names intents:

    {"delivery": ["Where is my parcel?", "My order has not come."],
     "translation": {"examples": ["Put this into English: 狗"], "instruction": "Translate the word into English."},
     "complaint": {"examples": ["I want my money back."], "hand_over": true}}

The intent of a message is told by an embedder, as that of the nearest example (confidence: the cosine), or by the model
itself: it knows paraphrases, so it can say how likely the message is as other words for an example, and by Bayes' rule
with equal priors how likely each intent is. Below `--least` the message is handed over.

What follows. An intent with an instruction has it carried out on the message, which is data then; one without has the
message itself carried out, by a chain that the model constructs (`instruct.execute`). A refusal is handed over with its
reason, and so is every message of an intent that says so.

What it leaves out. Dialogues: each message stands alone.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from configs import UserError, run_main
from instruct import lessons
from instruct.answer import Asked
from instruct.embed import Encoder
from instruct.execute import (
    DEFAULT,
    Execution,
    add_arguments,
    add_chain_arguments,
    execute,
    settings_of,
    world_verifier,
)
from instruct.execute import show as show_execution
from instruct.strategies import Embedder, Settings, asking
from instruct.verify import Verifier
from model.load import LoadedModel, load_run
from model.score import log_likelihood

LEAST = 0.6


@dataclass(frozen=True)
class Intent:
    """What a message may want: examples of it, and what is then done."""

    name: str
    examples: tuple[str, ...]
    instruction: str = ""
    hand_over: bool = False


@dataclass(frozen=True)
class Routed:
    """A message with its intent, and what came of it: an answer, or a reason for handing it over ("" for none).

    scores: of all intents, best first.
    """

    message: str
    intent: str
    confidence: float
    scores: tuple[tuple[str, float], ...]
    execution: Execution | None
    answer: str
    hand_over: str


def read_intents(path: str | Path) -> list[Intent]:
    """The intents of a JSON file. Raises UserError where it has another form."""
    try:
        found = json.loads(Path(path).read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON file in UTF-8 ({error})") from None
    if not isinstance(found, dict) or not found:
        raise UserError(f'{path} must hold one object of intents, as {{"delivery": ["Where is my parcel?"]}}')
    return [_intent(f"{path}: {name!r}", name, given) for name, given in found.items()]


def _intent(place: str, name: str, given: object) -> Intent:
    """An instruction alone is its own example."""
    if isinstance(given, str):
        given = {"examples": [given], "instruction": given}
    if isinstance(given, list):
        given = {"examples": given}
    if not isinstance(given, dict) or given.keys() - {"examples", "instruction", "hand_over"}:
        raise UserError(f"{place} must be an instruction, a list of examples, or both with their names")
    examples, instruction = given.get("examples", []), given.get("instruction", "")
    if not isinstance(instruction, str) or not isinstance(given.get("hand_over", False), bool):
        raise UserError(f"{place}: its instruction must be a text and its hand_over true or false")
    if not isinstance(examples, list) or not all(isinstance(each, str) and each.strip() for each in examples):
        raise UserError(f"{place}: its examples must be a list of texts")
    if not (examples or instruction):
        raise UserError(f"{place} has neither an example nor an instruction: no message could be told to want it")
    return Intent(name, tuple(examples) or (instruction,), instruction, given.get("hand_over", False))


# Telling intents -----------------------------------------------------------------------------------------------------


def by_embedding(embedder: Embedder, intents: Sequence[Intent], messages: Sequence[str]) -> list[list[float]]:
    """For each message the cosine of the nearest example of each intent."""
    examples = [(number, text) for number, intent in enumerate(intents) for text in intent.examples]
    vectors = embedder.encode([text for _, text in examples])
    likeness = embedder.encode(list(messages)) @ vectors.T  # (messages, examples)
    return [
        [max(float(row[i]) for i, (number, _) in enumerate(examples) if number == n) for n in range(len(intents))]
        for row in likeness
    ]


def by_likelihood(loaded: LoadedModel, intents: Sequence[Intent], messages: Sequence[str]) -> list[list[float]]:
    """For each message the probability of each intent, if all are equally frequent: of an intent the message has the
    mean probability that its examples give it as their paraphrase."""
    asked = [
        lessons.paraphrase(example, asking(message).language, message)
        for message in messages
        for intent in intents
        for example in intent.examples
    ]
    found = iter(log_likelihood(loaded, asked))
    scores = []
    for _ in messages:
        logs = [_mean_in_logs([next(found).total for _ in intent.examples]) for intent in intents]
        highest = max(logs)
        shares = [math.exp(each - highest) if highest > -math.inf else 1.0 for each in logs]
        scores.append([share / sum(shares) for share in shares])
    return scores


def _mean_in_logs(values: Sequence[float]) -> float:
    """The logarithm of the mean of exp(values)."""
    highest = max(values)
    if highest == -math.inf:
        return highest
    return highest + math.log(sum(math.exp(each - highest) for each in values) / len(values))


def route(
    loaded: LoadedModel,
    intents: Sequence[Intent],
    messages: Sequence[str],
    embedder: Embedder | None = None,
    least: float = LEAST,
    strategy: str = "construct",
    settings: Settings = DEFAULT,
    verifier: Verifier | None = None,
) -> list[Routed]:
    """Each message with its intent and its answer or the reason why a person has to take over.

    Raises UserError for a message without text, and where there are no intents.
    """
    if not intents:
        raise UserError("there are no intents to choose from; name at least one")
    for message in messages:
        asking(message)
    scores = by_embedding(embedder, intents, messages) if embedder else by_likelihood(loaded, intents, messages)
    routed = []
    for message, row in zip(messages, scores):
        order = sorted(range(len(intents)), key=lambda n: (-row[n], n))
        intent, confidence = intents[order[0]], row[order[0]]
        done, reason = None, ""
        if confidence < least:
            reason = f"its intent is not clear enough ({confidence:.2f}, below {least:g})"
        elif intent.hand_over:
            reason = f"{intent.name} is for a person"
        else:
            asked = asking(message)
            if intent.instruction:
                asked = Asked(intent.instruction, " ".join(message.split()), asking(intent.instruction).language)
            done = execute(loaded, asked, "direct" if intent.instruction else strategy, settings, verifier=verifier)
            reason = done.refusal
        ranking = tuple((intents[n].name, row[n]) for n in order)
        answer = "" if done is None else done.answer
        routed.append(Routed(message, intent.name, confidence, ranking, done, answer, reason))
    return routed


def show(routed: Routed, trace: bool = False) -> str:
    lines = [f"{routed.intent} ({routed.confidence:.2f})"]
    if trace:
        lines += [f"   {score:.2f} {name}" for name, score in routed.scores[1:]]
        lines += [show_execution(routed.execution, trace=True)] if routed.execution else []
    lines.append(f"handed over: {routed.hand_over}" if routed.hand_over else routed.answer)
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m instruct.applications.route",
        description="Tell what messages want, and answer them or hand them over.",
        epilog="exit status: 0 all answered, 1 at least one handed over, 2 wrong use",
    )
    parser.add_argument("run", help="run folder or checkpoint folder of a model that knows the lessons")
    parser.add_argument("intents", help="JSON file of intents")
    parser.add_argument("message", help='"-": one a line from the standard input')
    parser.add_argument("--embedder", metavar="RUN", help="tell intents by this embedder; by the model without it")
    parser.add_argument("--least", type=float, default=LEAST, help=f"confidence that an intent needs ({LEAST})")
    add_arguments(parser)
    add_chain_arguments(parser, ("construct", "direct", "search", "plan"))
    arguments = parser.parse_args(argv)
    lines = sys.stdin.read().splitlines() if arguments.message == "-" else [arguments.message]
    messages = [line.strip() for line in lines if line.strip()]
    if not messages:
        raise UserError("there is no message; write one, or one a line on the standard input")
    intents = read_intents(arguments.intents)
    loaded = load_run(arguments.run, arguments.device)
    embedder = Encoder.load(arguments.embedder) if arguments.embedder else None
    verifier = world_verifier() if arguments.world else None
    settings = settings_of(arguments)
    done = route(loaded, intents, messages, embedder, arguments.least, arguments.strategy, settings, verifier)
    for each in done:
        print(json.dumps(asdict(each), ensure_ascii=False) if arguments.json else show(each, arguments.trace))
    return 1 if any(each.hand_over for each in done) else 0


if __name__ == "__main__":
    run_main(main)
