"""Extractive question answering: the model reads a question and a text, and says where the answer begins and ends.

    python -m train.extract configs/demo/extract.toml [section.key=value ...]
    python -m train.extract predict runs/demo/extract FILE.jsonl [--out ANSWERS.jsonl]

Rows of the files are {"context": ..., "question": ..., "answer": ..., "start": character}. Where no file is named,
the context is three sentences of the built-in world and the question asks who did it, or to what it was done, in
English and Chinese.

A row is `<bos> question <end> context`. The context is cut into words (in Chinese, characters), and each is encoded by
itself: so an answer of whole words has tokens of its own in either language, and what the model finds is given back
letter by letter. Loss: the mean of two cross-entropies over the tokens of the context, of the start and of the end
(Devlin et al. 2019). The answer is the span of at most `longest` tokens with the highest sum of both log-probabilities.

What is measured, on held-out passages: `exact` (the words are those of the answer, case aside) and `f1` (mean overlap
of words, in Chinese characters, as SQuAD's; but articles and punctuation count).

What it leaves out: texts that do not fit into the context (their ends are cut off; a question whose answer stands
there is not trained on and counts as answered wrongly), and questions without an answer.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from configs import UserError, check, run_main
from data.batches import Batch
from data.formats import Row
from data.tokenizer import Tokenizer
from data.vocabulary import TokenizerConfig
from instruct.labelled import Passage, divide, passages, question_of, read_passages
from model.config import ModelConfig
from model.heads import SpanReader
from model.load import LoadedModel, model_files
from model.lora import LoraConfig
from train.distributed import Ranks
from train.objectives import LossTerms
from train.optim import OptimizerConfig, ScheduleConfig
from train.parallel import with_adapters
from train.run import TrainState
from train.stage import open_run, stage_main
from train.texts import TextRows, file_problems, in_epochs, predict_main, require_both, start_from, start_problems
from train.trainer import TrainConfig, Trainer

IDEOGRAPHS = "\u2e80-\ua4cf\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"\s*(?:[{IDEOGRAPHS}]|[^\W{IDEOGRAPHS}]+|[^\w\s])")  # with the space before it


@dataclass(frozen=True)
class PassageData:
    """Which passages.

    paths              files to train on; empty: passages of the world
    validation_paths   files to measure with; empty: a share of what is there
    validation         that share, chosen by a hash of the context
    count              of the world: passages
    """

    paths: tuple[str, ...] = ()
    validation_paths: tuple[str, ...] = ()
    validation: float = 0.1
    count: int = 2000

    def __post_init__(self):
        check(file_problems(self, "count"))


@dataclass(frozen=True)
class ExtractConfig:
    """A run of extractive question answering.

    init      run folder of the model whose trunk is tuned; "": a fresh one of [model], its [tokenizer] is learnt
    epochs    passes over the data; 0: `train.steps` decides
    longest   tokens of an answer, at most
    lora      adapters that are trained instead of the trunk of `init`
    """

    run: str = "runs/extract"
    init: str = ""
    seed: int = 0
    epochs: float = 5.0
    longest: int = 30
    data: PassageData = field(default_factory=PassageData)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self):
        problems = start_problems(self)
        check(problems + ([] if self.longest >= 1 else [f"longest must be positive, got {self.longest}"]))


# From characters to tokens and back ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoded:
    """A question and its context as ids. Of each token of the context, which begin at `begin`: the characters of its
    word, as (start, end) without the space before it.
    """

    ids: list[int]
    begin: int
    words: list[tuple[int, int]]
    context: str

    def tokens_of(self, start: int, end: int) -> tuple[int, int] | None:
        """Places in `ids` of the first and last token of the words that hold characters `start` to `end` (exclusive);
        None where they were cut off.
        """
        inside = [i for i, (first, last) in enumerate(self.words) if first < end and last > start]
        if not inside or self.words[inside[-1]][1] < end:
            return None
        return self.begin + inside[0], self.begin + inside[-1]

    def text_of(self, first: int, last: int) -> tuple[int, str]:
        """The inverse: where the words of these tokens begin, and what they say."""
        start, end = self.words[first - self.begin][0], self.words[last - self.begin][1]
        return start, self.context[start:end]


def encode_passage(context: str, question: str, tokenizer: Tokenizer, length: int) -> Encoded:
    """`<bos> question <end> context` in at most `length` ids: a question of more than half of it is cut, then the
    context, between words.
    """
    ids = [tokenizer.bos, *tokenizer.encode(question)[: length // 2 - 2], tokenizer.end]
    begin, words = len(ids), []
    found = list(WORD.finditer(context))
    for match, pieces in zip(found, tokenizer.encode_batch([match.group() for match in found])):
        if len(ids) + len(pieces) > length:
            if words:
                break
            pieces = pieces[: length - len(ids)]  # of a first word that is too long by itself
        ids += pieces
        space = len(match.group()) - len(match.group().lstrip())
        words += [(match.start() + space, match.end())] * len(pieces)
    return Encoded(ids, begin, words, context)


def parts(text: str) -> list[str]:
    """Its words (in Chinese, characters) and marks, case aside: what two answers are compared by."""
    return [word for match in WORD.finditer(text.casefold()) if (word := match.group().strip())]


def overlap(answer: str, expected: str) -> float:
    """F1 of the words that two texts share."""
    one, other = Counter(parts(answer)), Counter(parts(expected))
    return 2 * (one & other).total() / max(one.total() + other.total(), 1)


# Learning and measuring ----------------------------------------------------------------------------------------------


def span_finding(model: SpanReader, batch: Batch) -> LossTerms:
    """The mean over passages of both cross-entropies; `batch.targets` (B, 2) are the places of the first and the last
    token, `batch.weights` say where they may be.
    """
    losses = span_losses(scores_of(model, batch), batch.targets)
    return LossTerms(losses.sum(), losses.new_tensor(len(losses)))


def scores_of(model: SpanReader, batch: Batch) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, T) of the places of start and end."""
    return model(batch.tokens, batch.weights > 0, batch.documents, batch.positions)


