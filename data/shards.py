"""Token shards: a corpus on disk as plain arrays of token ids, written and read with bounded memory.

A shard folder holds, for each split (`train`, `validation`):

    train-00000.tokens   uint16 (vocabularies up to 65,536) or uint32, little endian: documents one after another,
    train-00001.tokens   each as <bos> text <eos>; a file ends at a document's end
    train.documents      int64: where each document starts in the split's whole stream, and the end of the last one
    tokenizer.model      the tokenizer that wrote the ids
    manifest.json        counts, bytes of text, sha256 of every file; written last

The folder is written under a temporary name and renamed when it is complete, so a half-written one is never read.
Reading uses `os.pread`, not a memory map: resident memory does not grow with the corpus (nanoGPT#287, nanoGPT#428).

Run it:  python -m data.shards OUT [CORPUS PATHS...] [--tokenizer MODEL | --vocab-size N]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from configs import UserError, check, run_main
from data.corpus import CorpusConfig, Document, documents
from data.tokenizer import Tokenizer, TokenizerConfig

FORMAT = "zhiling-shards-1"
SPLITS = ("train", "validation")
ENCODE_CHARACTERS = 1 << 20  # text encoded in one call of the tokenizer: bounds memory, feeds its threads


@dataclass(frozen=True)
class SplitConfig:
    """How documents are divided: `validation` is the share held out.

    `by = "document"` decides by a hash of the text, so that equal texts fall on one side, whatever the order of files.
    `by = "tail"` holds out the last share of each document's characters: for a corpus that is one long text.
    """

    validation: float = 0.05
    by: Literal["document", "tail"] = "document"
    shard_tokens: int = 1 << 26

    def __post_init__(self):
        problems = []
        if not 0 < self.validation < 1:
            problems.append(f"validation must lie between 0 and 1, got {self.validation}")
        if self.shard_tokens < 1:
            problems.append(f"shard_tokens must be positive, got {self.shard_tokens}")
        check(problems)


def split_document(document: Document, config: SplitConfig) -> list[tuple[str, str]]:
    """The parts of a document as (split, text)."""
    text = document.text
    if config.by == "tail":
        cut = round(len(text) * (1 - config.validation))
        return [(name, part) for name, part in (("train", text[:cut]), ("validation", text[cut:])) if part]
    digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return [("validation" if digest < config.validation * 2**64 else "train", text)]


# Writing -------------------------------------------------------------------------------------------------------------


class _SplitWriter:
    """Appends documents of one split to its shard files and keeps the counts and hashes for the manifest."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype, shard_tokens: int):
        self.folder, self.name, self.dtype, self.shard_tokens = folder, name, dtype, shard_tokens
        self.files: list[dict] = []
        self.tokens = self.documents = self.bytes = 0
        self.handle = None
        self.starts = open(folder / f"{name}.documents", "wb")
        self.starts.write(np.int64(0).tobytes())

    def add(self, ids: np.ndarray, text_bytes: int) -> None:
        if self.handle is None or self.files[-1]["tokens"] >= self.shard_tokens:
            self._close_shard()
            self.files.append({"name": f"{self.name}-{len(self.files):05d}.tokens", "tokens": 0})
            self.handle = open(self.folder / self.files[-1]["name"], "wb")
        self.handle.write(ids.astype(self.dtype).tobytes())
        self.files[-1]["tokens"] += len(ids)
        self.tokens += len(ids)
        self.bytes += text_bytes
        self.documents += 1
        self.starts.write(np.int64(self.tokens).tobytes())

    def _close_shard(self) -> None:
        if self.handle is not None:
            self.handle.close()

    def close(self) -> dict:
        self._close_shard()
        self.starts.close()
        for entry in self.files:
            entry["sha256"] = file_sha256(self.folder / entry["name"])
        starts = f"{self.name}.documents"
        return {
            "tokens": self.tokens,
            "documents": self.documents,
            "bytes": self.bytes,
            "files": self.files,
            "starts": {"name": starts, "sha256": file_sha256(self.folder / starts)},
        }


def write_shards(
    corpus: Iterable[Document],
    tokenizer: Tokenizer,
    folder: str | Path,
    config: SplitConfig | None = None,
    progress: bool = False,
) -> dict:
    """Tokenize a corpus into a shard folder and return its manifest.

    Raises `UserError` when a split comes out empty. On any failure (no disk space, a broken input line) nothing is
    left behind.
    """
    config = config or SplitConfig()
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        manifest = _write_into(temporary, corpus, tokenizer, config, progress)
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return manifest


