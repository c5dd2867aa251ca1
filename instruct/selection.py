"""Selecting with a model: filters that ask one, and the scores that they ask for.

What it is. Five filters with the interface of `instruct.filters`. Each is given functions, so that any model (or a
person, or a table in a test) can stand behind it:

    EmbeddingDistance(embed)     is the instruction near to an earlier one?             Magpie, DEITA
    SelfConsistency(ask)         do the model's own samples agree with the answer?      Wang et al. 2022
    RoundTrip(back)              does the answer lead back to its instruction?          Humback, Li et al. 2023
    Difficulty(ratios)           does the instruction help to say the answer?           IFD: Cherry, Li et al. 2023
    Diverse(complexity, ...)     the best by complexity times quality, far apart        DEITA, Liu et al. 2023

and thin functions that make such functions of a model of ours: `difficulty_ratios(loaded)`, `embedder(loaded)`.

Why so. Cherry finds the answer by searching its text in the rendered prompt and tokenises the boundary anew; here
`data.chat` says which ids are the answer. A port of DEITA's diversity step asks for the nearest neighbour in the whole
set, so that both copies of a duplicate are dropped; here exactly the better one stays.

What it leaves out. The judges that rate complexity and quality, which are models of their own (`Diverse` is given their
scores), and LESS, which needs gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from configs import UserError
from data.chat import Conversation, Message
from instruct.filters import Verdict
from instruct.rouge import rouge_l
from model.heads import LanguageModel
from model.load import LoadedModel
from model.score import log_likelihood

Embedder = Callable[[Sequence[str]], np.ndarray]
Pair = tuple[str, str]  # question and answer
Scorer = Callable[[Sequence[Any]], Sequence[float]]


def question(record: Any, instance: Any) -> str:
    """What the user says: the instruction, and the input on a line of its own where there is one."""
    return "\n".join(part for part in (record.instruction, instance.input) if part)


def _means(records: Sequence[Any], values: Sequence[float]) -> list[float | None]:
    """The mean for each record of values that stand one for each instance; None for a record without instances."""
    means, start = [], 0
    for record in records:
        part = values[start : start + len(record.instances)]
        means.append(float(np.mean(part)) if len(part) else None)
        start += len(record.instances)
    return means


# Filters -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EmbeddingDistance:
    """Cosine above `closest` with `known` or with an instruction kept earlier in the list. DEITA: 0.9.

    embed: texts -> (N, C), rows of length 1. known: (M, C), or None. Score: the highest cosine with those.
    """

    embed: Embedder
    closest: float = 0.9
    known: np.ndarray | None = None
    name: ClassVar[str] = "embedding"
    higher_is_better: ClassVar[bool | None] = False

    def __call__(self, records: Sequence[Any]) -> list[Verdict]:
        if not records:
            return []
        vectors = self.embed([record.instruction for record in records])
        cosines, kept = admit_vectors(vectors, self.closest, self.known)
        return [Verdict(None if keep else "embedding", float(cosine)) for cosine, keep in zip(cosines, kept)]


def admit_vectors(
    vectors: np.ndarray, closest: float, known: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Go through unit vectors (N, C) in their order and keep those with no cosine above `closest` to `known` (M, C) or
    to one kept before. Gives the highest cosine of each with those (-1 where there is none) and what was kept, (N,)."""
    count = 0 if known is None else len(known)
    held = np.zeros((count + len(vectors), vectors.shape[1]), dtype=vectors.dtype)
    held[:count] = known if known is not None else 0
    highest, kept = np.full(len(vectors), -1.0), np.zeros(len(vectors), dtype=bool)
    for i, vector in enumerate(vectors):
        highest[i] = (held[:count] @ vector).max(initial=-1.0)
        kept[i] = highest[i] <= closest
        held[count] = vector
        count += int(kept[i])
    return highest, kept


@dataclass(frozen=True)
class SelfConsistency:
    """Share of the model's own answers that equal the stored one, averaged over instances; dropped below `least`.

    ask: questions -> for each a list of sampled answers. A record without instances passes without a score.
    """

    ask: Callable[[Sequence[str]], Sequence[Sequence[str]]]
    least: float = 0.5
    name: ClassVar[str] = "self_consistency"
    higher_is_better: ClassVar[bool | None] = True

    def __call__(self, records: Sequence[Any]) -> list[Verdict]:
        pairs = [(question(record, item), item.output) for record in records for item in record.instances]
        answers = self.ask([asked for asked, _ in pairs])
        shares = [_agreement(said, output) for said, (_, output) in zip(answers, pairs, strict=True)]
        return [_from(self.least, share, "inconsistent") for share in _means(records, shares)]


def _agreement(answers: Sequence[str], output: str) -> float:
    if not answers:
        raise UserError("`ask` gave no answer to a question: sample at least one")
    return sum(answer.strip() == output.strip() for answer in answers) / len(answers)


def _from(least: float, score: float | None, code: str) -> Verdict:
    return Verdict(code if score is not None and score < least else None, score)


@dataclass(frozen=True)
class RoundTrip:
    """Likeness of the instruction to the one that is written back from its instances; dropped below `least`.

    back: records -> an instruction for each. likeness: two instructions -> [0, 1]; ROUGE-L when nothing better is
    known, equality of behaviour where there is a world.
    """

    back: Callable[[Sequence[Any]], Sequence[str]]
    likeness: Callable[[str, str], float] = rouge_l
    least: float = 0.7
    name: ClassVar[str] = "roundtrip"
    higher_is_better: ClassVar[bool | None] = True

    def __call__(self, records: Sequence[Any]) -> list[Verdict]:
        verdicts = []
        for record, written in zip(records, self.back(records), strict=True):
            score = float(self.likeness(record.instruction, written))
            verdicts.append(Verdict("round trip" if score < self.least else None, score, f"back: {written[:60]!r}"))
        return verdicts