def span_losses(scores: tuple[Tensor, Tensor], places: Tensor) -> Tensor:
    """Two log-probabilities (B, T) and the right places (B, 2) -> (B,) nats."""
    return -torch.stack([score.gather(1, place[:, None])[:, 0] for score, place in zip(scores, places.T)]).mean(0)


def best_span(start: Tensor, end: Tensor, longest: int) -> tuple[int, int, float]:
    """The first and the last place, at most `longest` apart, with the highest start (T,) + end (T,), and that sum."""
    T = len(start)
    places = torch.arange(T, device=start.device)
    length = places - places[:, None] + 1  # (T, T): of the span from the row to the column
    scores = (start[:, None] + end).masked_fill((length < 1) | (length > longest), -torch.inf)
    best = int(scores.argmax())
    return best // T, best % T, float(scores.flatten()[best])


def rows_of(passages: Sequence[Encoded], spans: Sequence[tuple[int, int]], context: int, pad: int) -> TextRows:
    targets = torch.tensor([*spans]).reshape(-1, 2)
    return TextRows([each.ids for each in passages], targets, context, pad, [each.begin for each in passages])


@torch.no_grad()
def measure(
    model: SpanReader, rows: TextRows, encoded: Sequence[Encoded], answers: Sequence[str], longest: int, ranks: Ranks
) -> dict[str, float]:
    """{"loss", "exact", "f1"}, sums over all rows; each rank does its part."""
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=ranks.device)
    for batch in rows.batches_of(ranks, ranks.device):
        scores = scores_of(model, batch)
        sums[0] += span_losses(scores, batch.targets).sum()
        for sample, start, end in zip(batch.samples.tolist(), *scores):
            first, last, _ = best_span(start, end, longest)
            said = encoded[sample].text_of(first, last)[1]
            sums[1] += parts(said) == parts(answers[sample])
            sums[2] += overlap(said, answers[sample])
    return dict(zip(("loss", "exact", "f1"), ranks.sum(sums).tolist()))


# The run -------------------------------------------------------------------------------------------------------------


def read_data(config: ExtractConfig) -> tuple[list[Passage], list[Passage]]:
    """Passages to train on and held-out ones."""
    data = config.data
    found = [each for path in data.paths for each in read_passages(path)]
    if data.validation_paths:
        train, held_out = found, [each for path in data.validation_paths for each in read_passages(path)]
    else:
        found = found if data.paths else passages(data.count, config.seed)
        train, held_out = divide(found, data.validation, lambda each: each.context)
    require_both(train, held_out, ", ".join(data.paths) or f"data.count={data.count} passages of the world")
    return train, held_out


