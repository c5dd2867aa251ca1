"""Writing under constraints that a program checks: the model writes until a text meets them, or says which it missed.

    python -m instruct.applications.write RUN "Write a sentence about the sea." --word sea --least 4 --begins T

    done = write(loaded, "写一句话。", Constraints(words=("猫",), most=10), samples=8)
    done.met, done.text, done.attempts[0].missed

The first text is the model's greedy one, the others are sampled; all in one batch, each judged by the same program. The
first that meets everything is taken; where none does, that with the fewest misses, and `met` says so.

What it leaves out. Guiding the choice of tokens: a text is judged when it is whole.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from configs import UserError, check, run_main
from instruct import lessons
from model.complete import complete
from model.load import LoadedModel, load_run
from model.sampling import Sampling

_UNIT = re.compile(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]+(?:['’-][^\W_\u4e00-\u9fff]+)*")
SAMPLES, TOKENS, TEMPERATURE = 16, 96, 0.9


@dataclass(frozen=True)
class Constraints:
    """What a text has to meet.

    words     that occur in it, whole, in any case (Chinese ones anywhere); without: that do not
    begins    what it begins with, in any case
    least, most   its length: words, of Chinese characters
    """

    words: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    begins: str = ""
    least: int = 1
    most: int | None = None

    def __post_init__(self):
        problems = [f"a word to look for is empty: {self.words}"] if "" in (*self.words, *self.without) else []
        if both := sorted(set(self.words) & set(self.without)):
            problems.append(f"{', '.join(both)} cannot both occur and not occur")
        if self.most is not None and self.most < max(self.least, 1):
            problems.append(f"no text has at least {self.least} and at most {self.most} words")
        check(problems)

    def missed(self, text: str) -> tuple[str, ...]:
        """Which of them a text does not meet, in words; () where it meets all."""
        found = [f"the word {word!r} is missing" for word in self.words if not _occurs(word, text)]
        found += [f"the word {word!r} occurs" for word in self.without if _occurs(word, text)]
        if not _plain(text).lstrip("\"'“‘「(（").startswith(_plain(self.begins)):
            found.append(f"it does not begin with {self.begins!r}")
        length = len(_UNIT.findall(text))
        if length < self.least:
            found.append(f"it has {length} words, fewer than {self.least}")
        if self.most is not None and length > self.most:
            found.append(f"it has {length} words, more than {self.most}")
        return tuple(found)


@dataclass(frozen=True)
class Attempt:
    """A text and what it missed."""

    text: str
    missed: tuple[str, ...]


@dataclass(frozen=True)
class Written:
    """The best text, whether it meets everything, and all texts in the order in which they were written.

    misses: how many of the texts missed which constraint.
    """

    instruction: str
    text: str
    met: bool
    attempts: tuple[Attempt, ...]
    misses: dict[str, int]


def write(
    loaded: LoadedModel,
    instruction: str,
    constraints: Constraints,
    given: str = "",
    samples: int = SAMPLES,
    temperature: float = TEMPERATURE,
    new_tokens: int = TOKENS,
    seed: int = 0,
) -> Written:
    """Up to `samples` texts for one instruction; the first that meets the constraints counts.

    Raises UserError for an instruction without text or less than one sample.
    """
    if not instruction.strip() or samples < 1:
        raise UserError(f"writing needs an instruction and at least one sample, got {instruction!r} and {samples}")
    prompt = lessons.execute(instruction.strip(), given)
    seeds = [random.Random(f"{seed} {instruction} {n}").getrandbits(62) for n in range(samples - 1)]
    said = complete(loaded, [prompt], new_tokens)
    first = constraints.missed(said[0].text) or not said[0].finished
    if first and seeds:
        said += complete(loaded, [prompt] * len(seeds), new_tokens, Sampling(temperature=temperature), seeds)
    attempts = []
    for each in said:
        missed = constraints.missed(each.text)
        attempts.append(Attempt(each.text.strip(), missed if each.finished else (*missed, "it was cut off")))
    best = min(attempts, key=lambda attempt: len(attempt.missed))
    misses = Counter(_kind(reason) for attempt in attempts for reason in attempt.missed)
    return Written(instruction, best.text, not best.missed, tuple(attempts), dict(misses.most_common()))


def _kind(reason: str) -> str:
    """A reason without the number that was found, so that it can be counted."""
    return re.sub(r"it has \d+ words, (fewer|more) than", r"it has \1 words than", reason)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip().casefold()


def _occurs(word: str, text: str) -> bool:
    if any("\u4e00" <= character <= "\u9fff" for character in word):
        return word in text
    return re.search(rf"(?<!\w){re.escape(_plain(word))}(?!\w)", _plain(text)) is not None


def show(written: Written, trace: bool = False) -> str:
    lines = [
        f"{n}. {each.text}\n   {'; '.join(each.missed) or 'meets all'}" for n, each in enumerate(written.attempts, 1)
    ]
    lines = lines if trace else []
    if written.met:
        return "\n".join([*lines, written.text])
    failed = [f"   {count} of {len(written.attempts)}: {reason}" for reason, count in written.misses.items()]
    return "\n".join([*lines, "refused: no text met all constraints; the nearest is", f"   {written.text}", *failed])


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m instruct.applications.write",
        description="Write a text that meets constraints.",
        epilog="exit status: 0 a text meets all constraints, 1 none does, 2 wrong use",
    )
    parser.add_argument("run", help="run folder or checkpoint folder of a tuned model")
    parser.add_argument("instruction", help="what to write")
    parser.add_argument("--input", default="", help="what it is about; never read as an instruction")
    parser.add_argument("--word", action="append", default=[], help="has to occur; may be given several times")
    parser.add_argument("--without", action="append", default=[], help="must not occur; may be given several times")
    parser.add_argument("--begins", default="", help="the beginning of the text")
    parser.add_argument("--least", type=int, default=1, help="words (of Chinese: characters) at least (1)")
    parser.add_argument("--most", type=int, help="words (of Chinese: characters) at most")
    parser.add_argument("--samples", type=int, default=SAMPLES, help=f"texts, at most ({SAMPLES})")
    parser.add_argument("--temperature", type=float, default=TEMPERATURE, help=f"({TEMPERATURE})")
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"of a text, at most ({TOKENS})")
    parser.add_argument("--seed", type=int, default=0, help="(0)")
    parser.add_argument("--trace", action="store_true", help="print every text with what it missed")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    a = parser.parse_args(argv)
    constraints = Constraints(tuple(a.word), tuple(a.without), a.begins, a.least, a.most)
    if a.tokens < 1:
        raise UserError(f"--tokens must be positive, got {a.tokens}")
    loaded = load_run(a.run, a.device)
    done = write(loaded, a.instruction, constraints, a.input, a.samples, a.temperature, a.tokens, a.seed)
    print(json.dumps(asdict(done), ensure_ascii=False) if a.json else show(done, a.trace))
    return 0 if done.met else 1


if __name__ == "__main__":
    run_main(main)
