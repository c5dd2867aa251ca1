"""Induction: from pairs of input and output, the model writes the instruction that they follow.

    python -m instruct.induce RUN PAIRS.jsonl [--search halving] [--score likelihood] [--language zh] [--json]

PAIRS.jsonl has rows {"input": "3 9 1", "output": "1 3 9"}. The method is that of Zhou et al. 2023 (Automatic Prompt
Engineer), on the task of Honovich et al. 2022 (instruction induction), with one model of ours in every part:

1. write   the model is shown some of the pairs and writes an instruction (`lessons.induce`): once greedily, then
           sampled, each time after other pairs. What is said twice is one candidate.
2. search  a candidate is worth what it explains of the pairs: the probability, per token, of an output given
           instruction and input ("likelihood"), or the share of right answers when it is carried out ("execution"), by
           the model or by an `executor` that is given, such as a program. `instruct.search` spends few evaluations.
3. again   the model says the best ones in other words (`lessons.paraphrase`), and these compete with them.

    found = induce(loaded, pairs, "en", SearchConfig(search="ucb", score="execution"), seed=0)
    found.instruction, found.score, found.evaluations, found.ranking

The baselines: "greedy" is the first thing that the model writes, "exhaustive" the best of all candidates, each tried on
every pair. A candidate is one whole line that came to its end; it is never cut at a full stop, which would also cut 3.5
in two. Of candidates with equal scores the one that was written more often wins.

What it leaves out: pairs to write from are not kept apart from pairs to score with, since there are seldom enough; so
a score says which candidate is better, and not how well the winner will do on new inputs.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from configs import UserError, check, run_main
from data.chat import Conversation, prompt
from data.formats import read_rows
from instruct import lessons
from instruct.answer import Asked, directly, say
from instruct.search import exhaustive, successive_halving, ucb
from instruct.world.program import normalise
from model.load import LoadedModel, load_run
from model.sampling import Sampling
from model.score import log_likelihood

Pair = tuple[str, str]  # input, output
Executor = Callable[[Sequence[tuple[str, str]]], Sequence[str]]  # (instruction, input) pairs -> answers, "" for none

SEARCHES = ("greedy", "exhaustive", "halving", "ucb")
SCORES = ("likelihood", "execution")


@dataclass(frozen=True)
class SearchConfig:
    """How instructions are written and searched.

    search         greedy, exhaustive, halving or ucb
    score          likelihood or execution
    candidates     instructions that are sampled (besides the greedy one), and paraphrases in each resampling
    shown          pairs that each is written from
    temperature, top_p   of writing
    budget         evaluations that halving and ucb may use, as a share of `candidates` times pairs: fewer different
                   candidates, more for each
    resampling     how often the best are paraphrased and searched again
    parents        how many best
    new_tokens, answer_tokens   longest instruction, longest answer
    """

    search: str = "halving"
    score: str = "likelihood"
    candidates: int = 64
    shown: int = 5
    temperature: float = 1.0
    top_p: float = 1.0
    budget: float = 0.2
    resampling: int = 0
    parents: int = 8
    new_tokens: int = 64
    answer_tokens: int = 48

    def __post_init__(self):
        problems = [
            f"{name} must be positive, got {getattr(self, name)}"
            for name in ("candidates", "shown", "parents", "new_tokens", "answer_tokens")
            if getattr(self, name) < 1
        ]
        if self.search not in SEARCHES:
            problems.append(f"unknown search {self.search!r}: known are {', '.join(SEARCHES)}")
        if self.score not in SCORES:
            problems.append(f"unknown score {self.score!r}: known are {', '.join(SCORES)}")
        if not 0 < self.budget <= 1:
            problems.append(f"budget must be a share above 0 and at most 1, got {self.budget}")
        if self.resampling < 0:
            problems.append(f"resampling must not be negative, got {self.resampling}")
        if self.search == "greedy" and self.resampling:
            problems.append("greedy has nothing to resample; set resampling to 0, or search")
        check(problems)

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, top_p=self.top_p)


DEFAULT = SearchConfig()


class Ranked(NamedTuple):
    """An instruction, its mean score in [0, 1], and the number of pairs behind it."""

    instruction: str
    score: float
    pairs: int


@dataclass(frozen=True)
class Induced:
    """The best instruction ("" where the model wrote none), its score, what the search cost, and all candidates."""

    instruction: str
    score: float
    evaluations: int
    ranking: tuple[Ranked, ...]


def induce(
    loaded: LoadedModel,
    pairs: Sequence[Pair],
    language: str = "en",
    config: SearchConfig = DEFAULT,
    seed: int = 0,
    executor: Executor | None = None,
) -> Induced:
    """The instruction in `language` ("en" or "zh") that explains the pairs best.

    executor: carries out instructions for the score "execution" in place of the model.
    Raises UserError for no pairs, an output without text, an unknown language, or an executor that is not asked.
    """
    _check(pairs, language)
    if executor is not None and config.score != "execution":
        raise UserError('an executor is only asked for the score "execution"; choose that, or give none')
    scorer = _Scorer(loaded, pairs, config, executor)
    ranked = _search(scorer, write_candidates(loaded, pairs, language, config, seed), config, seed)
    for number in range(1, config.resampling + 1):
        best = [each.instruction for each in ranked[: config.parents]]
        others = _paraphrases(loaded, best, language, config, random.Random(f"{seed} {number}"))
        again = _search(scorer, list(dict.fromkeys((*best, *others))), config, seed + number)
        searched = {each.instruction for each in again}
        ranked = [*again, *(each for each in ranked if each.instruction not in searched)]
    best = ranked[0] if ranked else Ranked("", 0.0, 0)
    return Induced(best.instruction, best.score, scorer.evaluations, tuple(ranked))


def induce_greedily(
    loaded: LoadedModel,
    tasks: Sequence[Sequence[Pair]],
    languages: Sequence[str],
    shown: int = 5,
    new_tokens: int = 64,
) -> list[str]:
    """The greedy instruction for each of many tasks at once, from its first `shown` pairs; "" where none was written.

    languages: one for each task. Raises UserError as `induce` does.
    """
    for pairs, language in zip(tasks, languages, strict=True):
        _check(pairs, language)
    asked = [_asking(loaded, pairs[:shown], language, new_tokens) for pairs, language in zip(tasks, languages)]
    return _lines(say(loaded, asked, new_tokens))


def model_executor(loaded: LoadedModel, new_tokens: int = 48) -> Executor:
    """The model carries out instructions itself, greedily."""
    return lambda asked: directly(loaded, [Asked(*each) for each in asked], new_tokens)


def write_candidates(
    loaded: LoadedModel, pairs: Sequence[Pair], language: str, config: SearchConfig, seed: int
) -> list[str]:
    """Different instructions, the most often written first; of equally frequent ones the greedy one, then the
    earlier. Only the greedy one when that is the search."""
    written = induce_greedily(loaded, [pairs], [language], config.shown, config.new_tokens)
    if config.search != "greedy":
        rng = random.Random(f"{seed} write")
        chosen = [rng.sample(pairs, min(config.shown, len(pairs))) for _ in range(config.candidates)]
        asked = [_asking(loaded, some, language, config.new_tokens) for some in chosen]
        written += _lines(say(loaded, asked, config.new_tokens, config.sampling, _seeds(rng, len(asked))))
    return [instruction for instruction, _ in Counter(filter(None, written)).most_common()]


def _asking(loaded: LoadedModel, pairs: Sequence[Pair], language: str, new_tokens: int) -> Conversation:
    """The question for the instruction, with as many of the pairs as the model has room for, but at least one."""
    room = loaded.model.config.context - new_tokens
    while True:
        conversation = lessons.induce(pairs, language)
        if len(pairs) == 1 or len(prompt(conversation, loaded.tokenizer, loaded.chat)) <= room:
            return conversation
        pairs = pairs[:-1]


def _paraphrases(
    loaded: LoadedModel, best: Sequence[str], language: str, config: SearchConfig, rng: random.Random
) -> list[str]:
    """Other words for the best, taken in turn; what does not come to its end is left out."""
    asked = [lessons.paraphrase(best[i % len(best)], language) for i in range(config.candidates if best else 0)]
    said = say(loaded, asked, config.new_tokens, config.sampling, _seeds(rng, len(asked)))
    return list(filter(None, _lines(said)))


def _lines(said: Iterable[str]) -> list[str]:
    """Each text with single spaces, "" where it has more than one line: an instruction is one."""
    return ["" if "\n" in text else " ".join(text.split()) for text in said]


def _seeds(rng: random.Random, count: int) -> list[int]:
    return [rng.getrandbits(62) for _ in range(count)]


# Scoring and searching -----------------------------------------------------------------------------------------------


class _Scorer:
    """The score of an instruction on a pair, in [0, 1]; what is known is not computed again."""

    def __init__(self, loaded: LoadedModel, pairs: Sequence[Pair], config: SearchConfig, executor: Executor | None):
        self.loaded, self.pairs, self.by_likelihood = loaded, pairs, config.score == "likelihood"
        self.executor = executor or model_executor(loaded, config.answer_tokens)
        self.known: dict[tuple[str, int], float] = {}

    @property
    def evaluations(self) -> int:
        return len(self.known)

    def __call__(self, asked: Sequence[tuple[str, int]]) -> list[float]:
        """asked: instructions, each with the number of a pair."""
        new = [each for each in dict.fromkeys(asked) if each not in self.known]
        if new:
            found = self._likelihoods(new) if self.by_likelihood else self._executed(new)
            self.known.update(zip(new, found, strict=True))
        return [self.known[each] for each in asked]

    def _likelihoods(self, asked: Sequence[tuple[str, int]]) -> list[float]:
        conversations = [lessons.execute(instruction, *self.pairs[i]) for instruction, i in asked]
        return [math.exp(found.per_token) for found in log_likelihood(self.loaded, conversations)]

    def _executed(self, asked: Sequence[tuple[str, int]]) -> list[float]:
        answers = self.executor([(instruction, self.pairs[i][0]) for instruction, i in asked])
        right = [normalise(self.pairs[i][1]) for _, i in asked]
        return [float(normalise(answer) == wanted) for answer, wanted in zip(answers, right, strict=True)]


def _search(scorer: _Scorer, candidates: Sequence[str], config: SearchConfig, seed: int) -> list[Ranked]:
    """The candidates, best first."""
    if not candidates:
        return []
    count, items = len(candidates), len(scorer.pairs)
    budget = max(count, round(config.budget * config.candidates * items))

    def evaluate(asked: Sequence[tuple[int, int]]) -> list[float]:
        return scorer([(candidates[candidate], item) for candidate, item in asked])

    if config.search == "halving":
        found = successive_halving(evaluate, count, items, budget, seed)
    elif config.search == "ucb":
        found = ucb(evaluate, count, items, budget, seed)
    else:
        found = exhaustive(evaluate, count, items)
    return [Ranked(candidates[i], found.means[i], found.counts[i]) for i in found.ranking]


def _check(pairs: Sequence[Pair], language: str) -> None:
    if language not in lessons.LANGUAGES:
        raise UserError(f"unknown language {language!r}: choose one of {', '.join(lessons.LANGUAGES)}")
    if not pairs:
        raise UserError("there are no pairs of input and output; give at least one, better five or more")
    for given, output in pairs:
        if not normalise(output):
            raise UserError(f"the output for the input {given!r} has no text: nothing can be learnt from it")


# The command ---------------------------------------------------------------------------------------------------------


def read_pairs(path: str | Path) -> list[Pair]:
    """Rows {"input", "output"} of a JSON or JSON-lines file. Raises UserError with the place for any other row."""
    pairs = []
    for place, row in read_rows(path):
        texts = [row.get("input"), row.get("output")]
        if not all(isinstance(text, str) for text in texts) or not normalise(texts[1]):
            raise UserError(f'{place}: a row needs "input" and "output", both texts, the output not empty')
        pairs.append((texts[0], texts[1]))
    return pairs


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m instruct.induce",
        description="Write the instruction that pairs of input and output follow.",
    )
    parser.add_argument("run", help="run folder or checkpoint folder of a model that knows the lessons")
    parser.add_argument("pairs", help='JSON or JSON-lines file of rows {"input", "output"}')
    parser.add_argument("--language", default="en", choices=list(lessons.LANGUAGES), help="of the instruction (en)")
    parser.add_argument("--search", default=DEFAULT.search, choices=SEARCHES, help=f"({DEFAULT.search})")
    parser.add_argument("--score", default=DEFAULT.score, choices=SCORES, help=f"({DEFAULT.score})")
    parser.add_argument("--candidates", type=int, default=DEFAULT.candidates, help=f"sampled ({DEFAULT.candidates})")
    parser.add_argument("--resampling", type=int, default=0, help="rounds of paraphrasing the best (0)")
    parser.add_argument("--seed", type=int, default=0, help="of sampling and search (0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    config = SearchConfig(arguments.search, arguments.score, arguments.candidates, resampling=arguments.resampling)
    pairs = read_pairs(arguments.pairs)
    found = induce(load_run(arguments.run), pairs, arguments.language, config, arguments.seed)
    if arguments.json:
        ranking = [each._asdict() for each in found.ranking]
        print(json.dumps({**asdict(found), "ranking": ranking}, ensure_ascii=False))
        return 0
    print(found.instruction or "(the model wrote no instruction that came to its end)")
    print(
        f"\n{config.score} {found.score:.3f}; {found.evaluations} evaluations on {len(pairs)} pairs by {config.search}"
    )
    for each in found.ranking[:10]:
        print(f"  {each.score:.3f} on {each.pairs:3}  {each.instruction}")
    return 0


if __name__ == "__main__":
    run_main(main)
