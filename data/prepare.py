"""From a corpus to token shards, once: what a training stage calls before it starts.

The folder's name is a fingerprint of everything that its content depends on (corpus settings and the sizes and times
of its files, or the version of Python whose documentation it is; tokenizer settings; split), so a changed setting makes
a new folder and an unchanged one is used again. Under `torchrun` the first rank of each machine writes it and the
others wait: it appears by an atomic rename. Machines that share the folder may all write it; the first one wins.

What it leaves out: files are compared by name, size and time, not read; whoever changes one and sets its time back gets
the old shards.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from configs import UserError, check, to_dict
from data.corpus import CorpusConfig, documents
from data.shards import (
    FORMAT,
    SplitConfig,
    TokenStream,
    describe_shards,
    read_manifest,
    split_document,
    write_shards,
)
from data.tokenizer import Tokenizer, TokenizerConfig

WAIT_SECONDS = 3600  # longest time that other ranks wait for the writing one


@dataclass(frozen=True)
class DataConfig:
    """Which text, which tokenizer, which split.

    `tokenizer_model` names an existing model file; without it one is trained on the training split.
    """

    folder: str = "runs/data"
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    tokenizer_model: str | None = None

    def __post_init__(self):
        check(["folder must not be empty"] if not self.folder else [])


@dataclass(frozen=True)
class PreparedData:
    """A shard folder with its tokenizer."""

    folder: Path
    manifest: dict
    tokenizer: Tokenizer

    def stream(self, split: str) -> TokenStream:
        return TokenStream(self.folder, split, self.manifest)


class ExtraText(NamedTuple):
    """Texts that only the tokenizer sees, such as the instructions that a later stage makes from the documentation.

    `name` stands for them in the fingerprint.
    """

    name: str
    texts: Callable[[], Iterable[str]]


def fingerprint(config: DataConfig, extra: ExtraText | None = None) -> str:
    """Sixteen hexadecimal digits that change when the shards would."""
    described = {key: value for key, value in to_dict(config).items() if key != "folder"}
    named = (*config.corpus.paths, *filter(None, [config.tokenizer_model]))
    stamps = [_stamp(Path(path)) for path in named]
    reads_documentation = not config.corpus.paths or extra is not None
    python = platform.python_version() if reads_documentation else None
    text = json.dumps([FORMAT, described, stamps, python, extra.name if extra else None], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _stamp(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of a file, or of every file below a folder."""
    if not path.exists():
        raise UserError(f"there is no file or folder {path}; correct the path in the configuration")
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files]


def prepare(
    config: DataConfig, extra: ExtraText | None = None, writes: bool = True, progress: bool = False
) -> PreparedData:
    """The shards that `config` describes, written if they do not exist yet (by the caller whose `writes` is true).

    That caller also compares every file with its hash, which reads all of them once: about a second for a gigabyte.
    Raises `UserError` when one is damaged.
    """
    folder = Path(config.folder) / fingerprint(config, extra)
    if writes and not folder.exists():
        _write(config, extra, folder, progress)
    _wait_for(folder)
    manifest = read_manifest(folder, verify=writes)
    tokenizer = Tokenizer.load(folder / "tokenizer.model")
    if (tokenizer.sha256, tokenizer.vocab_size) != (manifest["tokenizer_sha256"], manifest["vocab_size"]):
        raise UserError(f"{folder}/tokenizer.model is not the tokenizer of these shards; delete {folder}")
    return PreparedData(folder, manifest, tokenizer)


def _wait_for(folder: Path) -> None:
    started = time.monotonic()
    while not folder.exists():
        if time.monotonic() - started > WAIT_SECONDS:
            raise UserError(
                f"waited {WAIT_SECONDS} s for {folder}, which the first rank should have written; see its output"
            )
        time.sleep(0.2)


def _write(config: DataConfig, extra: ExtraText | None, folder: Path, progress: bool) -> None:
    if config.tokenizer_model:
        tokenizer = Tokenizer.load(config.tokenizer_model)
    else:
        parts = (part for document in documents(config.corpus) for part in split_document(document, config.split))
        texts = (text for split, text in parts if split == "train")  # what is held out stays unseen
        tokenizer = Tokenizer.train(chain(texts, extra.texts() if extra else ()), config.tokenizer, progress)
    write_shards(documents(config.corpus), tokenizer, folder, config.split, progress, replace=False)


def describe(data: PreparedData) -> str:
    """One line a split: documents, tokens, bytes per token."""
    return describe_shards(data.manifest)
