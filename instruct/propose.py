"""The model writes instructions: eight ways, one pass.

    python -m instruct.propose RUN SEEDS.jsonl --out FILE [arm=unverified propose.samples=2000 ...]

From the seeds and what was kept before (the *pool*), a model that knows the parts of `instruct.lessons` writes new
instructions, gives them inputs, and answers them; `instruct.filters` and `instruct.verify` judge. Where no program can
judge (free text), items are kept as "unverified", and say so. The methods:

- `magpie`: the bare user turn is continued (Xu et al. 2024); brings its own input
- `self-instruct`: a list of eight, six seeds and two of its own, is continued (Wang et al. 2023)
- `evolve:deepen`, `evolve:widen`: a parent is made harder, or a sibling found (Xu et al. 2023)
- `evolve:combine`: two parents become one that asks for both; of pairs there are many more than of parents
- `paraphrase`: a parent in other words
- `back-translate`: the instruction for an input and its output, or for a document (Li et al. 2023)
- `induce`: the instruction for several pairs (Honovich et al. 2022)

Inputs come first for open tasks; for classification an answer comes first and then an input for it, or all inputs
would fall into one class (Self-Instruct). What is directed at the new: heat; parents chosen evenly among behaviours
rather than among texts; the two own items of a list are the newest.

Every sample has a number, and everything about it (method, parents, random numbers) follows from (seed, round, number):
ranks take their share of the numbers, and their union is what one process would have written.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from configs import UserError, check, run_main
from data.chat import Conversation, prompt
from instruct import lessons
from instruct.answer import Asked, directly, say, vote
from instruct.records import COMBINE, Decision, Instance, Origin, Record
from instruct.world.program import Program, world
from model.complete import Completion, complete_prompts
from model.load import LoadedModel
from model.sampling import Sampling

METHODS = (
    *("magpie", "self-instruct", "evolve:deepen", "evolve:widen", COMBINE),
    *("paraphrase", "back-translate", "induce"),
)
OWN_IN_LIST = 2
TRIES = 30  # pairs of instructions that are looked at until two fit together
STEPS = " | "  # stands between the steps of a program


@dataclass(frozen=True)
class ProposeConfig:
    """One pass of writing.

    samples        how many instructions are asked for, over all ranks
    methods        taken in turn; naming one twice gives it twice the share
    temperature, top_p   of writing instructions and inputs; answers are greedy
    new_tokens     longest instruction, with its input
    answer_tokens  longest answer
    votes          answers sampled for self-consistency; 1: one greedy answer
    pairs          input-output pairs shown to induce from
    """

    seed: int = 0
    samples: int = 1000
    methods: tuple[str, ...] = METHODS
    temperature: float = 1.0
    top_p: float = 1.0
    new_tokens: int = 64
    answer_tokens: int = 48
    votes: int = 1
    pairs: int = 5

    def __post_init__(self):
        problems = [
            f"{name} must be positive, got {getattr(self, name)}"
            for name in ("samples", "new_tokens", "answer_tokens", "votes", "pairs")
            if getattr(self, name) < 1
        ]
        unknown = sorted({*self.methods} - {*METHODS})
        problems += [f"unknown method {name!r}: methods are {', '.join(METHODS)}" for name in unknown]
        if not self.methods:
            problems.append("methods must name at least one")
        try:
            _ = self.sampling
        except UserError as error:
            problems.append(str(error))
        check(problems)

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, top_p=self.top_p)


class Draft(NamedTuple):
    """A sample that is asked for: its prompt, and what its record will say of its origin. `given`: its instance."""

    prompt: list[int]
    origin: Origin
    seed: int
    language: str
    given: tuple[Instance, ...] = ()


class Pool:
    """Seeds and own items that proposals start from, grouped so that choosing is even among behaviours."""

    def __init__(self, seeds: Sequence[Record], own: Sequence[Record] = (), documents: Sequence[str] = ()):
        if not seeds:
            raise UserError("there is no seed to start from: give a file with at least one instruction")
        self.seeds, self.own, self.documents = list(seeds), list(own), list(documents)
        groups: dict[str, list[Record]] = defaultdict(list)
        for record in (*self.seeds, *self.own):
            groups[record.behaviour or record.instruction].append(record)
        self.groups = list(groups.values())
        by_language: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
        for record in (*self.seeds, *self.own):
            if STEPS not in (record.program or ""):
                by_language[record.lang or "en"][record.behaviour or record.instruction].append(record)
        self.short = {language: list(groups.values()) for language, groups in by_language.items()}
        self.taught = {record.program for record in self.seeds}
        self.answered = self._those(lambda i: bool(i.input and i.output)) or self._those(lambda i: bool(i.output))

    def _those(self, holds: Callable[[Instance], bool]) -> list[list[Record]]:
        """The groups, of the records that have an instance for which that holds."""
        groups = [[record for record in group if any(map(holds, record.instances))] for group in self.groups]
        return [group for group in groups if group]

    def parent(self, rng: random.Random) -> Record:
        return rng.choice(rng.choice(self.groups))

    def two(self, rng: random.Random) -> list[Record]:
        """Two of one language and of different behaviours; where their programs are known, of one step each, that fit
        together and are no seed together."""
        enough = [groups for groups in self.short.values() if len(groups) > 1]
        if not enough:
            return [self.parent(rng)]
        groups = rng.choice(enough)
        for _ in range(TRIES):
            pair = [rng.choice(group) for group in rng.sample(groups, 2)]
            programs = [record.program for record in pair]
            if not all(programs):
                break
            together = STEPS.join(programs)
            if together not in self.taught and world().well_typed(Program.read(together)):
                break
        return pair

    def with_answer(self, rng: random.Random) -> Record | None:
        """One with an input and its answer, or with an answer only where there are no others; None without any."""
        return rng.choice(rng.choice(self.answered)) if self.answered else None

    def listed(self, rng: random.Random) -> list[Record]:
        """Eight of one language where there are so many: six seeds and two of the newest own ones."""
        language = rng.choice(self.seeds).lang
        own = [record for record in self.own[-200:] if record.lang == language]
        chosen = rng.sample(own, min(OWN_IN_LIST, len(own)))
        seeds = [record for record in self.seeds if record.lang == language]
        chosen += rng.sample(seeds, min(lessons.SHOWN - len(chosen), len(seeds)))
        rng.shuffle(chosen)
        return chosen


def write(
    loaded: LoadedModel, pool: Pool, config: ProposeConfig, numbers: Sequence[int], round: int = 0
) -> list[Record]:
    """The samples of these numbers as raw records: text and origin, with an input where the method brings one.

    A record has a decision only where it fell already: it was cut off, or there is no instruction in it.
    """
    drafts = [_draft(loaded, pool, config, number, round) for number in numbers]
    said = complete_prompts(
        loaded, [d.prompt for d in drafts], config.new_tokens, config.sampling, [d.seed for d in drafts], 128
    )
    return [_raw(draft, completion) for draft, completion in zip(drafts, said)]


def _draft(loaded: LoadedModel, pool: Pool, config: ProposeConfig, number: int, round: int) -> Draft:
    method = config.methods[number % len(config.methods)]
    rng = random.Random(f"{config.seed} {round} {number} {method}")
    seed = rng.getrandbits(62)
    conversation, parents, language, given = asked_for(method, pool, config, rng)
    if conversation is None:
        ids = [loaded.tokenizer.bos, loaded.tokenizer.roles["user"]]
    else:
        ids = prompt(conversation, loaded.tokenizer, loaded.chat, loaded.model.config.context - config.new_tokens)
    sampling = {"temperature": config.temperature, "top_p": config.top_p, "seed": config.seed, "number": number}
    origin = Origin(method, round, tuple(parent.id for parent in parents), sampling, loaded.folder.name)
    return Draft(ids, origin, seed, language, given)


def asked_for(
    method: str, pool: Pool, config: ProposeConfig, rng: random.Random
) -> tuple[Conversation | None, list[Record], str, tuple[Instance, ...]]:
    """The prompt of a method, the records it starts from, its language, and the instance it is about."""
    if method == "magpie":
        return None, [], "", ()
    if method == "self-instruct":
        shown = pool.listed(rng)
        language = shown[0].lang or "en"
        return lessons.continue_list([record.instruction for record in shown], language), shown, language, ()
    if method == COMBINE:
        parents = pool.two(rng)
        language = parents[0].lang or "en"
        return lessons.combine([parent.instruction for parent in parents], language), parents, language, ()
    if method == "back-translate" and pool.documents and rng.random() < 0.5:
        text, language = rng.choice(pool.documents), rng.choice(("en", "zh"))
        return lessons.backtranslate(text, language), [], language, ()
    parent = (pool.with_answer(rng) if method in ("back-translate", "induce") else None) or pool.parent(rng)
    language = parent.lang or "en"
    shown = _shown(parent)
    if method == "back-translate" and shown:
        instance = rng.choice(shown)
        text = lessons.pair(instance.input, instance.output) if instance.input else instance.output
        return lessons.backtranslate(text, language), [parent], language, (Instance(instance.input, ""),)
    if method == "induce" and shown:
        pairs = [(i.input, i.output) for i in rng.sample(shown, min(config.pairs, len(shown)))]
        return lessons.induce(pairs, language), [parent], language, ()
    part: Callable[[str, str], Conversation] = {
        "evolve:deepen": lessons.deepen,
        "evolve:widen": lessons.widen,
    }.get(method, lessons.paraphrase)
    return part(parent.instruction, language), [parent], language, ()


def _shown(record: Record) -> list[Instance]:
    """What the instruction can be written back from: its inputs with their answers, else its answers."""
    answered = [instance for instance in record.instances if instance.output]
    return [instance for instance in answered if instance.input] or answered


def _raw(draft: Draft, said: Completion) -> Record:
    instruction, given = said.text.strip(), ""
    if draft.origin.method == "magpie":
        instruction, given = lessons.split_request(said.text)
    decision = None
    if not said.finished:
        decision = Decision("cut")
    elif not instruction or "\n" in instruction:
        decision = Decision("format", "there is no text" if not instruction else "more than one line")
    instances = (Instance(given, ""),) if given else draft.given
    return Record(instruction, instances, draft.language or None, origin=draft.origin, decision=decision)


# Inputs and answers --------------------------------------------------------------------------------------------------


def label_tasks(loaded: LoadedModel, records: Sequence[Record]) -> list[Record]:
    """Each record with the model's opinion whether few answers are possible (`is_classification`)."""
    said = say(loaded, [lessons.classify(r.instruction, r.lang or "en") for r in records], 4)
    return [replace(record, is_classification=text == "yes") for record, text in zip(records, said)]


