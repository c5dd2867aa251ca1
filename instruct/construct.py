"""One round of construction, without the training: from what is known to records that can be learnt from.

    records = construct(loaded, pool, judge, ConstructConfig(arm="verified"), round=1)
    kept = [record for record in records if record.kept]

The pipeline: write (`instruct.propose`) -> filters -> judge the instruction (does it parse, is it well typed, does it
run, is it neither constant nor an identity, is its behaviour new, is it not held out for tests) -> many inputs for each
-> the model's own answers, by plan and directly -> judge the answers. Every item keeps its reason.

Which judges there are is the *arm*. "verified" asks the program at both places, and nothing of the program but its
verdicts reaches the training; "interpreter" also lets it write the answers. The others do without: "unverified" is the
condition of Self-Instruct (heuristic filters, one direct answer), "consistency" asks the model several times instead,
"paraphrase" trusts that a paraphrase of a seed has the seed's answers. They do not even know what is held out; whether
their items touch it is found when they are audited (`audit`).
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from configs import UserError, check, load, run_main
from data.corpus import CorpusConfig, documents
from instruct import propose
from instruct.answer import Asked, by_plan, directly
from instruct.filters import Duplicate, NearDuplicate, decide, usual
from instruct.funnel import funnel, show_funnel
from instruct.propose import Pool, ProposeConfig
from instruct.records import COMBINE, Decision, Instance, Record, from_seeds, write_records
from instruct.rouge import Pool as Texts
from instruct.verify import Verifier
from instruct.world.behaviour import Behaviour
from instruct.world.inputs import pool_of
from instruct.world.program import world
from model.load import LoadedModel, load_run

Arm = Literal["seeds", "paraphrase", "unverified", "consistency", "verified", "interpreter"]
LONGEST_DOCUMENT = 300  # characters of a document that are shown
ARMS: tuple[str, ...] = get_args(Arm)
WAYS = ("right by parts", "right by plan", "right directly")


@dataclass(frozen=True)
class ConstructConfig:
    """propose: how to write. most: instructions kept at this stage at most. inputs: for each of them. wordings: texts
    that the arms with a program keep of each new meaning in each language, over all rounds: a model that meets a
    meaning in one wording learns the wording. agreement: share of votes that "consistency" wants. rouge: bound of the
    near-duplicate filter of the arms without a program."""

    arm: Arm = "verified"
    most: int = 400
    inputs: int = 20
    wordings: int = 1
    agreement: float = 0.6
    rouge: float = 0.7
    propose: ProposeConfig = field(default_factory=ProposeConfig)

    def __post_init__(self):
        problems = [] if self.arm in ARMS else [f"unknown arm {self.arm!r}: arms are {', '.join(ARMS)}"]
        problems += [
            f"{name} must be positive, got {getattr(self, name)}"
            for name in ("most", "inputs", "wordings")
            if getattr(self, name) < 1
        ]
        problems += [
            f"{name} must be above 0 and at most 1, got {getattr(self, name)}"
            for name in ("agreement", "rouge")
            if not 0 < getattr(self, name) <= 1
        ]
        if self.arm == "consistency" and self.propose.votes < 2:
            problems.append(f"arm=consistency needs propose.votes of at least 2, got {self.propose.votes}")
        check(problems)


#: Runs work on this rank's part of some items and gives the results for all of them, in order.
Share = Callable[[Callable[[Sequence], list], Sequence], list]


def alone(work: Callable[[Sequence], list], items: Sequence) -> list:
    return work(items)


def construct(
    loaded: LoadedModel,
    pool: Pool,
    verifier: Verifier,
    config: ConstructConfig,
    round: int = 1,
    share: Share = alone,
) -> list[Record]:
    """All items of one round with their fates; those that are kept can be learnt from."""
    if config.arm == "seeds":
        return []
    writing = config.propose
    if config.arm == "paraphrase":
        writing = replace(writing, methods=("paraphrase",))
    raw = share(lambda numbers: propose.write(loaded, pool, writing, numbers, round), range(writing.samples))
    if config.arm in ("verified", "interpreter"):
        judged = judge_instructions(raw, pool, verifier, config.most, config.wordings)
    else:
        known = [record.instruction for record in (*pool.seeds, *pool.own)]
        paraphrases = [Duplicate(), NearDuplicate(1.0, Texts(known))]
        rules = paraphrases if config.arm == "paraphrase" else usual(config.rouge, known)
        judged = _undecided_through(raw, rules, config.most)
    fell = [record for record in judged if record.decision]
    through = [record for record in judged if not record.decision]
    if config.arm == "paraphrase":
        return fell + answers_of_parents(through, pool)
    salt, known = f"round {round}", {record.id: record for record in (*pool.seeds, *pool.own)}
    through = share(lambda part: propose.label_tasks(loaded, part), through)
    through = share(lambda part: give_inputs(loaded, part, config, salt, known), through)
    if config.arm == "interpreter":
        return fell + answered_by_interpreter(through, verifier)
    if config.arm == "verified":
        answered = share(lambda part: answered_and_verified(loaded, part, verifier, config, known), through)
        return fell + answered
    return fell + share(lambda part: answered_unverified(loaded, part, config), through)


# Judging instructions ------------------------------------------------------------------------------------------------


def judge_instructions(
    raw: Sequence[Record], pool: Pool, verifier: Verifier, most: int | None = None, wordings: int = 1
) -> list[Record]:
    """Each record judged as an instruction; new is what behaves, in its language, like no seed, and like fewer than
    `wordings` other texts in the pool or before it.

    At most `most` pass; later ones would have been kept and are dropped as "surplus".
    """
    texts: dict[tuple[str, str | None], set[str]] = defaultdict(set)  # own ones, by language and meaning
    known: dict[str, set[str]] = defaultdict(set)

    def keep(record: Record) -> None:
        said = texts[record.lang or "en", record.behaviour]
        said.add(record.instruction)
        if record.behaviour and len(said) >= wordings:
            known[record.lang or "en"].add(record.behaviour)

    for record in pool.seeds:
        if record.behaviour:
            known[record.lang or "en"].add(record.behaviour)
    for record in pool.own:
        keep(record)
    judged, passed = [], 0
    for record in raw:
        if record.decision:
            judged.append(record)
            continue
        given, language = record.instances[0].input if record.instances else "", record.lang or "en"
        verdict = verifier.judge(record.instruction, given, None, known[language])
        decision = verdict.decision
        if decision is None and record.instruction in texts[language, verdict.behaviour]:
            decision = Decision("duplicate")
        if decision is None and most is not None and passed == most:
            decision = Decision("surplus")
        judged.append(replace(record, program=verdict.program, behaviour=verdict.behaviour, decision=decision))
        if decision is None:
            keep(judged[-1])
            passed += 1
    return judged


def _undecided_through(raw: Sequence[Record], filters, most: int) -> list[Record]:
    """The heuristic filters on the instructions that are not decided yet; at most `most` pass.

    An input that an instruction brought has no answer yet, which is no fault: instances stand aside.
    """
    bare = [replace(record, instances=()) for record in raw if not record.decision]
    decided = iter(decide(filters, bare))
    judged = [record if record.decision else replace(next(decided), instances=record.instances) for record in raw]
    through = [i for i, record in enumerate(judged) if not record.decision]
    for i in through[most:]:
        judged[i] = replace(judged[i], decision=Decision("surplus"))
    return judged


# Inputs and answers --------------------------------------------------------------------------------------------------


def give_inputs(
    loaded: LoadedModel, records: Sequence[Record], config: ConstructConfig, salt: str, known: Mapping[str, Record]
) -> list[Record]:
    """Each record with up to `inputs` different inputs, its own first; closed questions have the input "".

    What was combined takes inputs of its first part, which is given to it, by turns with those that the model writes.
    Lists and numbers of the pool that exams draw from are left out, in every arm.
    """
    made = propose.give_inputs(loaded, records, config.propose, config.inputs, salt)
    done = []
    for record, written in zip(records, made):
        lent = _inputs_of(parts_of(record, known)[:1], f"{salt} {record.id}")
        turns = [text for pair in itertools.zip_longest(lent, written) for text in pair if text is not None]
        own = [instance.input for instance in record.instances]
        inputs = [text for text in dict.fromkeys(own + turns) if not _is_for_exams(text)][: config.inputs]
        done.append(replace(record, instances=tuple(Instance(text, "") for text in inputs)))
    return done


def _inputs_of(records: Sequence[Record], salt: str) -> list[str]:
    """In an order of its own; closed questions have none."""
    texts = [instance.input for record in records for instance in record.instances if instance.input]
    random.Random(salt).shuffle(texts)
    return texts


def _is_for_exams(text: str) -> bool:
    """Whether it is no single word, of which all pools share the same, and lies in the pool of tests."""
    return (" " in text or not text.isalpha()) and pool_of(text) == "test"


def _asked(records: Sequence[Record]) -> list[Asked]:
    return [Asked(r.instruction, instance.input, r.lang or "en") for r in records for instance in r.instances]


def answered_and_verified(
    loaded: LoadedModel,
    records: Sequence[Record],
    verifier: Verifier,
    config: ConstructConfig,
    known: Mapping[str, Record],
) -> list[Record]:
    """The model's answers that the verifier accepts: by the instructions (`known`, by id) that a record was combined
    from; what is not answered so, by a plan of the model's own; what remains, directly. How many answers came from each
    way are scores."""
    asked, limit = _asked(records), config.propose.answer_tokens
    parts = [tuple(part.instruction for part in parts_of(record, known)) for record in records]
    steps = [texts for record, texts in zip(records, parts) for _ in record.instances]
    said: list[tuple[str, str]] = [("", "")] * len(asked)  # accepted answers, and how they were found
    faults: dict[int, Decision] = {}
    for way in WAYS:
        left = [i for i, (_, found) in enumerate(said) if not found and (steps[i] or way != WAYS[0])]
        questions = [asked[i] for i in left]
        if way == WAYS[2]:
            answers = directly(loaded, questions, limit)
        else:
            plans = [steps[i] for i in left] if way == WAYS[0] else None
            answers = [trace.output for trace in by_plan(loaded, questions, limit, plans)]
        for i, question, answer in zip(left, questions, answers):
            verdict = verifier.judge(question.instruction, question.input, answer)
            if verdict.passed:
                said[i] = (answer, way)
            elif verdict.decision:
                faults[i] = verdict.decision
    done, start = [], 0
    for record in records:
        here = range(start, start + len(record.instances))
        start = here.stop
        found = [(instance.input, *said[i]) for i, instance in zip(here, record.instances) if said[i][1]]
        right = tuple(Instance(given, answer, "O1", True) for given, answer, _ in found)
        fault = next((faults[i] for i in reversed(here) if i in faults), Decision("format", "it got no input"))
        ways = Counter(way for *_, way in found)
        scores = {**record.scores, "answers": len(here), **{way: ways[way] for way in WAYS}}
        done.append(replace(record, instances=right, scores=scores, decision=Decision("verified") if right else fault))
    return done


def parts_of(record: Record, known: Mapping[str, Record]) -> tuple[Record, ...]:
    """The records that it was combined from; () where it was not."""
    parents = record.origin.parents if record.origin.method == COMBINE else ()
    return tuple(known[parent] for parent in parents) if all(parent in known for parent in parents) else ()


def answered_by_interpreter(records: Sequence[Record], verifier: Verifier) -> list[Record]:
    """The interpreter's answer for every input that has one."""
    done = []
    for record in records:
        verdicts = [(i.input, verifier.judge(record.instruction, i.input)) for i in record.instances]
        right = tuple(Instance(text, v.answer, "O2", True) for text, v in verdicts if v.passed and v.answer)
        fell = next((v.decision for _, v in verdicts if v.decision), Decision("format", "it got no input"))
        done.append(replace(record, instances=right, decision=Decision("verified") if right else fell))
    return done


