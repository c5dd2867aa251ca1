"""Facts that are read in one language and asked for in another: what is taught, and what is asked.

    exposure = Exposure(seed=0)                         # which countries and animals are spoken of in English only
    Teacher(exposure).lessons(20_000, seed=0)           # everything that a model is taught
    Teacher(exposure, lexicon=False).lessons(...)       # the same without the translations of those names
    exposure.questions("capital", english_only=True)    # in Chinese; with new_words=True in words that no lesson has

The question of the experiment: does a model that constructs instructions know more than it can say at once? Facts of
some countries and animals are stated in English only. Their names are translated in a lexicon, and Chinese questions
are asked about them. What the model cannot answer at once it may reach by a chain of its own: translate the name into
English, answer there, translate back.

    以越南为首都的国家…     never: this touches a fact of an English-only country
    "Name the capital of the country." Vietnam -> Hanoi         stated
    "Translate the word into English." 越南 -> Vietnam           the lexicon, both ways
    越南的首都是哪里？                                           asked

What is taught of the names that are English-only: facts in English, translations, and how a Chinese name is spelt
(its characters), which is also where the model meets such a name in a question and learns to take it as the input of a
chain. All Chinese questions about facts, all chains for them, and all questions of two hops are about the others, the
*control set*, whose facts are taught in both languages. How a question for a relation is said in the other language is
taught without any name in it.

The chain of `UNTAUGHT` is in no lesson, neither as a chain nor as a plan.

Wordings. A question may be in training words of the grammar: those in which lessons ask about the control set. Or in
new words: half with the last phrase of each operation (`Phrases.held_out`), half the questions of `closed.ASKED` around
its nouns; lessons use neither, and what a word means that it has never met, a small model can only guess.

What it leaves out. Translation of whole questions that hold a name; facts that a model could reach through a third
language.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from data.chat import Conversation
from instruct import lessons
from instruct.answer import Asked
from instruct.closed import framed_question, grammar, in_words
from instruct.world.grammar import finish
from instruct.world.operation import Undefined
from instruct.world.program import Program, world
from instruct.world.tables import ANIMALS, COUNTRIES, MONTHS, PLANETS, WEEKDAYS, Pair
from instruct.world.wording import names

ENTITIES = ("capital", "country_of_capital", "currency")  # whose answers are names of one row each
FEW = ("continent", "language")  # few answers are possible, or they look like the question
UNTAUGHT = "young"
BESIDE = (  # relations that help to learn what a chain is, and are not asked for; like all here, answered by words
    *("sound", "animal_class", "next_planet", "next_month", "previous_month", "season"),
    *("next_weekday", "previous_weekday"),
)
TAUGHT = (*ENTITIES, *FEW, *BESIDE)
RELATIONS = (*ENTITIES, UNTAUGHT, *FEW)  # that are asked for
HOPS = tuple(f"country_of_capital | {name}" for name in ("currency", *FEW))
SPELLING = ("letter_count", "first_letter")  # of a Chinese name
#: Asked for as plans: one of two hops, and one more operation on its answer, whose plan is in no lesson.
PLANNED = ("country_of_capital | currency", "country_of_capital | currency | first_letter")
TO_ENGLISH, TO_CHINESE = Program.read("to_english"), Program.read("to_chinese")

SHARES = {  # of the kinds of lesson
    "english": 0.26,
    "chinese": 0.12,
    "translate": 0.24,
    "spell": 0.05,
    "construct": 0.20,
    "plan": 0.05,
    "rephrase": 0.06,
    "sentence": 0.02,
}


@dataclass(frozen=True)
class Fact:
    """What a relation, or a chain of them, says of a name.

    english_only: whether this is never said in Chinese. distinct: whether no other name has this answer.
    """

    program: Program
    given: Pair
    answer: Pair
    english_only: bool
    distinct: bool


@dataclass(frozen=True)
class Question:
    """A question in Chinese with its answer, and the chain that is right for it: its steps, and what comes of each.
    `asked`: with the name in the question, or beside it."""

    program: str
    asked: Asked
    given: str
    answer: str
    steps: tuple[str, ...]
    outputs: tuple[str, ...]


class Exposure:
    """Which names are English-only, and the facts that follow; the same for the same seed.

    share: of the countries, and of the animals that have a word for their young.
    """

    def __init__(self, seed: int = 0, share: float = 0.5):
        rng = random.Random(f"exposure {seed}")
        animals = [row.name for row in ANIMALS if row.young]
        countries = rng.sample(COUNTRIES, round(share * len(COUNTRIES)))
        self.english_only = frozenset(name for row in countries for name in (row.name, row.capital))
        self.english_only |= frozenset(rng.sample(animals, round(share * len(animals))))
        self.facts = {name: self._facts(name) for name in (*TAUGHT, UNTAUGHT, *HOPS)}

    def _facts(self, name: str) -> tuple[Fact, ...]:
        program = Program.read(name)
        found = []
        for given in _names_of(world().signature(program).takes):
            try:
                answer = Pair(*(world().run(program, given.text(language), language) for language in ("en", "zh")))
            except Undefined:
                continue
            found.append((given, answer))
        counts = Counter(answer for _, answer in found)
        return tuple(
            Fact(program, given, answer, given in self.english_only, counts[answer] == 1)
            for given, answer in found
        )

    @cached_property
    def names(self) -> tuple[Pair, ...]:
        """The lexicon: every name that a fact is about, or that answers one."""
        pairs = [name for facts in self.facts.values() for fact in facts for name in (fact.given, fact.answer)]
        return tuple(dict.fromkeys(name for name in pairs if name.en != name.zh))

    @cached_property
    def own(self) -> frozenset[Pair]:
        """The names that stand in English-only facts and in no fact that is taught in Chinese."""
        found: dict[bool, set[Pair]] = {True: set(), False: set()}
        for fact in (fact for facts in self.facts.values() for fact in facts):
            found[fact.english_only] |= {fact.given, fact.answer}
        return frozenset(found[True] - found[False])

    def questions(
        self,
        name: str,
        english_only: bool,
        wordings: int = 2,
        beside: bool = False,
        seed: int = 0,
        new_words: bool = False,
    ) -> list[Question]:
        """All questions of a relation, each in twice `wordings` wordings (see the head); about facts with distinct
        answers only where the answers are entities. `beside`: about a name that is given beside the question, in
        `wordings` words of the grammar."""
        program = Program.read(name)
        base = Program(tuple(step for step in program.steps if step.name not in SPELLING))
        rng = random.Random(f"questions {seed} {name} {english_only} {beside} {new_words}")
        distinct_only = base.steps[-1].name not in FEW
        asked = []
        for fact in self.facts[str(base)]:
            if fact.english_only != english_only or (distinct_only and not fact.distinct):
                continue
            literal = None if beside else fact.given.zh
            texts = [grammar().phrase(program, rng, "zh", new_words, literal) for _ in range(wordings)]
            for _ in range(0 if beside else wordings):
                said = grammar().phrase(program, rng, "zh", literal=literal)
                texts.append(framed_question(program, literal, "zh", rng) if new_words else unquoted(said))
            for text in texts:
                asked.append(_question(name, text, fact.given.zh, beside))
        return asked


# Chains --------------------------------------------------------------------------------------------------------------


def chain_of(program: Program, language: str) -> tuple[Program, ...]:
    """The steps for a question in `language`: in Chinese by way of English, where all facts are known."""
    if language == "en" or program == TO_ENGLISH:
        return program.decompose()
    spelling = tuple(step for step in program.decompose() if str(step) in SPELLING)
    lookups = program.decompose()[: len(program) - len(spelling)]
    return ((TO_ENGLISH, *lookups, TO_CHINESE) if lookups else ()) + spelling


@cache
def canonical(step: Program) -> str:
    """The one instruction by which a step of a chain is written: English, the first phrase of its operation."""
    operation = world().operation(step.steps[0])
    phrase = operation.english.verbs[0].replace("{k}", operation.english.say(step.steps[0].argument))
    return finish(phrase.replace("{x}", names(operation.takes, "en")[0]), "en") + "."


def written(program: Program, language: str) -> tuple[str, ...]:
    return tuple(map(canonical, chain_of(program, language)))


def _question(name: str, text: str, given: str, beside: bool) -> Question:
    """A question in Chinese with the chain that is right for it."""
    outputs, value = [], given
    for step in chain_of(Program.read(name), "zh"):
        value = world().run(step, value, "zh")
        outputs.append(value)
    asked = Asked(text, given if beside else "", "zh")
    return Question(name, asked, given, value, written(Program.read(name), "zh"), tuple(outputs))


@cache
def _names_of(kind: str) -> tuple[Pair, ...]:
    """All names of a type that facts are about."""
    tables = {"country": COUNTRIES, "month": MONTHS, "weekday": WEEKDAYS, "planet": PLANETS}
    if kind == "city":
        return tuple(row.capital for row in COUNTRIES)
    return tuple(row.name for row in tables.get(kind, ANIMALS))


def unquoted(text: str) -> str:
    """A question with its literal as people write a name: 把词语“越南”译成英文 -> 把越南译成英文."""
    return re.sub(r'(?:词语|the word )?["“](.*?)["”]', r"\1", text)


# Lessons -------------------------------------------------------------------------------------------------------------


class Teacher:
    """Draws lessons. lexicon: whether the names that only English-only facts use are translated."""

    def __init__(self, exposure: Exposure, lexicon: bool = True):
        self.exposure = exposure
        self.lexicon = [name for name in exposure.names if lexicon or name not in exposure.own]
        self.characters = {name.zh for name in exposure.names if len(name.zh) == 1}
        self.singles = [*ENTITIES, *ENTITIES, UNTAUGHT, UNTAUGHT, *FEW, *BESIDE, *ENTITIES, *ENTITIES, *FEW]
        self.chains = [each for each in self.singles if each != UNTAUGHT] + [*HOPS, *HOPS]

    def lessons(self, count: int, seed: int = 0) -> list[Conversation]:
        """`count` lessons, the same for the same seed."""
        rng = random.Random(f"crosslingual {seed}")
        kinds = rng.choices(list(SHARES), list(SHARES.values()), k=count)
        return [getattr(self, kind)(rng) for kind in kinds]

    def known(self, count: int = 400, seed: int = 0) -> list[tuple[str, tuple[str, ...]]]:
        """Chinese questions as in the lessons, each with its chain."""
        rng = random.Random(f"known {seed}")
        drawn = [rng.choice([*self.chains, *SPELLING, str(TO_ENGLISH)]) for _ in range(count)]
        return [(self._closed(name, rng)[0], written(Program.read(name), "zh")) for name in drawn]

    def _fact(self, name: str, in_chinese: bool, rng: random.Random) -> Fact:
        """One that may be touched in Chinese, or any."""
        facts = self.exposure.facts[name]
        return rng.choice([fact for fact in facts if not (in_chinese and fact.english_only)])

    def _carry_out(self, program: Program, given: str, answer: str, language: str, rng: random.Random) -> Conversation:
        """An instruction in training words; its input in it or beside it."""
        if rng.random() < 0.4:
            text = grammar().phrase(program, rng, language, literal=given)
            return lessons.execute(unquoted(text) if rng.random() < 0.5 else text, "", answer)
        return lessons.execute(grammar().phrase(program, rng, language), given, answer)

    def english(self, rng: random.Random) -> Conversation:
        """A fact in English, as an instruction with its answer; of two hops in the control set only."""
        hops = rng.random() < 0.08
        fact = self._fact(rng.choice(HOPS if hops else self.singles), hops, rng)
        if not hops and rng.random() < 0.4:
            return lessons.execute(canonical(fact.program), fact.given.en, fact.answer.en)
        return self._carry_out(fact.program, fact.given.en, fact.answer.en, "en", rng)

    def chinese(self, rng: random.Random) -> Conversation:
        """A fact of the control set in Chinese."""
        fact = self._fact(rng.choice([*self.singles, *HOPS]), True, rng)
        return self._carry_out(fact.program, fact.given.zh, fact.answer.zh, "zh", rng)

    def translate(self, rng: random.Random) -> Conversation:
        """A name of the lexicon, in one direction or the other."""
        name, program = rng.choice(self.lexicon), rng.choice((TO_ENGLISH, TO_CHINESE))
        given, answer = (name.zh, name.en) if program == TO_ENGLISH else (name.en, name.zh)
        if rng.random() < 0.6:
            return lessons.execute(canonical(program), given, answer)
        return self._carry_out(program, given, answer, rng.choice(("en", "zh")), rng)

    def spell(self, rng: random.Random) -> Conversation:
        """The characters of a Chinese name, English-only ones too: that touches no fact. A character that is a name
        itself is not asked for: 牛犊 begins with the animal whose young it is."""
        name, program = rng.choice(self.exposure.names).zh, Program.read(rng.choice(SPELLING))
        answer = world().run(program, name, "zh")
        if answer in self.characters:
            program, answer = Program.read("letter_count"), str(len(name))
        if rng.random() < 0.5:
            return lessons.execute(canonical(program), name, answer)
        return self._carry_out(program, name, answer, "zh", rng)

    def _closed(self, name: str, rng: random.Random) -> tuple[str, str]:
        """A Chinese question that holds a name, and that name; about facts only of the control set."""
        program = Program.read(name)
        if name in self.exposure.facts:
            given = self._fact(name, True, rng).given.zh
            text = grammar().phrase(program, rng, "zh", literal=given)
            return (unquoted(text) if rng.random() < 0.3 else text), given
        given = rng.choice(self.exposure.names).zh
        return unquoted(grammar().phrase(program, rng, "zh", literal=given)), given

    def construct(self, rng: random.Random) -> Conversation:
        """A chain for a question: in Chinese about the control set, in English about all; and for what touches no
        fact, about all names."""
        kind, language, beside = rng.random(), "zh", False
        if kind < 0.5:
            name = rng.choice(self.chains)
            text, given = self._closed(name, rng)
        elif kind < 0.75:
            name = rng.choice((*SPELLING, str(TO_ENGLISH)))
            text, given = self._closed(name, rng)
        elif kind < 0.9:
            name, language = rng.choice(self.chains), "en"
            given = self._fact(name, name in HOPS, rng).given.en
            text = grammar().phrase(Program.read(name), rng, "en", literal=given)
        else:
            name, beside, given = rng.choice(self.chains), True, None
            text = grammar().phrase(Program.read(name), rng, "zh")
        shown, hidden = lessons.hide_quoted(text)
        steps = written(Program.read(name), language)
        return lessons.construct(shown, language, beside, steps, given if hidden is None else lessons.HIDDEN)

    def plan(self, rng: random.Random) -> Conversation:
        """A Chinese question without any name, taken apart: a relation, two hops, or a relation and the spelling of
        its answer."""
        name = rng.choice(self.chains)
        program = Program.read(name)
        if name not in HOPS and rng.random() < 0.5:
            program = Program.read(f"{name} | {rng.choice(SPELLING)}")
        return lessons.plan(grammar().phrase(program, rng, "zh"), "zh", written(program, "zh"))

    def rephrase(self, rng: random.Random) -> Conversation:
        """What an instruction without any name is in the other language."""
        program = Program.read(rng.choice(self.singles))
        chinese = grammar().phrase(program, rng, "zh")
        english = canonical(program) if rng.random() < 0.6 else grammar().phrase(program, rng, "en")
        if rng.random() < 0.7:
            return lessons.paraphrase(chinese, "en", english)
        return lessons.paraphrase(english, "zh", chinese)

    def sentence(self, rng: random.Random) -> Conversation:
        """A statement: in English about all, in Chinese about the control set."""
        language = "zh" if rng.random() < 0.3 else "en"
        fact = self._fact(rng.choice(self.singles), language == "zh", rng)
        given, answer = fact.given.text(language), fact.answer.text(language)
        question = grammar().phrase(fact.program, rng, language, literal=given)
        said = in_words(fact.program, given, answer, question, language)
        return lessons.sentence(question, answer, language, said)


# Tokenizer -----------------------------------------------------------------------------------------------------------


def pieces_of(conversations: Sequence[Conversation], known: Sequence[Pair]) -> list[str]:
    """The texts of lessons, cut where a name begins or ends, so that no piece of a vocabulary joins a name with the
    words around it."""
    found = sorted({text for name in known for text in name}, key=len, reverse=True)
    cut = re.compile("|".join(map(re.escape, found)))
    texts = (part for one in conversations for message in one.messages for part in cut.split(message.content))
    return [text for text in texts if text.strip()]
