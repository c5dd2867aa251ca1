"""Classification: a pretrained trunk, or a fresh one, learns the labels of texts.

    python -m train.classify configs/demo/classify.toml [section.key=value ...]
    python -m train.classify configs/demo/classify.toml init= data.paths=['mine.jsonl'] loss=cross_entropy
    python -m train.classify predict runs/demo/classify FILE.jsonl [--out LABELS.jsonl]

Rows of the files are {"text" or "instruction": ..., "label": ...} or {..., "labels": [...]}. Where no file is named,
the texts are instructions of the built-in world and the label is the family of the operation ("numbers", "sentence",
"calendar", ...), in English and Chinese; the held-out ones use phrases that training never shows.

    loss = "cross_entropy"   exactly one label a text
    loss = "binary"          each class is a yes or no of its own: several labels a text, one, or none

What is measured, on held-out texts: `accuracy` (the likeliest class is right), `macro_f1` (the mean of the F1 of all
classes that occur or are named), and for "binary", which names every class above one half, `exact_match` (all named,
and no other) and `micro_f1` (F1 over all decisions). `RUN/report.json` has the counts of each class.

What it leaves out: class weights, thresholds other than one half, texts beyond the context (they are cut, and counted).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from configs import UserError, check, run_main
from data.batches import Batch
from data.formats import Row
from data.vocabulary import TokenizerConfig
from instruct.labelled import Labelled, divide, families, read_labelled, text_of
from model.config import ModelConfig
from model.embedder import text_ids
from model.heads import Classifier
from model.load import LoadedModel, model_files
from model.lora import LoraConfig
from train.distributed import Ranks
from train.objectives import LossTerms
from train.optim import OptimizerConfig, ScheduleConfig
from train.parallel import with_adapters
from train.run import TrainState, write_text
from train.stage import open_run, stage_main
from train.texts import (
    TextRows,
    encode_texts,
    file_problems,
    in_epochs,
    predict_main,
    require_both,
    start_from,
    start_problems,
)
from train.trainer import TrainConfig, Trainer

REPORT = "report.json"


@dataclass(frozen=True)
class LabelData:
    """Which texts.

    paths              files to train on; empty: instructions of the world
    validation_paths   files to measure with; empty: a share of `paths`
    validation         that share, chosen by a hash of the text
    phrasings          of the world: wordings of each operation in each language, at most
    """

    paths: tuple[str, ...] = ()
    validation_paths: tuple[str, ...] = ()
    validation: float = 0.1
    phrasings: int = 20

    def __post_init__(self):
        check(file_problems(self, "phrasings"))


@dataclass(frozen=True)
class ClassifyConfig:
    """A classification run.

    init      run folder of the model whose trunk is tuned; "": a fresh one of [model], its [tokenizer] is learnt
    lora      adapters that are trained instead of the trunk of `init`
    loss      "cross_entropy" or "binary", see the head of the module
    epochs    passes over the data; 0: `train.steps` decides
    """

    run: str = "runs/classify"
    init: str = ""
    seed: int = 0
    loss: Literal["cross_entropy", "binary"] = "cross_entropy"
    epochs: float = 5.0
    data: LabelData = field(default_factory=LabelData)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self):
        check(start_problems(self))


# Data ----------------------------------------------------------------------------------------------------------------


def read_data(config: ClassifyConfig) -> tuple[list[Labelled], list[Labelled]]:
    """Texts to train on and held-out ones. Raises UserError where they do not go with the loss."""
    data = config.data
    if not data.paths:
        return families(data.phrasings, config.seed)
    found = [each for path in data.paths for each in read_labelled(path)]
    if data.validation_paths:
        train, held_out = found, [each for path in data.validation_paths for each in read_labelled(path)]
    else:
        train, held_out = divide(found, data.validation, lambda each: each.text)
    require_both(train, held_out, ", ".join(data.paths))
    wrong = next((each for each in train + held_out if len(each.labels) != 1), None)
    if wrong and config.loss == "cross_entropy":
        raise UserError(f"{wrong.origin}: {len(wrong.labels)} labels; one is needed, or set loss=binary")
    return train, held_out


def indicators(texts: Sequence[Labelled], classes: Sequence[str]) -> Tensor:
    """(texts, N) float32: 1 for the classes of each text."""
    number = {name: i for i, name in enumerate(classes)}
    found = torch.zeros(len(texts), len(classes))
    for row, text in enumerate(texts):
        found[row, [number[label] for label in text.labels]] = 1
    return found


# Learning and measuring ----------------------------------------------------------------------------------------------


def classification(model: Classifier, batch: Batch) -> LossTerms:
    """The mean over texts of their loss; `batch.targets` (B, N)."""
    losses = model.losses(model(batch.tokens, batch.documents, batch.positions), batch.targets)
    return LossTerms(losses.sum(), losses.new_tensor(len(losses)))


def named(model: Classifier, logits: Tensor) -> Tensor:
    """The classes that the model names: logits (B, N) -> bool (B, N)."""
    if model.multiple:
        return logits > 0
    return torch.zeros_like(logits, dtype=torch.bool).scatter(1, logits.argmax(1, keepdim=True), True)


@dataclass(frozen=True)
class Measure:
    """Sums over held-out texts. Of each class (N,): in how many texts it is right, is named, and both."""

    texts: float
    loss: float
    top_right: float
    all_right: float
    right: Tensor
    named: Tensor
    both: Tensor
    multiple: bool

    def f1(self) -> Tensor:
        """(N,); 0 where a class neither is right anywhere nor is named."""
        return 2 * self.both / (self.right + self.named).clamp(min=1)

    def figures(self) -> dict[str, float]:
        occurs = self.right + self.named > 0
        found = {
            "loss": self.loss / self.texts,
            "accuracy": self.top_right / self.texts,
            "macro_f1": float(self.f1()[occurs].mean()) if occurs.any() else 0.0,
        }
        if self.multiple:
            micro = 2 * self.both.sum() / (self.right.sum() + self.named.sum()).clamp(min=1)
            found |= {"exact_match": self.all_right / self.texts, "micro_f1": float(micro)}
        return found

    def report(self, classes: Sequence[str], trained: Sequence[int]) -> dict[str, Any]:
        """The figures, and for each class its counts: texts trained on, held-out texts that have it, named, both."""
        rows = zip(classes, trained, self.right.int().tolist(), self.named.int().tolist(), self.both.int().tolist())
        f1 = self.f1().tolist()
        table = {
            name: {"trained": known, "texts": right, "named": named, "right": both, "f1": f1[i]}
            for i, (name, known, right, named, both) in enumerate(rows)
        }
        return {**self.figures(), "texts": int(self.texts), "classes": table}


@torch.no_grad()
def measure(model: Classifier, rows: TextRows, ranks: Ranks) -> Measure:
    """All rows, each rank its part."""
    model.eval()
    N = len(model.classes)
    sums = torch.zeros(4 + 3 * N, dtype=torch.float64, device=ranks.device)
    for batch in rows.batches_of(ranks, ranks.device):
        logits, right = model(batch.tokens, batch.documents, batch.positions), batch.targets > 0
        found = named(model, logits)
        top = right.gather(1, logits.argmax(1, keepdim=True)).sum()
        exact = (found == right).all(1).sum()
        loss = model.losses(logits, batch.targets).sum()
        sums[:4] += torch.stack([loss.new_tensor(len(logits)), loss, top, exact]).double()
        sums[4:] += torch.cat([right.sum(0), found.sum(0), (right & found).sum(0)])
    sums = ranks.sum(sums).cpu()
    return Measure(*sums[:4].tolist(), *sums[4:].split(N), model.multiple)


# The run -------------------------------------------------------------------------------------------------------------


def build_trainer(config: ClassifyConfig, ranks: Ranks, fresh: bool = False) -> Trainer:
    """Everything a run needs, from its configuration."""
    train, held_out = read_data(config)
    classes = sorted({label for each in train + held_out for label in each.labels})
    if len(classes) < (2 if config.loss == "cross_entropy" else 1):
        raise UserError(f"all texts have the same labels ({', '.join(classes) or 'none'}): there is nothing to learn")
    start = start_from(config.init, config.model, config.tokenizer, [each.text for each in train], ranks)
    tokenizer, context = start.tokenizer, start.config.context
    made = []
    for texts in (train, held_out):
        ids, cut = encode_texts([each.text for each in texts], tokenizer, context)
        made.append(TextRows(ids, indicators(texts, classes), context, tokenizer.pad))
        if ranks.is_main and cut:
            print(f"{cut} of {len(ids)} texts are longer than the context of {context} tokens: their ends are cut off")
    rows, held_rows = made
    if ranks.is_main:
        print(f"{len(rows)} texts to train on, {len(held_rows)} held out, {len(classes)} classes")
    torch.manual_seed(config.seed)
    model = Classifier(start.config, classes, config.loss == "binary")
    start.give(model)
    with_adapters(model, config.lora, config.train.parallel, config.seed, ranks)
    run = open_run(config, ranks, fresh)

    def evaluate() -> dict[str, float]:
        found = measure(model, held_rows, ranks)
        if ranks.is_main:
            report = found.report(classes, rows.targets.sum(0).int().tolist())
            write_text(run.path / REPORT, json.dumps(report, indent=1, ensure_ascii=False))
        return found.figures()

    return Trainer(
        config=in_epochs(config.train, config.epochs, len(rows)),
        optimizer=config.optimizer,
        schedule=config.schedule,
        model=model,
        objective=classification,
        rows=rows,
        run=run,
        ranks=ranks,
        files=lambda: model_files(model, tokenizer, start.chat),
        evaluate=evaluate,
        seed=config.seed,
    )


def classify(config: ClassifyConfig, ranks: Ranks, fresh: bool = False) -> TrainState:
    """Train one model as `config` says; returns the state that was reached."""
    trainer = build_trainer(config, ranks, fresh)
    state = trainer.fit()
    report = trainer.run.path / REPORT
    if ranks.is_main and state.finished and report.exists():
        print(as_table(json.loads(report.read_text("utf-8"))))
    return state


def as_table(report: dict[str, Any]) -> str:
    """A report for people."""
    lines = [f"{'class':<24}{'trained':>9}{'texts':>8}{'named':>8}{'right':>8}{'F1':>8}"]
    for name, row in report["classes"].items():
        counts = f"{row['trained']:>9}{row['texts']:>8}{row['named']:>8}{row['right']:>8}"
        lines.append(f"{name:<24}{counts}{row['f1']:>8.3f}")
    figures = {name: value for name, value in report.items() if isinstance(value, float)}
    return "\n".join([*lines, ", ".join(f"{name} {value:.4f}" for name, value in figures.items())])


# New texts -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def predict(loaded: LoadedModel, texts: Sequence[str]) -> Tensor:
    """Probabilities (texts, N) of the classes `loaded.model.classes`, on the CPU; of one text or more."""
    model, tokenizer, context = loaded.model, loaded.tokenizer, loaded.model.config.context
    ids = text_ids(texts, tokenizer, context)
    rows = TextRows(ids, torch.zeros(len(ids), 0), context, tokenizer.pad)
    batches = rows.batches_of(Ranks(), model.trunk.embedding.weight.device)
    logits = torch.cat([model(batch.tokens, batch.documents, batch.positions) for batch in batches])
    return (logits.sigmoid() if model.multiple else logits.softmax(1)).cpu()


def predictions(loaded: LoadedModel, rows: list[tuple[str, Row]]) -> Iterator[dict[str, Any]]:
    """Of each row its text with {"label", "probability"}, or {"labels", "probabilities"} of a multi-label model."""
    classes, texts = loaded.model.classes, [text_of(row, place) for place, row in rows]
    for text, shares in zip(texts, predict(loaded, texts).tolist()):
        if loaded.model.multiple:
            each = dict(zip(classes, shares))
            yield {"text": text, "labels": [name for name in classes if each[name] > 0.5], "probabilities": each}
        else:
            best = max(range(len(classes)), key=shares.__getitem__)
            yield {"text": text, "label": classes[best], "probability": shares[best]}


def main(argv: list[str]) -> None:
    if argv[:1] == ["predict"]:
        predict_main(argv[1:], "classify", ["classes"], predictions)
    else:
        description = "Tune a model to label texts. To label new ones: python -m train.classify predict RUN FILE"
        stage_main(argv, "classify", ClassifyConfig, classify, description)


if __name__ == "__main__":
    run_main(main)
