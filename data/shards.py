"""Token shards: a corpus on disk as plain arrays of token ids, written and read with bounded memory.

A shard folder holds, for each split (`train`, `validation`):

    train-00000.tokens   uint16 (vocabularies up to 65,536) or uint32, little endian: documents one after another,
    train-00001.tokens   each as <bos> text <eos>; a file ends at a document's end
    train.documents      int64: where each document starts in the split's whole stream, and the end of the last one
    tokenizer.model      the tokenizer that wrote the ids
    manifest.json        counts, bytes of text, sha256 of every file; written last

The folder is written under a temporary name and renamed when it is complete (`data.files.whole_folder`), so a
half-written one is never read. Memory is bounded by the longest document: reading uses `os.pread`, not a memory map,
whose resident memory grows with what was read of the corpus (nanoGPT#287, nanoGPT#428).

Run it:  python -m data.shards OUT [CORPUS PATHS...] [--tokenizer MODEL | --vocab-size N]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from tqdm import tqdm

from configs import UserError, check, run_main
from data.corpus import CorpusConfig, Document, documents
from data.files import whole_folder
from data.tokenizer import Tokenizer, TokenizerConfig

FORMAT = "zhiling-shards-1"
MANIFEST = "manifest.json"
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
    """Appends documents of one split to its shard files and keeps the counts for the manifest."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype, shard_tokens: int):
        self.folder, self.name, self.dtype, self.shard_tokens = folder, name, dtype, shard_tokens
        self.files: list[dict] = []
        self.tokens = self.documents = self.bytes = 0
        self.shard: BinaryIO | None = None
        self.starts = open(folder / f"{name}.documents", "wb")
        self.starts.write(np.zeros(1, "<i8").tobytes())

    def add(self, ids: np.ndarray, text_bytes: int) -> None:
        if self.shard is None or self.files[-1]["tokens"] >= self.shard_tokens:
            self._open_shard()
        self.shard.write(ids.astype(self.dtype).tobytes())
        self.files[-1]["tokens"] += len(ids)
        self.tokens += len(ids)
        self.bytes += text_bytes
        self.documents += 1
        self.starts.write(np.array([self.tokens], "<i8").tobytes())

    def _open_shard(self) -> None:
        if self.shard is not None:
            self.shard.close()
        self.files.append({"name": f"{self.name}-{len(self.files):05d}.tokens", "tokens": 0})
        self.shard = open(self.folder / self.files[-1]["name"], "wb")

    def close(self) -> None:
        try:
            if self.shard is not None:
                self.shard.close()
        finally:
            self.starts.close()

    def entry(self) -> dict:
        """What the manifest says of this split, once its files are closed."""
        starts = f"{self.name}.documents"
        return {
            "tokens": self.tokens,
            "documents": self.documents,
            "bytes": self.bytes,
            "files": [{**file, "sha256": file_sha256(self.folder / file["name"])} for file in self.files],
            "starts": {"name": starts, "sha256": file_sha256(self.folder / starts)},
        }