@dataclass(frozen=True)
class Difficulty:
    """IFD: how hard the answer remains when the instruction is known, as a ratio; above `most` the instruction does not
    help, and the record is dropped. Of the others only the `share` of highest ratio is kept (Cherry: 0.05 to 0.1).

    ratios: (question, answer) pairs -> a ratio each, as `difficulty_ratios` makes them.
    """

    ratios: Callable[[Sequence[Pair]], Sequence[float]]
    most: float = 1.0
    share: float = 1.0
    name: ClassVar[str] = "ifd"
    higher_is_better: ClassVar[bool | None] = None  # too high is as bad as too low

    def __call__(self, records: Sequence[Any]) -> list[Verdict]:
        pairs = [(question(record, item), item.output) for record in records for item in record.instances]
        scores = _means(records, self.ratios(pairs))
        below = sorted(score for score in scores if score is not None and score <= self.most)
        wanted = round(self.share * len(below))
        least = below[len(below) - wanted] if wanted else np.inf
        return [self._judge(score, least) for score in scores]

    def _judge(self, score: float | None, least: float) -> Verdict:
        if score is None or least <= score <= self.most:
            return Verdict(None, score)
        detail = "the instruction does not help" if not score <= self.most else "others are harder"
        return Verdict("quality", score if np.isfinite(score) else None, detail)


@dataclass(frozen=True)
class Diverse:
    """DEITA: by complexity times quality, best first, keep what has no cosine above `closest` to what is kept already,
    until there are `count`.

    complexity, quality: records -> numbers. embed: texts -> (N, C), rows of length 1. Score: the product.
    """

    complexity: Scorer
    quality: Scorer
    embed: Embedder
    count: int | None = None
    closest: float = 0.9
    name: ClassVar[str] = "deita"
    higher_is_better: ClassVar[bool | None] = True

    def __call__(self, records: Sequence[Any]) -> list[Verdict]:
        if not records:
            return []
        scores = np.asarray(self.complexity(records), dtype=float) * np.asarray(self.quality(records), dtype=float)
        order = np.argsort(-scores, kind="stable")
        vectors = self.embed([records[i].instruction for i in order])
        cosines, apart = admit_vectors(vectors, self.closest)
        verdicts: dict[int, Verdict] = {}
        kept = 0
        for i, cosine, keep in zip(order.tolist(), cosines, apart):
            score = float(scores[i])
            if not keep:
                verdicts[i] = Verdict("embedding", score, f"cosine {cosine:.3f} to a better one")
            elif self.count is not None and kept >= self.count:
                verdicts[i] = Verdict("quality", score, f"{self.count} better ones were kept")
            else:
                verdicts[i] = Verdict(None, score)
                kept += 1
        return [verdicts[i] for i in range(len(records))]


# Scores of a model of ours -------------------------------------------------------------------------------------------


def difficulty_ratios(loaded: LoadedModel, perplexity: bool = False) -> Callable[[Sequence[Pair]], np.ndarray]:
    """(question, answer) pairs -> IFD: mean loss of the answer after its question by the mean loss of the answer alone.

    perplexity: the ratio of the perplexities instead, exp(loss after the question - loss alone), as Superfiltering (Li
    et al. 2024) has it; both are 1 where the question does not matter. A question too long for the model is shortened
    from the left; an answer too long for it has the ratio infinity. Raises UserError for an encoder.
    """

    def ratios(pairs: Sequence[Pair]) -> np.ndarray:
        conversations = []
        for asked, answer in pairs:
            said = Message("assistant", answer)
            conversations += [Conversation((Message("user", asked), said)), Conversation((said,))]
        losses = np.array([-each.per_token for each in log_likelihood(loaded, conversations)])
        after, alone = losses[0::2], losses[1::2]
        result = np.full(len(alone), np.inf)
        fits = np.isfinite(alone)
        result[fits] = np.exp(after - alone)[fits] if perplexity else after[fits] / alone[fits]
        return result

    return ratios


def embedder(loaded: LoadedModel, batch_tokens: int = 8192) -> Embedder:
    """texts -> (N, C) float32 of length 1: the mean of the model's hidden vectors over a text. A language model's is a
    rough measure of likeness; a trained instruction encoder is a better one."""

    @torch.inference_mode()
    def embed(texts: Sequence[str]) -> np.ndarray:
        tokenizer, model = loaded.tokenizer, loaded.model
        rows = [torch.tensor([tokenizer.bos, *tokenizer.encode(text)][: model.config.context]) for text in texts]
        vectors = torch.zeros(len(rows), model.config.width)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        while order:
            size = max(1, batch_tokens // len(rows[order[-1]]))
            part, order = order[-size:], order[:-size]
            vectors[part] = _mean_hidden(model, [rows[i] for i in part])
        return torch.nn.functional.normalize(vectors, dim=1).numpy()

    return embed


def _mean_hidden(model: LanguageModel, rows: Sequence[Tensor]) -> Tensor:
    """(B, C) float32, on the CPU."""
    device = model.trunk.embedding.weight.device
    lengths = torch.tensor([len(row) for row in rows], device=device)
    ids = pad_sequence(list(rows), batch_first=True).to(device)
    inside = torch.arange(ids.shape[1], device=device) < lengths[:, None]
    hidden = model.trunk(ids).float() * inside[:, :, None]  # (B, T, C)
    return (hidden.sum(1) / lengths[:, None]).cpu()
