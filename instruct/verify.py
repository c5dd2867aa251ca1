"""Verification: an instruction and its answer are judged by running them, never by opinion.

What it is. A `Verifier` takes an instruction as text and asks, in this order,

    V0 format    is it one line of text, and is there an input where it needs one?
    V1 parse     can it be read, and in one way only?
    V2 type      do its steps fit together, and is the input of the type that they take?
    V3 run       has it a result, for its own input and for most of the probes?
    V4 trivial   is it more than a constant, an identity, or a shorter instruction in disguise?
    V5 known     does it do what no known instruction does?
    V6 answer    is the given answer right?

and says at which stage it fell, why, and what the interpreter would have answered.

    verifier = Verifier(Behaviour(world()))
    verdict = verifier.judge("Sort the numbers, then give the first.", "3 1 2", "1", known)
    verdict.decision, verdict.program, verdict.behaviour, verdict.answer
    record = verifier.judged(record, known)            # a whole record, with its decision

    python -m instruct.verify FILE [--json] [--repair OUT]

The command audits any file of instruction data (`data.formats`): sums, annotations and lengths of lists
(`instruct.audit`), and the answers of whatever instruction the world can read. Its exit status is 0 when nothing is
wrong, 1 when something is, 2 when the file cannot be read.

Why so. Text of a model is parsed, and what runs is the program that was understood. So an instruction that is accepted
means something, an answer that is accepted is right, and novelty is a difference in what is done and not in wording.

What it leaves out. Whether an instruction is idiomatic or useful; and all that the world has no words for.
"""

from __future__ import annotations

import argparse
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from configs import run_main
from data.chat import Conversation, Message
from data.formats import conversations_of, read_rows, to_row, write_rows
from instruct.audit import Fault, audit, repaired
from instruct.records import Decision, Record
from instruct.world.behaviour import Behaviour
from instruct.world.operation import Undefined
from instruct.world.parse import Ambiguous, Misfit, Parser, Reading, Unreadable
from instruct.world.program import IllTyped, Program, normalise, read_value, world

LONGEST = 400  # characters of an instruction, an input or an answer


@dataclass(frozen=True)
class Verdict:
    """`decision` is None where all stages were passed and no answer was given to judge. The rest is what was found out
    on the way: the program, its fingerprint, the interpreter's answer (one of them, where many are right), and whether
    the given answer is right, which also an instruction that is trivial or known can have."""

    decision: Decision | None
    program: str | None = None
    behaviour: str | None = None
    answer: str | None = None
    right: bool | None = None

    @property
    def passed(self) -> bool:
        return self.decision is None or self.decision.kept


