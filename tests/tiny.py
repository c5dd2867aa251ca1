"""Small runs for tests: a corpus that is written on the spot, and configurations that train in a second or two."""

from __future__ import annotations

import random
from pathlib import Path

WORDS = [
    *(
        "the",
        "of",
        "to",
        "is",
        "that",
        "for",
        "with",
        "not",
        "all",
        "return",
        "value",
        "list",
        "string",
        "object",
        "file",
    ),
    *(
        "name",
        "type",
        "function",
        "method",
        "class",
        "module",
        "error",
        "number",
        "key",
        "None",
        "指令",
        "模型",
        "语言",
    ),
]


def write_corpus(folder: Path, documents: int = 120, seed: int = 0) -> Path:
    """A folder of short text files."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(seed)
    for number in range(documents):
        words = generator.choices(WORDS, k=generator.randint(5, 60))
        (folder / f"{number:04d}.txt").write_text(" ".join(words) + ".\n", "utf-8")
    return folder


def tiny_overrides(folder: Path) -> list[str]:
    """Overrides that turn a pretraining configuration into a tiny one, below `folder`."""
    corpus = folder / "corpus"
    if not corpus.exists():
        write_corpus(corpus)
    return [
        f"data.corpus.paths=['{corpus}']",
        f"data.folder={folder / 'data'}",
        f"run={folder / 'run'}",
        "instruction_text=false",
        "data.tokenizer.vocab_size=400",
        "data.split.validation=0.1",
        "model.context=32",
        "model.width=32",
        "model.layers=2",
        "model.heads=2",
        "train.steps=8",
        "train.batch_size=4",
        "train.precision=float32",
        "train.compile=off",
        "train.threads=1",
        "train.log_every=1",
        "train.evaluate_every=4",
        "train.save_every=2",
        "schedule.warmup=2",
    ]
