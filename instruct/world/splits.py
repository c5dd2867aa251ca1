"""Splits: which programs instruction data may contain, and what is kept for tests, decided by behaviour.

    splits = Splits(Behaviour(world()))
    splits.seeds                                    # programs of the instruction data: all operations, some pairs
    splits.items("compositions", 500)               # test items: instruction, input, output, program
    splits.touches(program, "en")                   # why an item may not be trained on; "" if it may
    sample_program(behaviour, 3, Random(0))         # a chain of three that is worth asking for

| split | programs | words | inputs |
|---|---|---|---|
| seeds | seeds | training | training |
| inputs | seeds over open types | training | test |
| phrasings | seeds | held out | test |
| compositions | pairs that are held out, in every chain that holds them | training | test |
| open | pairs that are neither seeds nor held out: whoever constructs them may learn them | training | test |
| depth3 | chains of three, held out | training | test |
| language | operations that are taught in the other language only | training | test |
| human | what people would say (`instruct.world.human`) | free | given |

Why by behaviour. "Sort, reverse, take the second" is "sort downwards, take the second". So what is held out is a set of
fingerprints, and a program touches it when any part of it, of two steps or more, has one of them. Pairs are drawn by
the names of their operations, uniformly, and held out with all their arguments: a model that was taught "add 5 to each,
then sum" has seen "add 3 to each, then sum".

Frozen. The same world and seed give the same splits, whose `digest` stands in every result.

What it leaves out. Facts: which of them a model saw, and in which language, is for whoever writes its texts.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from configs import UserError
from instruct.world.behaviour import Behaviour
from instruct.world.grammar import Grammar
from instruct.world.human import HUMAN
from instruct.world.inputs import CLOSED, sample_defined
from instruct.world.program import Program, Step, World

LANGUAGES = ("en", "zh")
NAMES = ("seeds", "inputs", "phrasings", "compositions", "open", "depth3", "language", "human")
LOOKUPS = frozenset({"facts", "calendar"})  # families that must have seen an input to know its output


@dataclass(frozen=True)
class Sizes:
    """How many pairs: at most so many, taken from this share of all well-typed pairs; the rest of them stays open."""

    seeds: int = 300
    held_out: int = 250
    depth3: int = 300
    seeds_share: float = 0.4
    held_out_share: float = 0.2
    one_language: float = 0.1  # of the operations


@dataclass(frozen=True)
class Item:
    """One instruction with its input ("" where it stands in the instruction) and right output.

    `given`: the input, wherever it stands.
    """

    instruction: str
    input: str
    output: str
    language: str
    program: Program
    split: str
    given: str


class Splits:
    """The splits of one world."""

    def __init__(self, behaviour: Behaviour, seed: int = 0, sizes: Sizes | None = None):
        self.behaviour, self.world, self.seed = behaviour, behaviour.world, seed
        self.grammar = Grammar(self.world)
        self.sizes = sizes = sizes or Sizes()
        self.singles = self.world.singles()
        self._single_behaviours = frozenset().union(*map(behaviour.fingerprints, self.singles))
        pairs = list(skeletons(self.world, 2))
        Random(f"pairs {seed}").shuffle(pairs)
        rest = iter(pairs)
        self.held_out = self._hold_out(itertools.islice(rest, int(sizes.held_out_share * len(pairs))), sizes.held_out)
        self.test_behaviours = self._behaviours(self.held_out)
        chosen = self._choose(itertools.islice(rest, int(sizes.seeds_share * len(pairs))), sizes.seeds)
        self.seeds = self.singles + chosen
        self._seed_behaviours = self._behaviours(self.seeds)
        self.depth3 = self._deep(sizes.depth3)
        self.test_behaviours |= self._behaviours(self.depth3)
        self.open = self._open(rest, sizes.held_out)
        self.taught_in = self._one_language(sizes.one_language)
        self.human = tuple(each for each in HUMAN if self.world.well_typed(Program.read(each.program)))

    @property
    def digest(self) -> str:
        """A hash of everything that was decided."""
        programs = [[str(each) for each in group] for group in (self.seeds, self.held_out, self.depth3, self.open)]
        decided = [programs, sorted(self.taught_in.items()), [list(each) for each in self.human]]
        return hashlib.sha256(json.dumps(decided, ensure_ascii=False).encode()).hexdigest()[:16]

    # What may be trained on ------------------------------------------------------------------------------------------

    def touches(self, program: Program, language: str | None = None) -> str:
        """Why a training item with this program, said in this language, would spoil a test; "" if it would not.

        Raises IllTyped.
        """
        self.world.signature(program)
        for part in program.parts(2):
            if self.behaviour.fingerprints(part) & self.test_behaviours:
                return f"{part} is held out"
        for step in program.steps:
            if language is not None and self.taught_in.get(step.name, language) != language:
                return f"{step.name} is taught in {self.taught_in[step.name]} only"
        return ""

    def languages(self, program: Program) -> tuple[str, ...]:
        """The languages in which it may be taught; none, where it holds operations of one language each."""
        return tuple(
            language
            for language in LANGUAGES
            if all(self.taught_in.get(step.name, language) == language for step in program.steps)
        )

    # Items -----------------------------------------------------------------------------------------------------------

    def items(self, split: str, count: int, seed: int = 0, literals: float = 0.2) -> list[Item]:
        """`count` different items; `literals`: share of those whose input stands in the instruction.

        "human" gives all there are. Raises UserError for an unknown split and for one without programs.
        """
        if split == "human":
            return list(self._human_items())
        programs = self._programs(split)
        rng = Random(f"{split} {seed}")
        found: dict[Item, None] = {}
        for attempt in range(50 * count):
            if len(found) == count:
                break
            program = programs[attempt % len(programs)] if attempt < len(programs) else rng.choice(programs)
            item = self._item(split, program, rng, literals)
            if item:
                found[item] = None
        return list(found)

    def _programs(self, split: str) -> list[Program]:
        """In an order of their own."""
        groups = {
            "seeds": self.seeds,
            "inputs": [each for each in self.seeds if self._open_inputs(each)],
            "phrasings": self.seeds,
            "compositions": self.held_out,
            "open": self.open,
            "depth3": self.depth3,
            "language": [each for each in self.singles if each.steps[0].name in self.taught_in],
        }
        if split not in groups:
            raise UserError(f"there is no split {split!r}; choose one of {', '.join(NAMES)}")
        if not groups[split]:
            raise UserError(f"this world is too small for the split {split!r}; give it more operations")
        programs = list(groups[split])
        Random(f"order of {split}").shuffle(programs)
        return programs

    def _item(self, split: str, program: Program, rng: Random, literals: float) -> Item | None:
        languages = self.languages(program)
        if split == "language":
            languages = tuple(language for language in LANGUAGES if language not in languages)
        if not languages:
            return None
        language = rng.choice(languages)
        pool = "train" if split == "seeds" else "test"
        drawn = draw_input(self.world, program, rng, language, pool)
        if drawn is None:
            return None
        given, output = drawn
        literal = given if rng.random() < literals else None
        text = self.grammar.phrase(program, rng, language, split == "phrasings", literal)
        return Item(text, "" if literal else given, output, language, program, split, given)

    def _human_items(self) -> Iterator[Item]:
        for each in self.human:
            program = Program.read(each.program)
            output = self.world.run(program, each.given, each.language)
            given = "" if each.closed else each.given
            yield Item(each.instruction, given, output, each.language, program, "human", each.given)

    def _open_inputs(self, program: Program) -> bool:
        first = self.world.by_name[program.steps[0].name]
        return self.world.signature(program).takes not in CLOSED and first.family not in LOOKUPS

    # Deciding --------------------------------------------------------------------------------------------------------

    def _behaviours(self, programs: tuple[Program, ...]) -> frozenset[str]:
        return frozenset().union(*map(self.behaviour.fingerprints, programs))

    def _hold_out(self, pairs: Iterator[tuple[str, ...]], count: int) -> tuple[Program, ...]:
        """All programs, whose behaviour no single operation has, of the first `count` pairs that have one."""
        found: list[list[Program]] = []
        for names in pairs:
            if len(found) == count:
                break
            programs = [each for each in variants(self.world, names) if not self.behaviour.trivial(each)]
            found.append([each for each in programs if not self._like_a_single(each)])
            if not found[-1]:
                found.pop()
        return tuple(itertools.chain.from_iterable(found))

    def _choose(self, pairs: Iterator[tuple[str, ...]], count: int) -> tuple[Program, ...]:
        """One program of each of the next `count` pairs that do not touch what is held out."""
        rng = Random(f"seeds {self.seed}")
        found: dict[str, Program] = {}
        for names in pairs:
            if len(found) == count:
                break
            program = rng.choice(list(variants(self.world, names)))
            if not self.behaviour.trivial(program) and not self._held(program):
                found.setdefault(self.behaviour.fingerprint(program), program)
        return tuple(found.values())

    def _deep(self, count: int) -> tuple[Program, ...]:
        rng = Random(f"depth3 {self.seed}")
        found: dict[str, Program] = {}
        for _ in range(20 * count):
            program = random_chain(self.world, 3, rng)
            if len(found) == count:
                break
            known = self.behaviour.fingerprints(program) & self._seed_behaviours
            if not known and not self.behaviour.trivial(program):
                found.setdefault(self.behaviour.fingerprint(program), program)
        return tuple(found.values())

    def _open(self, pairs: Iterator[tuple[str, ...]], count: int) -> tuple[Program, ...]:
        rng = Random(f"open {self.seed}")
        found: dict[str, Program] = {}
        for names in pairs:
            if len(found) == count:
                break
            program = rng.choice(list(variants(self.world, names)))
            known = self.behaviour.fingerprints(program) & (self.test_behaviours | self._seed_behaviours)
            if not known and not self.behaviour.trivial(program):
                found.setdefault(self.behaviour.fingerprint(program), program)
        return tuple(found.values())

    def _one_language(self, share: float) -> dict[str, str]:
        names = sorted(self.world.by_name)
        chosen = Random(f"language {self.seed}").sample(names, int(share * len(names)))
        return {name: LANGUAGES[i % 2] for i, name in enumerate(chosen)}

    def _like_a_single(self, program: Program) -> bool:
        return bool(self.behaviour.fingerprints(program) & self._single_behaviours)

    def _held(self, program: Program) -> bool:
        return bool(self.behaviour.fingerprints(program) & self.test_behaviours)


# Programs to choose from ---------------------------------------------------------------------------------------------


def skeletons(world: World, depth: int) -> Iterator[tuple[str, ...]]:
    """The names of the operations of every well-typed chain."""
    firsts = {name: Step(name, (operation.arguments or (None,))[0]) for name, operation in world.by_name.items()}
    for names in itertools.product(world.by_name, repeat=depth):
        if world.well_typed(Program(tuple(firsts[name] for name in names))):
            yield names


def variants(world: World, names: tuple[str, ...]) -> Iterator[Program]:
    """The programs of these operations, with all their arguments."""
    choices = [[Step(name, k) for k in world.by_name[name].arguments or (None,)] for name in names]
    return map(Program, itertools.product(*choices))


def random_chain(world: World, depth: int, rng: Random) -> Program:
    """A well-typed chain; all chains of operations are equally likely, whatever their arguments.

    Raises UserError for a world that seems to have none of this depth.
    """
    for _ in range(100_000):
        chosen = [rng.choice(world.operations) for _ in range(depth)]
        program = Program(tuple(Step(each.name, rng.choice(each.arguments or (None,))) for each in chosen))
        if world.well_typed(program):
            return program
    raise UserError(f"no chain of {depth} operations was found; give the world more operations")


def sample_program(behaviour: Behaviour, depth: int, rng: Random, tries: int = 1000) -> Program | None:
    """A random chain whose behaviour is neither identity nor constant nor mostly undefined nor that of a shorter one.
    None where `tries` chains were none of that kind."""
    for _ in range(tries):
        program = random_chain(behaviour.world, depth, rng)
        if not behaviour.trivial(program):
            return program
    return None


def draw_input(world: World, program: Program, rng: Random, language: str, pool: str) -> tuple[str, str] | None:
    """(input, output): the input in the language of the instruction four times in five, where it can be."""
    other = LANGUAGES[language == "en"]
    order = (language, other) if rng.random() < 0.8 else (other, language)
    for words_in in order:
        drawn = sample_defined(world, program, rng, words_in, pool, instruction=language)
        if drawn:
            return drawn
    return None