class Verifier:
    """Judges by one world. Readings and behaviours are remembered, so that many inputs of an instruction are cheap.

    touches: says why a program, asked for in this language, may not be trained on ("" if it may): `Splits.touches`.
    """

    def __init__(self, behaviour: Behaviour, touches: Callable[[Program, str], str] = lambda program, language: ""):
        self.behaviour, self.world = behaviour, behaviour.world
        self.parser = Parser(self.world, behaviour)
        self.touches = touches
        self._read = lru_cache(maxsize=1 << 18)(self._read_instruction)
        self._worth = lru_cache(maxsize=1 << 18)(self._judge_program)

    def judge(
        self, instruction: str, input: str = "", output: str | None = None, known: Container[str] = frozenset()
    ) -> Verdict:
        """All stages for one instruction with one input ("" for none) and its answer, if there is one.

        known: fingerprints of the behaviours that are not new.
        """
        if problem := _format_problem(instruction, input, output):
            return Verdict(Decision("format", problem))
        reading = self._read(instruction)
        if isinstance(reading, Decision):
            return Verdict(reading)
        program = reading.program
        found = Verdict(None, str(program), self.behaviour.fingerprint(program))
        if input and reading.literal is not None:
            return replace(found, decision=Decision("format", "its input stands in the instruction already"))
        if output is not None and not input and reading.literal is None:
            return replace(found, decision=Decision("format", "it needs an input, and there is none"))
        if input or reading.literal is not None:
            answer = self._answer(reading, input)
            if isinstance(answer, Decision):
                return replace(found, decision=answer)
            right = None if output is None else self._is_right(reading, input, output, answer)
            found = replace(found, answer=answer, right=right)
        if decision := self._worth(program, reading.language):
            return replace(found, decision=decision)
        if found.behaviour in known:
            return replace(found, decision=Decision("known", found.behaviour))
        if found.right is None:
            return found
        decision = Decision("verified") if found.right else Decision("wrong", f"right is {found.answer}")
        return replace(found, decision=decision)

    def judged(self, record: Record, known: Container[str] = frozenset()) -> Record:
        """A record with program, behaviour and decision, and every instance marked as right, wrong or not run.

        The first instance that falls decides; with none that falls and at least one answer it is "verified"; without
        instances it stays undecided.
        """
        verdicts = [self.judge(record.instruction, each.input, each.output, known) for each in record.instances]
        verdicts = verdicts or [self.judge(record.instruction, known=known)]
        instances = tuple(replace(each, verified=verdict.right) for each, verdict in zip(record.instances, verdicts))
        first = next((verdict for verdict in verdicts if not verdict.passed), verdicts[0])
        facts = {"program": first.program, "behaviour": first.behaviour, "decision": first.decision}
        return replace(record, instances=instances, **facts)

    # Stages ----------------------------------------------------------------------------------------------------------

    def _read_instruction(self, instruction: str) -> Reading | Decision:
        """V1, and the part of V2 that needs no input."""
        try:
            return self.parser.parse(instruction)
        except Ambiguous as error:
            return Decision("ambiguous", str(error))
        except (Misfit, IllTyped) as error:
            return Decision("type", str(error))
        except Unreadable as error:
            return Decision("parse", str(error))

    def _answer(self, reading: Reading, input: str) -> str | Decision:
        """V2 and V3 on the item's own input: what the interpreter answers."""
        text = reading.literal if reading.literal is not None else input
        try:
            read_value(self.world.signature(reading.program).takes, text)
        except Undefined as error:
            return Decision("type", str(error))
        try:
            return self.world.run(reading.program, text, reading.language)
        except Undefined as error:
            return Decision("run", str(error))

    def _judge_program(self, program: Program, language: str) -> Decision | None:
        """V3 on the probes, V4, and whether the program is held out."""
        if touched := self.touches(program, language):
            return Decision("test split", touched)
        trivial = self.behaviour.trivial(program)
        if not trivial:
            return None
        code = {"mostly undefined": "run", "identity": "identity", "constant": "constant"}.get(trivial, "redundant")
        return Decision(code, trivial)

    def _is_right(self, reading: Reading, input: str, output: str, answer: str) -> bool:
        """V6."""
        if self.world.operation(reading.program.steps[-1]).holds is None:
            return normalise(output) == normalise(answer)
        text = reading.literal if reading.literal is not None else input
        return self.world.holds(reading.program, text, output, reading.language)


def _format_problem(instruction: str, input: str, output: str | None) -> str:
    """V0: why three texts are no item; "" if they are."""
    if not instruction.strip():
        return "the instruction is empty"
    if output is not None and not output.strip():
        return "the answer is empty"
    for name, text in (("instruction", instruction), ("input", input), ("answer", output or "")):
        if len(text) > LONGEST:
            return f"the {name} is longer than {LONGEST} characters"
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
            return f"the {name} is not one line of text"
    return ""


# The command ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """A fault with its place: file and line (or row), and which answer of a row of several it is in."""

    place: str
    fault: Fault


def audit_conversation(conversation: Conversation, verifier: Verifier) -> Iterator[tuple[int, Counter, list[Fault]]]:
    """(index of the message, how much was checked, faults) for each answer of a conversation."""
    question = ""
    for i, message in enumerate(conversation.messages):
        if message.role != "assistant":
            question = message.content if message.role == "user" else question
            continue
        found = audit(question, message.content)
        checked, faults = found.checked, list(found.faults)
        judged = _of_this_world(question, message.content, verifier)
        if judged is not None:
            checked["answer"] += 1
            faults += judged
        yield i, checked, faults


