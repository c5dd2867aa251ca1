"""From records to lessons: what a model is taught with a set of instructions.

    conversations = teach(seeds, count=20_000, seed=0)

Every part of `instruct.lessons` that the records have something to say about, in fixed shares: mostly carrying out,
the rest writing, rewriting, taking apart and guessing. All texts come from the records themselves: a paraphrase is
another record with the same behaviour, a plan is made of records of single operations, a deeper instruction is one
whose program begins with its parent's. So what a model is taught is what its records hold, and nothing else; records
without programs (free text) give the parts that need none.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from configs import UserError
from data.chat import Conversation
from instruct import lessons
from instruct.records import Record

#: Shares of the parts; those that the records cannot fill go to `execute`.
SHARES = {
    "execute": 0.56,
    "bare": 0.08,
    "plan": 0.08,
    "induce": 0.06,
    "input": 0.04,
    "label": 0.02,
    "input for": 0.02,
    "continue": 0.03,
    "deepen": 0.04,
    "widen": 0.02,
    "paraphrase": 0.02,
    "back-translate": 0.02,
    "classify": 0.01,
}
OWN_PARTS = ("execute", "bare", "induce", "input", "continue", "back-translate")  # what the model's own items teach
PAIRS = 5


def teach(
    records: Sequence[Record], count: int, seed: int = 0, parts: Sequence[str] = tuple(SHARES)
) -> list[Conversation]:
    """`count` lessons drawn from answered records, the same for the same seed. `parts` limits what is taught.

    Raises UserError when no record has an answer.
    """
    rng = random.Random(f"teach {seed}")
    drawn = _Drawn(records)
    if not drawn.answered:
        raise UserError("none of the records has an answer: there is nothing to teach")
    makers = {part: maker for part, maker in drawn.makers().items() if part in parts} or {"execute": drawn.execute}
    weights = [SHARES[part] for part in makers]
    chosen = rng.choices(list(makers), weights, k=count)
    return [makers[part](rng) or drawn.execute(rng) for part in chosen]


class _Drawn:
    """Records, grouped for drawing. Each maker gives a lesson, or None where its draw has none."""

    def __init__(self, records: Sequence[Record]):
        self.answered = [r for r in records if any(i.output for i in r.instances)]
        self.meanings = list(_grouped(self.answered, lambda r: r.behaviour or r.instruction).values())
        self.by_language = _grouped(self.answered, lambda r: r.lang or "en")
        self.classes = [r for r in self.answered if r.is_classification]
        # Closed questions ("What is the capital of France?") are no steps, and no two of them are paraphrases.
        self.open = [r for r in self.answered if any(i.input for i in r.instances)]
        self.single = _grouped(self.open, lambda r: len(_steps(r)) == 1 and (_steps(r)[0], r.lang))
        self.composed = [r for r in self.open if len(_steps(r)) > 1]
        meanings = _grouped(self.open, lambda r: r.behaviour and (r.behaviour, r.lang))
        self.by_meaning = _varied(meanings, lambda r: r.instruction)
        beginnings = _grouped(self.composed, lambda r: (len(_steps(r)), _steps(r)[0], r.lang))
        self.alike = _varied(beginnings, lambda r: r.behaviour)
        self.deeper = list(self._deeper())

    def _deeper(self) -> Iterator[tuple[Record, Record]]:
        """(parent, child): the child's program is the parent's and one step more at its end."""
        by_program = _grouped(self.open, lambda r: (_steps(r), r.lang))
        for child in self.composed:
            for parent in by_program.get((_steps(child)[:-1], child.lang), ()):
                yield parent, child

    def makers(self) -> Mapping[str, Callable[[random.Random], Conversation | None]]:
        """The parts that these records can teach."""
        makers = {
            "execute": self.execute,
            "bare": self.bare,
            "induce": self.induce,
            "input": self.input,
            "back-translate": self.backtranslate,
        }
        if all(len(group) > lessons.SHOWN for group in self.by_language.values()):
            makers["continue"] = self.continued
        if self.composed and self.single:
            makers["plan"] = self.plan
        if self.deeper:
            makers["deepen"] = self.deepen
        if self.by_meaning:
            makers["paraphrase"] = self.paraphrase
        if self.alike:
            makers["widen"] = self.widen
        if any(r.is_classification is not None for r in self.answered):
            makers["classify"] = self.classify
        if self.classes:
            makers |= {"label": self.label, "input for": self.input_for}
        return makers

    def execute(self, rng: random.Random) -> Conversation:
        record, instance = self._instance(rng)
        return lessons.execute(record.instruction, instance.input, instance.output)

    def bare(self, rng: random.Random) -> Conversation:
        record, instance = self._instance(rng)
        return lessons.bare(record.instruction, instance.input, instance.output)

    def input(self, rng: random.Random) -> Conversation:
        record, instance = self._instance(rng)
        return lessons.give_input(record.instruction, record.lang or "en", instance.input)

    def backtranslate(self, rng: random.Random) -> Conversation | None:
        record, instance = self._instance(rng)
        if not instance.input:
            return None
        text = lessons.pair(instance.input, instance.output)
        return lessons.backtranslate(text, record.lang or "en", record.instruction)

    def induce(self, rng: random.Random) -> Conversation | None:
        record = self._record(rng)
        pairs = [(i.input, i.output) for i in record.instances if i.input and i.output]
        if len(pairs) < PAIRS:
            return None
        return lessons.induce(rng.sample(pairs, PAIRS), record.lang or "en", record.instruction)

    def continued(self, rng: random.Random) -> Conversation:
        language = rng.choice(self.answered).lang or "en"
        *shown, last = rng.sample(self.by_language[language], lessons.SHOWN + 1)
        return lessons.continue_list([record.instruction for record in shown], language, last.instruction)

    def plan(self, rng: random.Random) -> Conversation | None:
        record = rng.choice(self.composed)
        steps = [self.single.get((step, record.lang)) for step in _steps(record)]
        if not all(steps):
            return None
        texts = [rng.choice(choices).instruction for choices in steps if choices]
        return lessons.plan(record.instruction, record.lang or "en", texts)

    def deepen(self, rng: random.Random) -> Conversation:
        parent, child = rng.choice(self.deeper)
        return lessons.deepen(parent.instruction, parent.lang or "en", child.instruction)

    def widen(self, rng: random.Random) -> Conversation | None:
        return self._related(rng, self.alike, lessons.widen, same_meaning=False)

    def paraphrase(self, rng: random.Random) -> Conversation | None:
        return self._related(rng, self.by_meaning, lessons.paraphrase, same_meaning=True)

    def classify(self, rng: random.Random) -> Conversation | None:
        record = rng.choice(self.classes) if self.classes and rng.random() < 0.5 else self._record(rng)
        if record.is_classification is None:
            return None
        return lessons.classify(record.instruction, record.lang or "en", record.is_classification)

    def label(self, rng: random.Random) -> Conversation:
        record, instance = self._instance(rng, self.classes)
        return lessons.give_label(record.instruction, record.lang or "en", instance.output)

    def input_for(self, rng: random.Random) -> Conversation | None:
        record, instance = self._instance(rng, self.classes)
        if not instance.input:
            return None
        return lessons.give_input_for(record.instruction, instance.output, record.lang or "en", instance.input)

    def _record(self, rng: random.Random) -> Record:
        """Every meaning is equally likely, however many wordings it has."""
        return rng.choice(rng.choice(self.meanings))

    def _instance(self, rng: random.Random, records: Sequence[Record] | None = None):
        record = rng.choice(records) if records else self._record(rng)
        return record, rng.choice([instance for instance in record.instances if instance.output])

    def _related(
        self,
        rng: random.Random,
        groups: Mapping[object, list[Record]],
        lesson: Callable[[str, str, str], Conversation],
        same_meaning: bool,
    ) -> Conversation | None:
        """Two different texts out of one group."""
        group = rng.choice(list(groups.values()))
        one, other = rng.choice(group), rng.choice(group)
        if one.instruction == other.instruction or (one.behaviour == other.behaviour) != same_meaning:
            return None
        return lesson(one.instruction, one.lang or "en", other.instruction)


def _steps(record: Record) -> tuple[str, ...]:
    """The steps of its program; () where it has none."""
    return tuple(record.program.split(" | ")) if record.program else ()


def _grouped(records: Sequence[Record], key: Callable[[Record], object]) -> dict[object, list[Record]]:
    """Records by a key; those whose key is false are left out."""
    groups: dict[object, list[Record]] = defaultdict(list)
    for record in records:
        if found := key(record):
            groups[found].append(record)
    return dict(groups)


def _varied(groups: dict[object, list[Record]], what: Callable[[Record], object]) -> dict[object, list[Record]]:
    """The groups in which not all records are the same."""
    return {key: group for key, group in groups.items() if len({what(record) for record in group}) > 1}
