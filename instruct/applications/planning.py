"""Task planning: a goal, the steps that lead to it with what each of them depends on, and their results.

    python -m instruct.applications.planning RUN "Sort the numbers, then add the first two." --input "3 9 1"

    1. Sort the numbers.                      1 3 9
    2. Give the first two items.   <- 1       1 3
    3. Give the sum.               <- 2       4

The model writes a plan (`strategies.plan`, or `strategies.construct` where the goal holds its own input) and carries it
out. A plan that is refused, at whichever step, is thrown away and another one is sampled, up to `attempts` in all; all
of them are kept and reported.

What it leaves out. Steps side by side: the world's programs are chains, so each step depends on the one before it.
And mending: a new plan begins from the start.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import asdict, dataclass

from configs import UserError, run_main
from instruct import lessons, strategies
from instruct.answer import Asked
from instruct.execute import (
    DEFAULT,
    Execution,
    add_arguments,
    add_chain_arguments,
    carry_out,
    settings_of,
    world_verifier,
)
from instruct.execute import show as show_execution
from instruct.strategies import Settings, asking
from instruct.verify import Verifier
from model.load import LoadedModel, load_run
from model.sampling import Sampling

ATTEMPTS = 4


@dataclass(frozen=True)
class Planned:
    """A goal with every plan that was tried for it, the last one being the one that counts."""

    goal: Asked
    attempts: tuple[Execution, ...]

    @property
    def last(self) -> Execution:
        return self.attempts[-1]


def plan_and_do(
    loaded: LoadedModel,
    goal: Asked,
    attempts: int = ATTEMPTS,
    settings: Settings = DEFAULT,
    verifier: Verifier | None = None,
) -> Planned:
    """Plan greedily, then by sampling, until a plan is carried out to its end or there were `attempts` different ones
    or twice as many samples.

    Raises UserError for less than one attempt.
    """
    if attempts < 1:
        raise UserError(f"a goal needs at least one attempt, got {attempts}")
    quoted = any(quote in goal.instruction for quote in lessons.QUOTES)
    name, write = ("plan", strategies.plan) if goal.input or quoted else ("construct", strategies.construct)
    tried: dict[tuple[tuple[str, ...], str], Execution] = {}
    for number in range(2 * attempts):
        sampling = Sampling(temperature=settings.temperature) if number else None
        seed = random.Random(f"{settings.seed} {goal.instruction} {number}").getrandbits(62)
        [chain] = write(loaded, [goal], settings, sampling, [seed])
        key = chain.steps, chain.refusal
        if key not in tried:
            [tried[key]] = carry_out(loaded, [goal], [chain], settings, verifier, name)
            if tried[key].answered or len(tried) == attempts:
                break
    return Planned(goal, tuple(tried.values()))


def show(planned: Planned, trace: bool = False) -> str:
    """The steps of the last plan with their results; with `trace` all plans with all that is known of them."""
    if trace:
        return "\n".join(show_execution(each, trace=True) for each in planned.attempts)
    last = planned.last
    rows = [
        (
            f"{step.number}. {step.instruction}",
            f"<- {', '.join(map(str, step.after))}" if step.after else "",
            step.output,
        )
        for step in last.steps
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    lines = [f"{text:{widths[0]}}  {after:{widths[1]}}  {output}" for text, after, output in rows]
    tried = f" (after {len(planned.attempts)} plans)" if len(planned.attempts) > 1 else ""
    return "\n".join([*lines, show_execution(last) + tried])


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m instruct.applications.planning",
        description="Plan the steps to a goal and carry them out.",
        epilog="exit status: 0 reached, 1 refused, 2 wrong use",
    )
    parser.add_argument("run", help="run folder or checkpoint folder of a model that knows the lessons")
    parser.add_argument("goal", help="what is to be done")
    parser.add_argument("--input", default="", help="what it is to be done with; never read as an instruction")
    parser.add_argument("--attempts", type=int, default=ATTEMPTS, help=f"different plans, at most ({ATTEMPTS})")
    parser.add_argument("--temperature", type=float, default=DEFAULT.temperature, help="of plans after the first (0.8)")
    add_arguments(parser)
    add_chain_arguments(parser)
    arguments = parser.parse_args(argv)
    goal = asking(arguments.goal, arguments.input)
    settings = settings_of(arguments)
    verifier = world_verifier() if arguments.world else None
    planned = plan_and_do(load_run(arguments.run, arguments.device), goal, arguments.attempts, settings, verifier)
    print(json.dumps(asdict(planned), ensure_ascii=False) if arguments.json else show(planned, arguments.trace))
    return 0 if planned.last.answered else 1


if __name__ == "__main__":
    run_main(main)