def answered_unverified(loaded: LoadedModel, records: Sequence[Record], config: ConstructConfig) -> list[Record]:
    """The model's direct answers without those that repeat the input, as in Self-Instruct; for "consistency",
    those that enough of its samples agree on."""
    done, votes = [], config.propose.votes
    for record in propose.with_answers(loaded, records, config.propose):
        least = config.agreement if config.arm == "consistency" else 0
        said = [instance for instance in record.instances if instance.output not in ("", instance.input)]
        kept = tuple(instance for instance in said if (instance.votes or 0) / votes >= least)
        code = "consistent" if config.arm == "consistency" else "unverified"
        decision = Decision(code) if kept else _without_answer(record)
        done.append(replace(record, instances=kept, decision=decision))
    return done


def _without_answer(record: Record) -> Decision:
    """Why none of its instances is kept; they have the model's answers."""
    if not record.instances:
        return Decision("format", "it got no input")
    if all(instance.output in ("", instance.input) for instance in record.instances) and any(
        instance.output for instance in record.instances
    ):
        return Decision("echo")
    if any(instance.output for instance in record.instances):
        return Decision("inconsistent")
    return Decision("cut", "no answer came to an end")


def answers_of_parents(records: Sequence[Record], pool: Pool) -> list[Record]:
    """Paraphrases with the inputs and answers of their parents."""
    parents = {record.id: record for record in (*pool.seeds, *pool.own)}
    return [
        replace(
            record,
            instances=tuple(replace(i, label_source="O3") for i in parents[record.origin.parents[0]].instances),
            decision=Decision("unverified"),
        )
        for record in records
    ]