def _write_into(
    folder: Path, corpus: Iterable[Document], tokenizer: Tokenizer, config: SplitConfig, progress: bool
) -> dict:
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    writers = {name: _SplitWriter(folder, name, dtype, config.shard_tokens) for name in SPLITS}
    with tqdm(desc="tokenize", unit="B", unit_scale=True, disable=not progress) as bar:
        for parts in _chunks(part for document in corpus for part in split_document(document, config)):
            encoded = tokenizer.encode_batch([text for _, text in parts])
            for (name, text), ids in zip(parts, encoded):
                size = len(text.encode())
                writers[name].add(np.array([tokenizer.bos, *ids, tokenizer.eos]), size)
                bar.update(size)
    splits = {name: writer.close() for name, writer in writers.items()}
    for name, split in splits.items():
        if not split["tokens"]:
            total = sum(s["documents"] for s in splits.values())
            raise UserError(
                f"the {name} split is empty ({total} documents in the corpus); give more text, "
                "another share `split.validation`, or `split.by=tail` for a corpus that is one long text"
            )
    tokenizer.save(folder / "tokenizer.model")
    manifest = {
        "format": FORMAT,
        "tokenizer_sha256": tokenizer.sha256,
        "vocab_size": tokenizer.vocab_size,
        "dtype": dtype.str,
        "splits": splits,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), "utf-8")
    return manifest


def _chunks(parts: Iterator[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    chunk, size = [], 0
    for part in parts:
        chunk.append(part)
        size += len(part[1])
        if size >= ENCODE_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


# Reading -------------------------------------------------------------------------------------------------------------


def file_sha256(path: str | Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class TokenStream:
    """One split of a shard folder as one long stream of token ids.

    `stream.read(start, length)` gives int64 (length,); `stream.starts` is int64 (documents + 1,), a memory map.
    """

    def __init__(self, folder: str | Path, split: str, manifest: dict):
        entry = manifest["splits"][split]
        self.folder, self.dtype = Path(folder), np.dtype(manifest["dtype"])
        self.tokens, self.documents, self.bytes = entry["tokens"], entry["documents"], entry["bytes"]
        self.starts = np.memmap(self.folder / entry["starts"]["name"], "<i8", mode="r")
        self._first = np.cumsum([0] + [file["tokens"] for file in entry["files"]])
        self._handles = [open(self.folder / file["name"], "rb", buffering=0) for file in entry["files"]]

    def read(self, start: int, length: int) -> np.ndarray:
        pieces, end = [], start + length
        while start < end:
            shard = int(np.searchsorted(self._first, start, side="right")) - 1
            count = min(end, int(self._first[shard + 1])) - start
            offset = (start - int(self._first[shard])) * self.dtype.itemsize
            raw = os.pread(self._handles[shard].fileno(), count * self.dtype.itemsize, offset)
            pieces.append(np.frombuffer(raw, self.dtype))
            start += count
        return (pieces[0] if len(pieces) == 1 else np.concatenate(pieces)).astype(np.int64)


def read_manifest(folder: str | Path, verify: bool = False) -> dict:
    """The manifest of a shard folder. With `verify`, every file's hash is checked too.

    Raises `UserError` when the folder is missing, of another format, or damaged.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        files = [file for s in manifest["splits"].values() for file in (*s["files"], s["starts"])]
        known = manifest["format"] == FORMAT
    except FileNotFoundError:
        raise UserError(
            f"{folder} is not a folder of token shards (no manifest.json); write one with data.shards"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{folder}/manifest.json is damaged; delete the folder and write it again") from None
    if not known:
        raise UserError(
            f"{folder} has shard format {manifest['format']!r}, this version reads {FORMAT!r}; write it again"
        )
    item = np.dtype(manifest["dtype"]).itemsize
    for file in files:
        path = folder / file["name"]
        size = file.get("tokens", 0) * item
        if (
            not path.exists()
            or (size and path.stat().st_size != size)
            or (verify and file_sha256(path) != file["sha256"])
        ):
            raise UserError(f"{path} is missing or damaged; delete the folder {folder} and write it again")
    return manifest


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m data.shards", description="Tokenize a corpus into shards.")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("paths", nargs="*", help="text files, folders, .jsonl[.gz]; nothing: the built-in corpus")
    parser.add_argument("--tokenizer", help="tokenizer model to use; without it one is trained on the corpus")
    parser.add_argument("--vocab-size", type=int, default=4096, help="of the tokenizer that is trained")
    parser.add_argument("--validation", type=float, default=0.05, help="share of documents held out")
    arguments = parser.parse_args(argv)
    corpus = CorpusConfig(paths=tuple(arguments.paths))
    if arguments.tokenizer:
        tokenizer = Tokenizer.load(arguments.tokenizer)
    else:
        config = TokenizerConfig(vocab_size=arguments.vocab_size)
        tokenizer = Tokenizer.train((d.text for d in documents(corpus)), config, progress=True)
    split = SplitConfig(validation=arguments.validation)
    manifest = write_shards(documents(corpus), tokenizer, arguments.out, split, progress=True)
    for name, entry in manifest["splits"].items():
        ratio = entry["bytes"] / entry["tokens"]
        print(f"{name}: {entry['documents']:,} documents, {entry['tokens']:,} tokens, {ratio:.2f} bytes per token")


if __name__ == "__main__":
    run_main(main)
