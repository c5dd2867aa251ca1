"""The end of the demo: a question comes in, the model constructs the instruction that answers it, carries it out and
answers in a sentence; and how often that is right over everything its world knows, so that one sentence is no lucky
draw. Nothing here knows an answer but the world that judges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from instruct.curriculum import Course
from instruct.exam import set_facts
from instruct.execute import execute_all, in_sentences, show
from instruct.strategies import asking
from instruct.world.program import Program, world
from model.load import LoadedModel
from train.execution_measures import facts_table, over_all, sentences

#: (question, what it asks for, of what)
QUESTIONS = (("What is the capital of France?", "capital", "France"), ("法国的首都是哪里？", "capital", "法国"))
LANGUAGES = {"en": "English", "zh": "Chinese"}


def answering(loaded: LoadedModel, course: Course) -> dict[str, Any]:
    """The dialogue, and the share of right answers over all facts; no facts, where the world of the course has none."""
    turns = [asking(question) for question, _, _ in QUESTIONS]
    done = in_sentences(loaded, execute_all(loaded, turns, "construct"))
    dialogue = []
    for each, (question, program, given) in zip(done, QUESTIONS):
        expected = world().run(Program.read(program), given, each.question.language)
        dialogue.append(
            {
                "question": question,
                "trace": show(each, trace=True),
                "constructed": list(each.constructed),
                "given": each.given,
                "results": [step.output for step in each.steps],
                "answer": each.answer,
                "sentence": each.sentence,
                "refusal": each.refusal,
                "expected": expected,
                "right": bool(each.answer)
                and world().holds(Program.read(program), given, each.answer, each.question.language),
            }
        )
    items = set_facts(course)
    table, constructed = facts_table(loaded, course, items)
    return {
        "dialogue": dialogue,
        "facts": table,
        "asked": len(items),
        **{way: over_all(table, way) for way in ("direct", "construct")},
        "sentences": sentences(loaded, course, items, constructed),
    }


def answering_page(facts: Mapping[str, Any]) -> Iterator[str]:
    """The last section of the report."""
    yield "## A question, the instruction it constructs, the answer"
    yield ""
    yield (
        "The model that learnt from its own instructions is asked. It writes what is given and the instructions that "
        "solve the question, carries each out itself, and says the answer in a sentence. In brackets: how sure it is."
    )
    yield ""
    for turn in facts["dialogue"]:
        yield "~~~~text"
        yield from turn["trace"].replace("~~~~", "~ ~ ~").splitlines()
        yield "~~~~"
        yield ""
        yield "right" if turn["right"] else f"wrong, expected: `{turn['expected']}`"
        yield ""
    if not facts["asked"]:
        return
    said = facts["sentences"]
    yield (
        f"The same for everything that its world knows of a name, {facts['asked']:,} questions in words that no "
        f"training text contains: **{facts['construct']:.1%}** right through the constructed instruction, "
        f"{facts['direct']:.1%} directly. Of the {said['asked']:,} right answers, {said['right']:.1%} come in a "
        "sentence that holds the answer and what was asked about."
    )
    yield ""
    yield "| asked for | in | questions | directly | constructed |"
    yield "|---|---|---|---|---|"
    for relation, languages in facts["facts"].items():
        for language, cell in languages.items():
            yield (
                f"| {relation.replace('_', ' ')} | {LANGUAGES[language]} | {cell['asked']} | {cell['direct']:.1%} | "
                f"{cell['construct']:.1%} |"
            )
    yield ""
