"""From token sequences to batches of fixed shape.

A *row* is what one place of a batch holds: T (input, target) pairs. Two ways to fill rows:

- `FlatRows`: the stream of documents is cut every T tokens. Nothing is lost, nothing padded; documents are cut where
  it falls.
- `PackedRows`: pieces (whole documents, chats, or cuts of long documents) are laid into rows by best-fit packing;
  padding has weight 0. Each piece keeps its own document number and positions from 0, so that attention, positions
  and loss keep pieces apart (training.md: changing one document must leave another's outputs bit-equal).

Both offer `len(rows)` and `rows.batch(samples, positions)`: the rows numbered `samples` as a `Batch`. `positions` are
the places in the run (see `data.order`), from which the random choices of masking and infilling follow: the same
position gives the same batch, whoever asks and whenever.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from data.chat import Example
from data.packing import best_fit
from data.shards import TokenStream

PADDING = -1  # document number of padded places: they see nothing and are seen by nothing


@dataclass(frozen=True)
class Batch:
    """What a model is trained on: B rows of T tokens."""

    tokens: Tensor  # (B, T) int64: inputs
    targets: Tensor  # (B, T) int64: what is to be predicted at each place
    weights: Tensor  # (B, T) float32: loss weight of each prediction, 0 where there is none
    documents: Tensor  # (B, T) int32: number of the document within the row, PADDING where there is none
    positions: Tensor  # (B, T) int64: place within the document
    samples: Tensor  # (B,) int64: row numbers in the data set, to name the culprits of a bad step

    def to(self, device: torch.device) -> Batch:
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def split(self, rows: int) -> list[Batch]:
        """Micro-batches of `rows` rows each (the last may be smaller)."""
        return [self._map(itemgetter(slice(i, i + rows))) for i in range(0, len(self.tokens), rows)]

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        return type(self)(**{each.name: function(getattr(self, each.name)) for each in dataclasses.fields(self)})


class Rows(Protocol):
    """A data set as the trainer sees it: see the head of this module."""

    def __len__(self) -> int: ...

    def batch(self, samples: np.ndarray, positions: np.ndarray) -> Batch: ...


class PieceTransform(Protocol):
    """Rewrites the ids and weights of a piece, without a change of length, by the random numbers that it is given."""

    def __call__(
        self, ids: np.ndarray, weights: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]: ...


def row_generator(seed: int, position: int) -> np.random.Generator:
    """The random numbers that belong to one place of the run (Philox is counter-based: any key is a good one)."""
    return np.random.Generator(np.random.Philox(key=np.array([seed % 2**64, position], np.uint64)))


@dataclass
class _Canvas:
    """Empty rows to write on."""

    tokens: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    documents: np.ndarray
    positions: np.ndarray

    @classmethod
    def blank(cls, count: int, context: int, pad: int) -> _Canvas:
        shape = (count, context)
        return cls(
            np.full(shape, pad, np.int64),
            np.full(shape, pad, np.int64),
            np.zeros(shape, np.float32),
            np.full(shape, PADDING, np.int32),
            np.zeros(shape, np.int64),
        )

    def batch(self, samples: np.ndarray) -> Batch:
        arrays = {field.name: torch.from_numpy(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return Batch(**arrays, samples=torch.from_numpy(np.asarray(samples, np.int64)))


class FlatRows:
    """The stream of a split cut into rows of `context` pairs; the last row is padded.

    With `isolate` each document in a row has its own number and positions; without, a row is one document, as in GPT-2.
    The prediction of a document's <bos> has weight 0: nothing before it says that one begins.
    """

    def __init__(self, stream: TokenStream, context: int, pad: int, bos: int, isolate: bool = True):
        self.stream, self.context, self.pad, self.bos, self.isolate = stream, context, pad, bos, isolate

    def __len__(self) -> int:
        return -(-(self.stream.tokens - 1) // self.context)

    def batch(self, samples: np.ndarray, positions: np.ndarray) -> Batch:
        canvas = _Canvas.blank(len(samples), self.context, self.pad)
        for row, sample in enumerate(samples):
            start = int(sample) * self.context
            pairs = min(self.context, self.stream.tokens - 1 - start)
            window = self.stream.read(start, pairs + 1)
            canvas.tokens[row, :pairs], canvas.targets[row, :pairs] = window[:-1], window[1:]
            canvas.weights[row, :pairs] = window[1:] != self.bos
            if self.isolate:
                begins = window[:-1] == self.bos
                begins[0] = True
                number = np.cumsum(begins) - 1
                canvas.documents[row, :pairs] = number
                canvas.positions[row, :pairs] = np.arange(pairs) - np.flatnonzero(begins)[number]
            else:
                canvas.documents[row, :pairs] = 0
                canvas.positions[row, :pairs] = np.arange(pairs)
        return canvas.batch(samples)


class DocumentPieces:
    """The documents of a split as pieces of at most `context` pairs.

    Every pair of neighbours in a document is in exactly one piece. `lengths` (N,) int64 counts the pairs of each;
    `pieces[i]` gives its ids (lengths[i] + 1,) int64 and weights, of the same shape, float32.
    """

    def __init__(self, stream: TokenStream, context: int):
        self.stream = stream
        starts = np.asarray(stream.starts)
        pairs = np.diff(starts) - 1
        cuts = -(-pairs // context)  # pieces of each document
        first = np.repeat(np.cumsum(cuts) - cuts, cuts)
        place = (np.arange(cuts.sum()) - first) * context  # offset of a piece in its document
        self.starts = np.repeat(starts[:-1], cuts) + place
        self.lengths = np.minimum(context, np.repeat(pairs, cuts) - place)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        ids = self.stream.read(int(self.starts[index]), int(self.lengths[index]) + 1)
        return ids, np.ones(len(ids), np.float32)


class ExamplePieces:
    """Conversations as pieces, with their own loss weights; otherwise like `DocumentPieces`."""

    def __init__(self, examples: Sequence[Example]):
        self.examples = examples
        self.lengths = np.array([len(example.ids) - 1 for example in examples])

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.examples[index].ids, self.examples[index].weights


class Pieces(Protocol):
    """What `PackedRows` lays into rows; see `DocumentPieces`."""

    lengths: np.ndarray

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]: ...


class PackedRows:
    """Pieces packed into rows of `context` pairs by best fit.

    A piece of n + 1 ids gives n pairs: ids[i] predicts ids[i + 1], with weights[i + 1].
    """

    def __init__(self, pieces: Pieces, context: int, pad: int, transform: PieceTransform | None = None, seed: int = 0):
        self.pieces, self.context, self.pad, self.transform, self.seed = pieces, context, pad, transform, seed
        self.rows = best_fit(pieces.lengths, context)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fill(self) -> float:
        """Share of places that hold a pair."""
        return float(np.sum(self.pieces.lengths)) / max(len(self.rows) * self.context, 1)

    def batch(self, samples: np.ndarray, positions: np.ndarray) -> Batch:
        canvas = _Canvas.blank(len(samples), self.context, self.pad)
        for row, (sample, position) in enumerate(zip(samples, positions)):
            generator = row_generator(self.seed, int(position)) if self.transform else None
            begin = 0
            for number, index in enumerate(self.rows[int(sample)]):
                ids, weights = self.pieces[index]
                if self.transform:
                    ids, weights = self.transform(ids, weights, generator)
                end = begin + len(ids) - 1
                canvas.tokens[row, begin:end], canvas.targets[row, begin:end] = ids[:-1], ids[1:]
                canvas.weights[row, begin:end] = weights[1:]
                canvas.documents[row, begin:end] = number
                canvas.positions[row, begin:end] = np.arange(end - begin)
                begin = end
        return canvas.batch(samples)
