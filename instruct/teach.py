"""From records to lessons: what a model is taught with a set of instructions.

    conversations = teach(seeds, count=20_000, seed=0)

Every part of `instruct.lessons` that the records have something to say about, in fixed shares: mostly carrying out,
the rest writing, rewriting, taking apart and guessing. The texts come from the records themselves: a paraphrase is
another record with the same behaviour, a plan is made of records of single operations, a deeper instruction is one
whose program begins with its parent's. So no meaning is taught that the records do not hold; records
without programs (free text) give the parts that need none.

Taking apart and putting together are taught with steps that do not fit each other as well ("find the capital, then sort
the result"), said by the grammar: some dozens of compositions are soon known by heart, and whoever knows them so writes
these whatever is asked for. Such a chain has no result, so nothing is said of a composition that could be asked for.

Four parts are taught on request (`ON_REQUEST`). Two say what a record holds as a closed question (`instruct.closed`):
its chain, and its answer as a sentence. The third does so behind nonsense. The fourth carries out what must have been
read: every fact is equally likely, for each has to be met often, while the rule of a list is learnt from any list.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, cached_property, lru_cache

from configs import UserError
from data.chat import Conversation
from instruct import lessons
from instruct.closed import closed_question, grammar, in_words, is_fact, unknown_question
from instruct.records import COMBINE, Record
from instruct.world.program import Program, world

#: Shares of the parts; those that the records cannot fill go to `execute`.
SHARES = {
    "execute": 0.48,
    "bare": 0.08,
    "plan": 0.08,
    "induce": 0.06,
    "input": 0.04,
    "label": 0.02,
    "input for": 0.02,
    "continue": 0.03,
    "deepen": 0.04,
    "widen": 0.02,
    "combine": 0.08,
    "paraphrase": 0.02,
    "back-translate": 0.02,
    "classify": 0.01,
}
UNKNOWN_WORDS = "unknown words"  # the part that a tokenizer should not see: its words are nonsense
#: Shares of parts that are taught only where `parts` names them. A model that shall answer questions by chains of its
#: own is taught with parts=(*SHARES, *ON_REQUEST).
ON_REQUEST = {"construct": 0.16, UNKNOWN_WORDS: 0.1, "sentence": 0.08, "recall": 0.3}
#: What the model's own items teach.
OWN_PARTS = ("execute", "bare", "plan", "combine", "induce", "input", "continue", "back-translate")
PAIRS = 5
MISFITS = 0.6  # share of the plans and combinations whose steps do not fit together
TURNS = 4  # inputs of one lesson in carrying out, at most


def teach(
    records: Sequence[Record],
    count: int,
    seed: int = 0,
    parts: Sequence[str] = tuple(SHARES),
    known: Sequence[Record] = (),
) -> list[Conversation]:
    """`count` lessons drawn from answered records, the same for the same seed. `parts` limits what is taught.

    known: records that some of them were combined from, which are the plans of these.

    Raises UserError when no record has an answer.
    """
    rng = random.Random(f"teach {seed}")
    drawn = _Drawn(records, known)
    if not drawn.answered:
        raise UserError("none of the records has an answer: there is nothing to teach")
    makers = {part: maker for part, maker in drawn.makers().items() if part in parts} or {"execute": drawn.execute}
    weights = [(SHARES | ON_REQUEST)[part] for part in makers]
    chosen = rng.choices(list(makers), weights, k=count)
    return [makers[part](rng) or drawn.execute(rng) for part in chosen]


class _Drawn:
    """Records, grouped for drawing. Each maker gives a lesson, or None where its draw has none."""

    def __init__(self, records: Sequence[Record], known: Sequence[Record] = ()):
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
        self.programs = [r for r in self.open if r.program]
        self.texts = {record.id: record.instruction for record in (*known, *records)}
        self.combined = [r for r in self.open if self._is_combined(r)]
        self._closest: dict[str, list[list[str]] | None] = {}
        self.misfits = [
            (Program.read(f"{first} | {then}"), language)
            for (first, language), (then, other) in itertools.permutations(self.single, 2)
            if language == other and not _fit(first, then)
        ]

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
        if self.combined or (self.composed and self.single):
            makers |= {"plan": self.plan, "combine": self.combine}
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
        if self.programs and self.single:
            makers |= {"construct": self.construct, "sentence": self.sentence}
            makers |= {"recall": self.recall, UNKNOWN_WORDS: self.unknown_words} if self.facts else {}
        return makers

    def execute(self, rng: random.Random) -> Conversation:
        """Several inputs for one instruction: most of a lesson is what has to be learnt."""
        record = self._record(rng)
        pairs = [(instance.input, instance.output) for instance in record.instances if instance.output]
        return lessons.execute_all(record.instruction, rng.sample(pairs, min(len(pairs), rng.randint(1, TURNS))))

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

    def _is_combined(self, record: Record) -> bool:
        """Whether it was made from known instructions, and these gave most of its answers where that was seen."""
        parents = record.origin.parents if record.origin.method == COMBINE else ()
        answers = len(record.instances)
        is_known = len(parents) > 1 and all(parent in self.texts for parent in parents)
        return is_known and record.scores.get("right by parts", answers) >= answers / 2

    def plan(self, rng: random.Random) -> Conversation | None:
        instruction, language, texts = self._planned(rng)
        return lessons.plan(instruction, language, texts) if texts else None

    def combine(self, rng: random.Random) -> Conversation | None:
        instruction, language, texts = self._planned(rng)
        return lessons.combine(texts, language, instruction) if texts else None

    def _planned(self, rng: random.Random) -> tuple[str, str, list[str] | None]:
        """An instruction, its language, and what it was combined from, or, where nothing was, an instruction for each
        step of its program, which may be one of `misfits`."""
        if self.combined:
            record = rng.choice(self.combined)
            return record.instruction, record.lang or "en", [self.texts[parent] for parent in record.origin.parents]
        if self.misfits and rng.random() < MISFITS:
            program, language = rng.choice(self.misfits)
            text = grammar().chain(program, rng, language)
            found = [_closest(text, self.single[str(step), language]) for step in program.steps]
            return text, language, [rng.choice(texts) for texts in found]
        record = rng.choice(self.composed)
        return record.instruction, record.lang or "en", self._in_steps(record, rng)

    def _in_steps(self, record: Record, rng: random.Random) -> list[str] | None:
        """An instruction for each step of its program, in words as close to the record's own as there are: whoever
        takes apart or puts together can go by the words. None where a step has none of its own."""
        if record.id not in self._closest:
            steps = [self.single.get((step, record.lang)) for step in _steps(record)]
            chosen = [_closest(record.instruction, choices) for choices in steps if choices]
            self._closest[record.id] = chosen if all(steps) else None
        found = self._closest[record.id]
        return found and [rng.choice(texts) for texts in found]

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

    def construct(self, rng: random.Random) -> Conversation | None:
        """Half of the time an instruction as it is, half of the time a question that holds its input."""
        record = rng.choice(rng.choice(self.by_program))
        texts = self._in_steps(record, rng)
        if not texts:
            return None
        if rng.random() < 0.5:
            return lessons.construct(record.instruction, record.lang or "en", True, texts)
        literal = rng.choice([i.input for i in record.instances if i.input and i.output])
        return _constructed(_asked(record, literal, rng), record, texts, literal)

    def unknown_words(self, rng: random.Random) -> Conversation | None:
        """A chain for a question whose first words are nonsense, or its answer as a sentence: the noun says enough."""
        record, literal, answer = self._fact(rng)
        language = record.lang or "en"
        question = unknown_question(Program.read(record.program or ""), literal, language, rng)
        if rng.random() < 0.4:
            return _in_a_sentence(question, record, literal, answer)
        texts = self._in_steps(record, rng)
        return _constructed(question, record, texts, literal) if texts else None

    def _fact(self, rng: random.Random) -> tuple[Record, str, str]:
        """A record that asks for facts, an input, and what the fact is."""
        record = rng.choice(rng.choice(self.facts))
        return record, *rng.choice([(i.input, i.output) for i in record.instances if i.input and i.output])

    @cached_property
    def by_program(self) -> list[list[Record]]:
        """Every program is equally likely, however many wordings it has."""
        return list(_grouped(self.programs, lambda r: (r.program, r.lang)).values())

    @cached_property
    def facts(self) -> list[list[Record]]:
        return [group for group in self.by_program if is_fact(Program.read(group[0].program or ""))]

    def sentence(self, rng: random.Random) -> Conversation | None:
        if not self.facts:
            return None
        record, literal, answer = self._fact(rng)
        return _in_a_sentence(_asked(record, literal, rng), record, literal, answer)

    def recall(self, rng: random.Random) -> Conversation:
        given, output, records = rng.choice(self.pairs)
        return lessons.execute(rng.choice(records).instruction, given, output)

    @cached_property
    def pairs(self) -> list[tuple[str, str, list[Record]]]:
        """Every fact that the records hold, in each language: its input, its output, and who asks for it."""
        found: dict[tuple[int, str, str], list[Record]] = defaultdict(list)
        for number, group in enumerate(self.facts):
            for record in group:
                for pair in record.instances:
                    if pair.input and pair.output:
                        found[number, pair.input, pair.output].append(record)
        return [(given, output, records) for (_, given, output), records in found.items()]

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


def _asked(record: Record, literal: str, rng: random.Random) -> str:
    return closed_question(Program.read(record.program or ""), literal, record.lang or "en", rng)


def _constructed(question: str, record: Record, steps: Sequence[str], literal: str) -> Conversation:
    """The chain for a question that holds its input, which is hidden where it stands in quotes."""
    shown, hidden = lessons.hide_quoted(question)
    return lessons.construct(shown, record.lang or "en", False, steps, literal if hidden is None else lessons.HIDDEN)


def _in_a_sentence(question: str, record: Record, literal: str, answer: str) -> Conversation:
    """The answer to a question as a sentence."""
    language = record.lang or "en"
    said = in_words(Program.read(record.program or ""), literal, answer, question, language)
    return lessons.sentence(question, answer, language, said)


def _steps(record: Record) -> tuple[str, ...]:
    """The steps of its program; () where it has none."""
    return tuple(record.program.split(" | ")) if record.program else ()


@cache
def _fit(first: str, then: str) -> bool:
    return world().well_typed(Program.read(f"{first} | {then}"))


def _closest(text: str, choices: Sequence[Record]) -> list[str]:
    """The texts of `choices` of which the greatest share of pairs of characters stands in `text`."""
    own = _pairs(text)
    shares = {choice.instruction: len(own & _pairs(choice.instruction)) / len(choice.instruction) for choice in choices}
    most = max(shares.values())
    return [text for text, share in shares.items() if share == most]


@lru_cache(maxsize=1 << 16)
def _pairs(text: str) -> frozenset[str]:
    text = text.lower()
    return frozenset(one + other for one, other in itertools.pairwise(text))


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
