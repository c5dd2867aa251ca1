"""Check of the world: random programs are put into words and read back; whatever does not come back is printed.

    python -m instruct.world.check --programs 100000 --json round_trip.json

What it is. Each program is a random well-typed chain of one to three operations, said in a random language in any of
the words that the grammar has, the held-out ones too; one in four with its input inside the instruction. The text is
parsed, and the reading must have the same behaviour, literal and language. Behaviour is compared twice, by fingerprint
and by running both programs on a fresh input.

The command ends with status 1 if there was a mismatch, a refusal or an ambiguity.

What it leaves out. Wrong instructions: that they do not pass is tested in `tests/test_world.py`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from random import Random

from configs import run_main
from configs.machine import machine
from instruct.world.grammar import Grammar
from instruct.world.inputs import sample_defined, sample_input
from instruct.world.operation import Undefined
from instruct.world.parse import Ambiguous, Parser, Reading, Unreadable
from instruct.world.program import Program, World, world
from instruct.world.splits import LANGUAGES, random_chain

SHOWN = 20  # faults that are printed


class RoundTrips:
    """Counts of what came back and what did not; `faults` are (kind, program, text, what was read)."""

    def __init__(self, everything: World, seed: int = 0):
        self.world = everything
        self.grammar = Grammar(everything)
        self.parser = Parser(everything)
        self.rng = Random(seed)
        self.counts: Counter[str] = Counter()
        self.faults: list[tuple[str, str, str, str]] = []
        self.seconds: Counter[str] = Counter()

    def one(self, depth: int, language: str, literal: bool) -> None:
        """Draw a program, say it, read it."""
        started = time.perf_counter()
        program = random_chain(self.world, depth, self.rng)
        given = sample_input(self.world.signature(program).takes, self.rng, language) if literal else None
        drawn = time.perf_counter()
        text = self.grammar.phrase(program, self.rng, language, None, given)
        said = time.perf_counter()
        try:
            fault, read = self._compare(program, given, language, self.parser.parse(text))
        except Ambiguous as error:
            fault, read = "ambiguous", str(error)
        except Unreadable as error:
            fault, read = "unreadable", str(error)
        self.seconds.update(draw=drawn - started, say=said - drawn, read=time.perf_counter() - said)
        self.counts[f"depth {depth}"] += 1
        self.counts[fault or "same"] += 1
        if fault:
            self.faults.append((fault, str(program), text, read))

    def _compare(self, program: Program, given: str | None, language: str, reading: Reading) -> tuple[str, str]:
        """(fault, what was read); no fault is ""."""
        if reading.literal != given or reading.language != language:
            return "mismatch", str(reading)
        if reading.program == program:
            return "", ""
        self.counts["other program of the same behaviour"] += 1
        same = self.parser.behaviour.same(reading.program, program) and self._agree(reading.program, program, language)
        return ("", "") if same else ("mismatch", str(reading))

    def _agree(self, one: Program, other: Program, language: str) -> bool:
        """Whether both give the same for a fresh input, if one is found."""
        fresh = sample_defined(self.world, one, self.rng, language, "test")
        try:
            return fresh is None or self.world.run(other, fresh[0], language) == fresh[1]
        except Undefined:
            return False

    def report(self) -> dict:
        programs = self.counts["same"] + len(self.faults)
        return {
            "programs": programs,
            **{each: self.counts[each] for each in ("mismatch", "unreadable", "ambiguous")},
            "other_program_of_the_same_behaviour": self.counts["other program of the same behaviour"],
            "depths": {each: self.counts[f"depth {each}"] for each in (1, 2, 3)},
            "operations": len(self.world.operations),
            "steps": len(self.world.steps()),
            "read_per_second": round(programs / self.seconds["read"]),
            "said_per_second": round(programs / self.seconds["say"]),
            "machine": machine(),
            "faults": [list(fault) for fault in self.faults],
        }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m instruct.world.check", description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=10_000, metavar="N", help="how many (default: 10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the report there")
    arguments = parser.parse_args(argv)
    trips = RoundTrips(world(), arguments.seed)
    for _ in range(arguments.programs):
        trips.one(trips.rng.randint(1, 3), trips.rng.choice(LANGUAGES), trips.rng.random() < 0.25)
    command = f"python -m instruct.world.check --programs {arguments.programs} --seed {arguments.seed}"
    report = {"command": command, **trips.report()}
    for fault, program, text, read in trips.faults[:SHOWN]:
        print(f"{fault}: {program}\n    said: {text}\n    read: {read}")
    print(
        "{programs} programs: {mismatch} mismatches, {unreadable} unreadable, {ambiguous} ambiguous; "
        "{read_per_second} read and {said_per_second} said a second".format(**report)
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return 1 if trips.faults else 0


if __name__ == "__main__":
    run_main(main)