def write_shards(
    corpus: Iterable[Document],
    tokenizer: Tokenizer,
    folder: str | Path,
    config: SplitConfig | None = None,
    progress: bool = False,
    replace: bool = True,
) -> None:
    """Tokenize a corpus into a shard folder.

    replace: shards that stand there already give way; with False they stay (see `whole_folder`).
    Raises `UserError` when a split comes out empty, the disk is full, or `folder` holds something else than shards. On
    any failure nothing is left behind.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise UserError(f"{folder} holds something else than token shards and is not replaced; name a new folder")
    with whole_folder(folder, replace) as new:
        _write_into(new, corpus, tokenizer, config or SplitConfig(), progress)


def _write_into(
    folder: Path, corpus: Iterable[Document], tokenizer: Tokenizer, config: SplitConfig, progress: bool
) -> None:
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    writers = {name: _SplitWriter(folder, name, dtype, config.shard_tokens) for name in SPLITS}
    with contextlib.ExitStack() as stack:
        for writer in writers.values():
            stack.callback(writer.close)
        _write_documents(writers, corpus, tokenizer, config, progress)
    total = sum(writer.documents for writer in writers.values())
    for name, writer in writers.items():
        if not writer.documents:
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
        "splits": {name: writer.entry() for name, writer in writers.items()},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")


def _write_documents(
    writers: dict[str, _SplitWriter],
    corpus: Iterable[Document],
    tokenizer: Tokenizer,
    config: SplitConfig,
    progress: bool,
) -> None:
    with tqdm(desc="tokenize", unit="B", unit_scale=True, disable=not progress) as bar:
        for parts in _chunks(part for document in corpus for part in split_document(document, config)):
            encoded = tokenizer.encode_batch([text for _, text in parts])
            for (name, text), ids in zip(parts, encoded):
                size = len(text.encode())
                writers[name].add(np.array([tokenizer.bos, *ids, tokenizer.eos]), size)
                bar.update(size)


def _chunks(parts: Iterator[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """Group parts until their texts are long enough for one call of the tokenizer."""
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


def file_sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class TokenStream:
    """One split of a shard folder as one long stream of token ids.

    `tokens`, `documents` and `bytes` (of text) are its size. `starts` is int64 (documents + 1,), a memory map: where
    each document begins in the stream, and the end of the last one.
    """

    def __init__(self, folder: str | Path, split: str, manifest: dict):
        """`manifest` comes from `read_manifest`, which has checked the files."""
        folder, entry = Path(folder), manifest["splits"][split]
        self.dtype = np.dtype(manifest["dtype"])
        self.tokens, self.documents, self.bytes = entry["tokens"], entry["documents"], entry["bytes"]
        self.starts = np.memmap(folder / entry["starts"]["name"], "<i8", mode="r")
        self._first = np.cumsum([0] + [file["tokens"] for file in entry["files"]])  # of each shard, in the stream
        self._handles = [open(folder / file["name"], "rb", buffering=0) for file in entry["files"]]

    def read(self, start: int, length: int) -> np.ndarray:
        """The ids at start .. start + length - 1, which must lie in the stream: (length,) int64."""
        assert 0 <= start <= start + length <= self.tokens, (start, length, self.tokens)
        pieces, end = [np.empty(0, np.int64)], start + length
        while start < end:
            shard = int(np.searchsorted(self._first, start, side="right")) - 1
            count = min(end, int(self._first[shard + 1])) - start
            offset = (start - int(self._first[shard])) * self.dtype.itemsize
            raw = os.pread(self._handles[shard].fileno(), count * self.dtype.itemsize, offset)
            pieces.append(np.frombuffer(raw, self.dtype))
            start += count
        return np.concatenate(pieces, dtype=np.int64)


def read_manifest(folder: str | Path, verify: bool = False) -> dict:
    """The manifest of a shard folder whose files are all there in their full size.

    verify: compare the hash of every file too, which reads all of them.
    Raises `UserError` when the folder is missing, of another format, or damaged.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        known = manifest["format"] == FORMAT
        files = _expected_files(manifest) if known else []
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise UserError(
            f"{folder} is no whole folder of token shards (no {MANIFEST}); delete and write it again"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{folder}/{MANIFEST} is damaged; delete the folder and write it again") from None
    if not known:
        raise UserError(
            f"{folder} has shard format {manifest['format']!r}, this version reads {FORMAT!r}; write it again"
        )
    for name, size, sha256 in files:
        path = folder / name
        whole = path.is_file() and path.stat().st_size == size
        if not whole or (verify and file_sha256(path) != sha256):
            raise UserError(f"{path} is missing or damaged; delete the folder {folder} and write it again")
    return manifest


def _expected_files(manifest: dict) -> list[tuple[str, int, str]]:
    """Name, size in bytes and hash of every file that a manifest tells of.

    Raises ValueError, KeyError or TypeError for one that contradicts itself.
    """
    files = []
    if manifest["dtype"] not in ("<u2", "<u4") or type(manifest["tokenizer_sha256"]) is not str:
        raise ValueError("not of this format")
    for split in (manifest["splits"][name] for name in SPLITS):
        counts = [split["tokens"], split["documents"], split["bytes"], manifest["vocab_size"]]
        shards = [(file["name"], file["tokens"], file["sha256"]) for file in split["files"]]
        counts += [tokens for _, tokens, _ in shards]
        if any(type(count) is not int or count < 0 for count in counts) or not split["tokens"]:
            raise ValueError("a count is none")
        if sum(tokens for _, tokens, _ in shards) != split["tokens"]:
            raise ValueError("its files have another number of tokens")
        size = np.dtype(manifest["dtype"]).itemsize
        files += [(name, tokens * size, sha256) for name, tokens, sha256 in shards]
        files.append((split["starts"]["name"], (split["documents"] + 1) * 8, split["starts"]["sha256"]))
    if any(Path(name).name != name for name, _, _ in files):
        raise ValueError("a file lies elsewhere")
    return files


def describe_shards(manifest: dict) -> str:
    """One line a split: documents, tokens, bytes per token."""
    return "\n".join(
        f"{name}: {entry['documents']:,} documents, {entry['tokens']:,} tokens, "
        f"{entry['bytes'] / entry['tokens']:.2f} bytes per token"
        for name, entry in manifest["splits"].items()
    )


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m data.shards", description="Tokenize a corpus into shards.")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("paths", nargs="*", help="text files, folders, .jsonl[.gz]; nothing: the built-in corpus")
    parser.add_argument("--tokenizer", help="tokenizer model to use; without it one is trained on the corpus")
    parser.add_argument("--vocab-size", type=int, default=4096, help="of the tokenizer that is trained (4096)")
    parser.add_argument("--validation", type=float, default=0.05, help="share of documents held out (0.05)")
    arguments = parser.parse_args(argv)
    split = SplitConfig(validation=arguments.validation)
    corpus = CorpusConfig(paths=tuple(arguments.paths))
    if arguments.tokenizer:
        tokenizer = Tokenizer.load(arguments.tokenizer)
    else:
        config = TokenizerConfig(vocab_size=arguments.vocab_size)
        tokenizer = Tokenizer.train((d.text for d in documents(corpus)), config, progress=True)
    write_shards(documents(corpus), tokenizer, arguments.out, split, progress=True)
    print(describe_shards(read_manifest(arguments.out)))


if __name__ == "__main__":
    run_main(main)