def _of_this_world(question: str, answer: str, verifier: Verifier) -> list[Fault] | None:
    """The answer's fault where the world can read the question and the answer has the form of its result, or None.

    Others may say a right answer in other words, so only what has one spelling is compared: numbers, lists of numbers,
    yes and no, and names of facts.
    """
    instruction, _, input = question.strip().partition("\n")
    verdict = verifier.judge(instruction, " ".join(input.split()))
    if verdict.answer is None:
        return None
    last = verifier.world.operation(Program.read(verdict.program).steps[-1])
    gives = verifier.world.signature(Program.read(verdict.program)).gives
    said = " ".join(unicodedata.normalize("NFKC", answer).split()).strip(" .。!！")
    if last.holds is not None or not (gives in ("number", "numbers", "truth") or last.family in ("facts", "calendar")):
        return None
    try:
        read_value(gives, said.lower() if gives == "truth" else said)
    except Undefined:
        return None
    if said.casefold() == verdict.answer.casefold():
        return []
    start = answer.find(answer.strip())
    return [Fault("answer", said, verdict.answer, (start, start + len(answer.strip())))]


def audit_file(path: str, verifier: Verifier, found: list[Finding], checked: Counter) -> Iterator[Conversation]:
    """Audit a file row by row: fills `found` and `checked`, and yields the conversations that are right or could be
    repaired."""
    for place, row in read_rows(path):
        if isinstance(row.get("decision"), dict) and row["decision"].get("kept") is False:
            continue  # a record that was dropped: that it is wrong is known
        for number, conversation in enumerate(conversations := conversations_of(row, place), 1):
            checked["answers"] += sum(message.role == "assistant" for message in conversation.messages)
            named = f"{place}#{number}" if len(conversations) > 1 else place
            messages: list[Message] | None = list(conversation.messages)
            for i, count, faults in audit_conversation(conversation, verifier):
                checked += count
                found += [Finding(named, fault) for fault in faults]
                mended = repaired(messages[i].content, faults) if messages and faults else ""
                if messages and mended:
                    messages[i] = replace(messages[i], content=mended)
                elif mended is None:
                    messages = None
            if messages is not None:
                yield replace(conversation, messages=tuple(messages))


def main(argv: list[str]) -> int:
    """`python -m instruct.verify FILE [--json] [--repair OUT]`: 0 when nothing is wrong, 1 when something is."""
    parser = argparse.ArgumentParser(
        prog="python -m instruct.verify",
        description="Audit the answers of instruction data: sums, annotations, lengths of lists, and what can be run.",
        epilog="exit status: 0 nothing wrong, 1 faults found, 2 the file cannot be read",
    )
    parser.add_argument("file", help="instruction data (.json, .jsonl, .jsonl.gz) in any format of data.formats")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument(
        "--repair",
        metavar="OUT",
        help="write what is right or could be repaired as messages to OUT (.jsonl, .jsonl.gz)",
    )
    arguments = parser.parse_args(argv)
    found: list[Finding] = []
    checked: Counter[str] = Counter()
    conversations = audit_file(arguments.file, Verifier(Behaviour(world())), found, checked)
    rows = map(to_row, conversations)
    written = write_rows(arguments.repair, rows) if arguments.repair else sum(1 for _ in rows)
    answers = checked.pop("answers", 0)
    wrong = Counter(finding.fault.kind for finding in found)
    if arguments.json:
        print(json.dumps(_summary(arguments.file, answers, checked, wrong, found), ensure_ascii=False))
    else:
        for finding in found:
            fault = finding.fault
            print(f"{finding.place}: {fault.kind}: {fault.claim!r}; right is {fault.right}")
        judged = [f"{kind} {wrong[kind]:,} wrong of {checked[kind]:,}" for kind in sorted(checked)]
        print(f"{answers:,} answers: {', '.join(judged) or 'nothing that can be judged'}")
        if arguments.repair:
            print(f"wrote {written} conversations to {arguments.repair}")
    return 1 if found else 0


def audit_summary(path: str) -> dict:
    """What `main --json` prints of a file: answers, claims judged and wrong by kind, faults with their places."""
    found: list[Finding] = []
    checked: Counter[str] = Counter()
    for _ in audit_file(path, Verifier(Behaviour(world())), found, checked):
        pass
    answers = checked.pop("answers", 0)
    return _summary(path, answers, checked, Counter(finding.fault.kind for finding in found), found)


def _summary(path: str, answers: int, checked: Counter, wrong: Counter, found: list[Finding]) -> dict:
    faults = [
        {"place": each.place, "kind": each.fault.kind, "claim": each.fault.claim, "right": each.fault.right}
        for each in found
    ]
    return {"file": path, "answers": answers, "checked": dict(checked), "wrong": dict(wrong), "faults": faults}


if __name__ == "__main__":
    run_main(main)