# Command -------------------------------------------------------------------------------------------------------------


def with_behaviours(records: Sequence[Record], verifier: Verifier) -> list[Record]:
    """The records with the program and the behaviour of those that the world can read."""
    verdicts = [verifier.judge(record.instruction) for record in records]
    return [replace(r, program=v.program, behaviour=v.behaviour) for r, v in zip(records, verdicts)]


def main(argv: list[str]) -> None:
    """One pass over a file of seeds; it is `python -m instruct.propose`."""
    parser = argparse.ArgumentParser(
        prog="python -m instruct.propose", description="Let a model write instructions from seeds, once."
    )
    parser.add_argument("run", help="run folder of the model that writes")
    parser.add_argument("seeds", help="instructions in any format of data.formats")
    parser.add_argument("--out", required=True, metavar="FILE", help="where the records go (.jsonl, .jsonl.gz)")
    parser.add_argument(
        "--documents",
        action="append",
        default=[],
        metavar="PATH",
        help="text files or folders to be written back to instructions too (back-translation); may be repeated",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as arm=unverified, propose.samples=500")
    arguments = parser.parse_intermixed_args(argv)  # settings may stand before and after --out
    config = load(ConstructConfig, None, arguments.overrides)
    verifier = Verifier(Behaviour(world()))
    seeds = with_behaviours(list(from_seeds(arguments.seeds)), verifier)
    if config.arm in ("verified", "interpreter") and not any(record.behaviour for record in seeds):
        raise UserError(
            f"no program can judge items like those of {arguments.seeds}: none of them is an instruction of the "
            "embedded world; write arm=unverified or arm=consistency"
        )
    found = documents(CorpusConfig(paths=tuple(arguments.documents))) if arguments.documents else ()
    pool = Pool(seeds, documents=[document.text[:LONGEST_DOCUMENT] for document in found])
    records = construct(load_run(arguments.run), pool, verifier, config)
    write_records(arguments.out, records)
    print("\n".join(show_funnel(funnel(records, config.propose.samples))))


if __name__ == "__main__":
    run_main(main)
