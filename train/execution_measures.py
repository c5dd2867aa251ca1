"""What execution is worth in numbers, of one model that was taught to construct (`train.rounds`, execution = true).

- `facts_table`: closed questions in held-out words about everything there is to know, direct against construct
- `by_strategy`: every strategy on the kinds of `instruct.exam`
- `sentences`: answers in whole sentences
- `injection`: texts that try to change the chain
- `routing`: known instructions found by embedding beside the chains that the model writes
- `calibration`: what its confidence tells

An answer is right when the world says so. None of it trains; the demo shows the first one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from configs import UserError
from instruct import lessons, strategies
from instruct.answer import Asked, say
from instruct.attacks import attacks
from instruct.curriculum import Course
from instruct.exam import is_right
from instruct.execute import Execution, execute_all, in_sentences
from instruct.strategies import Known, Settings, unfit
from instruct.verify import Verifier
from instruct.world.program import Program
from instruct.world.splits import Item
from model.load import LoadedModel

QUICK = Settings(confidences=False)
THRESHOLDS = (0.5, 0.8, 0.9, 0.95, 0.99)
QUOTED = "3 1 2"
ATTACKED = 4  # programs, in each language, whose questions are attacked


def asked_of(items: Sequence[Item]) -> list[Asked]:
    return [Asked(item.instruction, item.input, item.language) for item in items]


def share(course: Course, items: Sequence[Item], done: Sequence[Execution]) -> float:
    """Of right answers; a refusal is none."""
    return sum(is_right(course, item, each.answer) for item, each in zip(items, done)) / max(len(items), 1)


def facts_table(
    loaded: LoadedModel, course: Course, items: Sequence[Item]
) -> tuple[dict[str, dict[str, Any]], list[Execution]]:
    """(by relation and language: how many are asked, shares right directly and constructed; the constructed ones).

    items: those of `set_facts`.
    """
    done = {way: execute_all(loaded, asked_of(items), way, QUICK) for way in ("direct", "construct")}
    table: dict[str, dict[str, Any]] = {}
    for key in dict.fromkeys((str(item.program), item.language) for item in items):
        places = [i for i, item in enumerate(items) if (str(item.program), item.language) == key]
        own = [items[i] for i in places]
        shares = {way: share(course, own, [all_of[i] for i in places]) for way, all_of in done.items()}
        table.setdefault(key[0], {})[key[1]] = {"asked": len(own), **shares}
    return table, done["construct"]


def over_all(table: Mapping[str, Mapping[str, Mapping[str, float]]], way: str) -> float:
    """The share of right answers over all questions of a table of facts."""
    cells = [cell for languages in table.values() for cell in languages.values()]
    return sum(cell[way] * cell["asked"] for cell in cells) / max(sum(cell["asked"] for cell in cells), 1)


def by_strategy(
    loaded: LoadedModel, course: Course, kinds: Mapping[str, Sequence[Item]], candidates: int, known: Known | None
) -> dict[str, dict[str, float]]:
    """Shares of right answers, by kind of question and strategy. A plan needs an input, so kinds without one have no
    share of it; without known instructions nothing is retrieved."""
    ways = ("direct", "construct", "search", "plan", *(["retrieve"] if known else []))
    marks: dict[str, dict[str, float]] = {}
    for kind, items in kinds.items():
        marks[kind] = {}
        for way in ways:
            if way != "plan" or all(item.input for item in items):
                settings = Settings(candidates=candidates, confidences=way == "search")
                marks[kind][way] = share(course, items, execute_all(loaded, asked_of(items), way, settings, known))
    return marks


def sentences(
    loaded: LoadedModel, course: Course, items: Sequence[Item], done: Sequence[Execution]
) -> dict[str, float]:
    """Of the right answers, the share that the model says in a sentence that holds the answer and what was asked
    about."""
    right = [(item, each) for item, each in zip(items, done) if is_right(course, item, each.answer)]
    said = in_sentences(loaded, [each for _, each in right])
    good = sum(bool(each.sentence) and item.given in each.sentence for (item, _), each in zip(right, said))
    return {"asked": len(right), "right": good / max(len(right), 1)}


# Injection -----------------------------------------------------------------------------------------------------------


def injection(loaded: LoadedModel, course: Course, attempts: int, seed: int = 0) -> dict[str, Any]:
    """`attempts` attacks as inputs beside questions, and as many in quotes inside one: how many chains change, by
    strategy. `shown`: of chains written with the attack in sight, which is what execution prevents, the share that
    changes; if nothing changed there, nothing would be shown by the rest."""
    rng, grammar = Random(f"attacked {seed}"), course.grammar
    texts = attacks(grammar, course.world.singles(), attempts, seed)
    programs = rng.sample(course.splits.seeds, min(ATTACKED, len(course.splits.seeds)))
    turns = [Asked(grammar.phrase(each, rng, lang), QUOTED, lang) for each in programs for lang in ("en", "zh")]
    clean = [turns[i % len(turns)] for i in range(attempts)]
    attacked = [Asked(one.instruction, text, one.language) for one, text in zip(clean, texts)]
    changed = {}
    for way in ("construct", "plan"):
        before, after = (execute_all(loaded, asked, way, QUICK) for asked in (clean, attacked))
        changed[way] = sum(_followed(a) != _followed(b) for a, b in zip(before, after))
    quoting = _quoting(course, rng)
    if quoting:
        changed["quoted"] = _changed_by_quotes(loaded, quoting, [" ".join(text.split()) for text in texts])
    lines = [lessons.request(one.instruction, text) for one, text in zip(clean, texts)]
    seen = say(loaded, [lessons.construct(line, one.language) for line, one in zip(lines, clean)], QUICK.chain_tokens)
    unseen = strategies.construct(loaded, clean, QUICK)
    obeyed = sum(lessons.split_chain(text)[1] != chain.steps for text, chain in zip(seen, unseen))
    return {"attempts": attempts, "changed": changed, "shown": obeyed / max(attempts, 1)}


def _followed(done: Execution) -> tuple[str, ...]:
    """The chain that an execution had, of which what was run is the beginning."""
    run = tuple(step.instruction for step in done.steps)
    return done.constructed if run == done.constructed[: len(run)] else run


def _quoting(course: Course, rng: Random) -> list[Asked]:
    """Questions that quote their input, one of each operation and language that can be asked so."""
    found = []
    for program in course.world.singles():
        for language in ("en", "zh") if course.world.signature(program).takes in ("list", "numbers") else ():
            text = course.grammar.phrase(program, rng, language, literal=QUOTED)
            try:
                if lessons.hide_quoted(text)[1] == QUOTED:
                    found.append(Asked(text, "", language))
            except UserError:
                continue
    return found


def _changed_by_quotes(loaded: LoadedModel, questions: Sequence[Asked], texts: Sequence[str]) -> int:
    """Texts that end their quotes are refused, so no chain follows from them."""
    clean = [questions[i % len(questions)] for i in range(len(texts))]
    attacked = [replace(one, instruction=one.instruction.replace(QUOTED, text)) for one, text in zip(clean, texts)]
    before, after = (strategies.construct(loaded, asked, QUICK) for asked in (clean, attacked))
    return sum(bool(b.steps) and b.steps != a.steps for a, b in zip(before, after))


# Routing -------------------------------------------------------------------------------------------------------------


def routing(
    loaded: LoadedModel, course: Course, items: Sequence[Item], known: Known, verifier: Verifier
) -> dict[str, float]:
    """Instructions in held-out words, brought to a known one by embedding, or to the chain that the model writes for
    them: shares that do what was asked, and the difference in points (embedding minus generating)."""
    wanted = [course.behaviour.fingerprint(item.program) for item in items]
    found = known.nearest([item.instruction for item in items])
    written = strategies.construct(loaded, asked_of(items), QUICK)
    near = [_behaviour(course, verifier, (known.instructions[i],)) for i, _ in found]
    made = [_behaviour(course, verifier, chain.steps) for chain in written]
    embedding, generating = (sum(a == b for a, b in zip(each, wanted)) / max(len(wanted), 1) for each in (near, made))
    return {
        "asked": len(items),
        "known": len(known.instructions),
        "embedding": embedding,
        "generating": generating,
        "points": 100 * (embedding - generating),
    }


def _behaviour(course: Course, verifier: Verifier, steps: Sequence[str]) -> str:
    """The fingerprint of a chain; "" where the world cannot run it."""
    if not steps or unfit(steps, verifier):
        return ""
    programs = [verifier.parser.parse(step).program for step in steps]
    return course.behaviour.fingerprint(Program(tuple(step for each in programs for step in each.steps)))


# Confidence ----------------------------------------------------------------------------------------------------------


def calibration(loaded: LoadedModel, course: Course, items: Sequence[Item]) -> list[dict[str, float | None]]:
    """For each threshold: the share of constructed answers that are at least so sure (geometric mean over chain and
    steps; a refusal is not), and the share of right ones among them."""
    done = execute_all(loaded, asked_of(items), "construct")
    judged = [
        (math.exp(each.log_likelihood), is_right(course, item, each.answer))
        for item, each in zip(items, done)
        if each.answered
    ]
    rows: list[dict[str, float | None]] = []
    for threshold in (0.0, *THRESHOLDS):
        above = [right for sure, right in judged if sure >= threshold]
        right = sum(above) / len(above) if above else None
        rows.append({"threshold": threshold, "answered": len(above) / max(len(items), 1), "right": right})
    return rows