def encode_all(
    found: Sequence[Passage], tokenizer: Tokenizer, context: int
) -> tuple[list[Encoded], list[tuple[int, int]], list[str]]:
    """Those whose answer fits into the context, encoded, with the places and the texts of their answers."""
    kept = []
    for each in found:
        encoded = encode_passage(each.context, each.question, tokenizer, context)
        span = encoded.tokens_of(each.start, each.start + len(each.answer))
        if span:
            kept.append((encoded, span, each.answer))
    if not kept:
        raise UserError(f"no answer stands within the first {context} tokens; use a model of a larger context")
    encoded, spans, answers = map(list, zip(*kept))
    return encoded, spans, answers


def build_trainer(config: ExtractConfig, ranks: Ranks, fresh: bool = False) -> Trainer:
    """Everything a run needs, from its configuration."""
    train, held_out = read_data(config)
    texts = [text for each in train for text in (each.context, each.question)]
    start = start_from(config.init, config.model, config.tokenizer, texts, ranks)
    tokenizer, context = start.tokenizer, start.config.context
    encoded, spans, _ = encode_all(train, tokenizer, context)
    held_encoded, held_spans, answers = encode_all(held_out, tokenizer, context)
    rows = rows_of(encoded, spans, context, tokenizer.pad)
    held_rows = rows_of(held_encoded, held_spans, context, tokenizer.pad)
    if ranks.is_main:
        cut = len(train) - len(rows), len(held_out) - len(held_rows)
        print(f"{len(rows)} passages to train on, {len(held_rows)} held out; {cut[0]} and {cut[1]} more are too long")
    torch.manual_seed(config.seed)
    model = SpanReader(start.config)
    start.give(model)
    with_adapters(model, config.lora, config.train.parallel, config.seed, ranks)
    run = open_run(config, ranks, fresh)

    def evaluate() -> dict[str, float]:
        sums = measure(model, held_rows, held_encoded, answers, config.longest, ranks)
        counts = {"loss": len(held_rows), "exact": len(held_out), "f1": len(held_out)}
        return {name: total / counts[name] for name, total in sums.items()}

    return Trainer(
        config=in_epochs(config.train, config.epochs, len(rows)),
        optimizer=config.optimizer,
        schedule=config.schedule,
        model=model,
        objective=span_finding,
        rows=rows,
        run=run,
        ranks=ranks,
        files=lambda: model_files(model, tokenizer, start.chat),
        evaluate=evaluate,
        seed=config.seed,
    )


def extract(config: ExtractConfig, ranks: Ranks, fresh: bool = False) -> TrainState:
    """Train one model as `config` says; returns the state that was reached."""
    return build_trainer(config, ranks, fresh).fit()


# New questions -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def answer(loaded: LoadedModel, asked: Sequence[tuple[str, str]], longest: int = 30) -> list[tuple[int, str, float]]:
    """Of each (context, question): the character where the answer begins, the answer, and its probability."""
    length, tokenizer, model = loaded.model.config.context, loaded.tokenizer, loaded.model
    encoded = [encode_passage(context, question, tokenizer, length) for context, question in asked]
    rows = rows_of(encoded, [(0, 0)] * len(encoded), length, tokenizer.pad)
    found = []
    for batch in rows.batches_of(Ranks(), model.trunk.embedding.weight.device):
        for sample, start, end in zip(batch.samples.tolist(), *scores_of(model, batch)):
            first, last, score = best_span(start, end, longest)
            found.append((*encoded[sample].text_of(first, last), math.exp(score)))
    return found


def predictions(loaded: LoadedModel, rows: list[tuple[str, Row]]) -> Iterator[dict[str, Any]]:
    """Of each row its question with {"answer", "start", "probability"}."""
    asked = [question_of(row, place) for place, row in rows]
    for (_, question), (start, said, probability) in zip(asked, answer(loaded, asked)):
        yield {"question": question, "answer": said, "start": start, "probability": probability}


def main(argv: list[str]) -> None:
    if argv[:1] == ["predict"]:
        predict_main(argv[1:], "extract", ["spans"], predictions)
    else:
        description = "Tune a model to find answers. For new questions: python -m train.extract predict RUN FILE"
        stage_main(argv, "extract", ExtractConfig, extract, description)


if __name__ == "__main__":
    run_main(main)