def give_inputs(
    loaded: LoadedModel, records: Sequence[Record], config: ProposeConfig, count: int, salt: str = ""
) -> list[list[str]]:
    """Up to `count` different inputs for each instruction, "" where the model says that it needs none: output first for
    classification, else input first."""
    rows = [(record, copy) for record in records for copy in range(count)]
    seeds = [random.Random(f"{config.seed} {salt} {record.id} {copy}").getrandbits(62) for record, copy in rows]
    sampling = config.sampling
    classes = [i for i, (record, _) in enumerate(rows) if record.is_classification]
    asked = [lessons.give_label(rows[i][0].instruction, rows[i][0].lang or "en") for i in classes]
    labels = dict(zip(classes, say(loaded, asked, config.answer_tokens, sampling, [seeds[i] for i in classes])))
    conversations = [
        lessons.give_input_for(record.instruction, labels[i], record.lang or "en")
        if i in labels
        else lessons.give_input(record.instruction, record.lang or "en")
        for i, (record, _) in enumerate(rows)
    ]
    said = say(loaded, conversations, config.new_tokens, sampling, seeds)
    each = [dict.fromkeys(filter(None, said[i * count : (i + 1) * count])) for i in range(len(records))]
    return [["" if text == lessons.NO_INPUT else text for text in texts] for texts in each]


def with_answers(loaded: LoadedModel, records: Sequence[Record], config: ProposeConfig) -> list[Record]:
    """The records with the model's own answers, unverified; with `votes` above 1 the most frequent of so many."""
    asked = [Asked(r.instruction, instance.input, r.lang or "en") for r in records for instance in r.instances]
    if config.votes > 1:
        answers = iter(vote(loaded, asked, config.votes, new_tokens=config.answer_tokens))
    else:
        answers = iter([(text, None) for text in directly(loaded, asked, config.answer_tokens)])
    done = []
    for record in records:
        instances = []
        for instance in record.instances:
            output, votes = next(answers)
            instances.append(Instance(instance.input, output, "O3" if votes is None else "O4", None, votes))
        done.append(replace(record, instances=tuple(instances)))
    return done


def main(argv: list[str]) -> None:
    """`python -m instruct.propose RUN SEEDS --out FILE [key=value ...]`: one round of `instruct.construct`."""
    from instruct.construct import main as construct  # which imports this module

    construct(argv)


if __name__ == "__main__":
    run_main(main)
