"""Texts to vectors with a trained embedder, and the search among them.

    python -m instruct.embed runs/embed FILE --out vectors.npy                 # (N, E) float32, a row for each text
    python -m instruct.embed search runs/embed "把数字从小到大排序" FILE [--k 5] [--json]

    encoder = Encoder.load("runs/embed")
    vectors = encoder.encode(["Sort the numbers.", "What is the capital of France?"])     # (2, E), of length 1
    places, cosines = nearest(encoder.encode(["order these numbers"]), vectors, 5)

FILE holds JSON lines or a JSON array of records (.json, .jsonl, .jsonl.gz), or one text a line (any other name). Of a
record the text is `text`, or `instruction` with `input` under it, where it has one. A text may be an instruction alone
or an instruction, a line break and its input: both were trained.

What it leaves out. An index: every vector is compared, which takes a second for a million. Texts beyond the context of
the model are cut.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs import UserError, run_main
from data.files import whole_file
from data.formats import read_rows
from instruct.lessons import request
from instruct.retrieval import nearest
from model.embedder import Embedder, embed, prefix, text_ids
from model.load import LoadedModel, load_run

RECORDS = (".json", ".jsonl", ".json.gz", ".jsonl.gz")

__all__ = ["Encoder", "nearest", "read_texts"]


@dataclass(frozen=True)
class Encoder:
    """A trained embedder with its tokenizer."""

    loaded: LoadedModel

    @classmethod
    def load(cls, run: str | Path, device: str = "cpu") -> Encoder:
        """Of a run or checkpoint folder. Raises UserError as `model.load.load_run`."""
        return cls(load_run(run, device, heads=[Embedder.head_name]))

    @property
    def size(self) -> int:
        """E."""
        return self.loaded.model.size

    def encode(self, texts: Sequence[str], size: int | None = None) -> np.ndarray:
        """(N, E) float32, each vector of length 1, in the order of the texts; `size`: of a shorter embedding.

        Raises UserError for a size that the embedding does not have.
        """
        if size is not None and not 1 <= size <= self.size:
            raise UserError(f"the vectors have {self.size} dimensions; choose from 1 to {self.size}, not {size}")
        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        vectors = embed(model, text_ids(list(texts), tokenizer, model.config.context), tokenizer.pad)
        return (vectors if size is None else prefix(vectors, size)).numpy()


def read_texts(path: str | Path) -> list[str]:
    """The texts of a file, see the head of the module. Raises UserError where it has none, or a row is no text."""
    path = Path(path)
    if path.name.endswith(RECORDS):
        return [_text_of(row, place) for place, row in read_rows(path)]
    if not path.is_file():
        raise UserError(f"there is no file {path}; give records (.jsonl) or one text a line")
    try:
        texts = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start + 1}); save it as UTF-8") from None
    if not texts:
        raise UserError(f"{path} holds no text; give records (.jsonl) or one text a line")
    return texts


def _text_of(row: dict, place: str) -> str:
    key = "text" if "text" in row else "instruction"
    text, given = row.get(key), row.get("input", "") if key == "instruction" else ""
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{place}: a row needs `text` or `instruction`, which is text and not empty")
    if not isinstance(given, str):
        raise UserError(f"{place}: `input` must be text")
    return request(text, given)


def encode_main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m instruct.embed",
        description="Write the vectors of texts as a NumPy array (N, E). To search: python -m instruct.embed search",
    )
    parser.add_argument("run", help="run folder (or checkpoint folder) of an embedder")
    parser.add_argument("file", help="records (.json, .jsonl, .jsonl.gz), or one text a line")
    parser.add_argument("--out", required=True, metavar="vectors.npy", help="file to write")
    parser.add_argument("--size", type=int, help="dimensions of the vectors; by default all")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    arguments = parser.parse_args(argv)
    texts = read_texts(arguments.file)
    vectors = Encoder.load(arguments.run, arguments.device).encode(texts, arguments.size)
    with whole_file(arguments.out) as file:
        np.save(file, vectors)
    print(f"wrote {len(vectors):,} vectors of {vectors.shape[1]} dimensions to {arguments.out}", file=sys.stderr)


def search_main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m instruct.embed search", description="Print the texts of a file that are nearest to a query."
    )
    parser.add_argument("run", help="run folder (or checkpoint folder) of an embedder")
    parser.add_argument("query", help="a text")
    parser.add_argument("file", help="records (.json, .jsonl, .jsonl.gz), or one text a line")
    parser.add_argument("--k", type=int, default=5, help="how many texts (5)")
    parser.add_argument("--json", action="store_true", help="JSON lines: place (from 0), cosine, text")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    arguments = parser.parse_args(argv)
    if arguments.k < 1:
        raise UserError(f"--k must be positive, got {arguments.k}")
    if not arguments.query.strip():
        raise UserError("the query is empty; give a text to search for")
    texts = read_texts(arguments.file)
    encoder = Encoder.load(arguments.run, arguments.device)
    places, cosines = nearest(encoder.encode([arguments.query]), encoder.encode(texts), arguments.k)
    for place, cosine in zip(places[0].tolist(), cosines[0].tolist()):
        if arguments.json:
            row = {"place": place, "cosine": round(cosine, 6), "text": texts[place]}
            print(json.dumps(row, ensure_ascii=False))
        else:
            print(f"{cosine:7.3f}  {texts[place]}")


def main(argv: list[str]) -> None:
    """`python -m instruct.embed [search] RUN ...`."""
    if argv[:1] == ["search"]:
        search_main(argv[1:])
    else:
        encode_main(argv)


if __name__ == "__main__":
    run_main(main)
