"""Rows: every pair of the stream is used once, documents are told apart, the same position is the same batch."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.batches import PADDING, Batch, DocumentPieces, ExamplePieces, FlatRows, PackedRows, row_generator
from data.chat import Example
from data.shards import TokenStream, read_manifest

CONTEXTS = [1, 7, 32, 100, 5000]  # shorter and longer than documents, than the stream
PAD = 0


def everything(rows) -> Batch:
    numbers = np.arange(len(rows))
    return rows.batch(numbers, numbers)


def pairs_of(batch: Batch, counted: torch.Tensor) -> Counter:
    return Counter(zip(batch.tokens[counted].tolist(), batch.targets[counted].tolist()))


def pairs_in_stream(stream, within_documents: bool) -> Counter:
    ids = stream.read(0, stream.tokens)
    if not within_documents:
        return Counter(zip(ids[:-1].tolist(), ids[1:].tolist()))
    documents = [ids[start:end] for start, end in zip(stream.starts, stream.starts[1:])]
    return Counter(pair for d in documents for pair in zip(d[:-1].tolist(), d[1:].tolist()))


# Flat rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolate", [True, False])
@pytest.mark.parametrize("context", CONTEXTS)
def test_flat_rows_use_every_pair_once(stream, small_tokenizer, context, isolate):
    """All pairs of neighbours in the stream are there; those with a weight are those within a document."""
    batch = everything(FlatRows(stream, context, PAD, small_tokenizer.bos, isolate))
    assert pairs_of(batch, batch.documents != PADDING) == pairs_in_stream(stream, within_documents=False)
    assert pairs_of(batch, batch.weights > 0) == pairs_in_stream(stream, within_documents=True)
    assert set(batch.weights.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("context", CONTEXTS)
def test_flat_rows_never_predict_the_beginning(stream, small_tokenizer, context):
    batch = everything(FlatRows(stream, context, PAD, small_tokenizer.bos))
    begins = batch.targets == small_tokenizer.bos
    assert begins.sum() == stream.documents - 1
    assert batch.weights[begins].sum() == 0


@pytest.mark.parametrize("context", [7, 32, 5000])
def test_flat_rows_number_documents_and_places(stream, small_tokenizer, context):
    """A new number at each <bos>; places count from it, or from the row's start for a document that was cut."""
    batch = everything(FlatRows(stream, context, PAD, small_tokenizer.bos))
    for tokens, documents, positions in zip(batch.tokens, batch.documents, batch.positions):
        number = place = -1
        for column, (token, document, position) in enumerate(zip(tokens, documents, positions)):
            if document == PADDING:
                assert (documents[column:] == PADDING).all() and (tokens[column:] == PAD).all()
                break
            begins = column == 0 or token == small_tokenizer.bos
            number, place = (number + 1, 0) if begins else (number, place + 1)
            assert (document, position) == (number, place)


def test_flat_rows_without_isolation_are_one_document(stream, small_tokenizer):
    batch = everything(FlatRows(stream, 32, PAD, small_tokenizer.bos, isolate=False))
    assert (batch.documents[:-1] == 0).all() and (batch.positions[:-1] == torch.arange(32)).all()


# Packed rows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", CONTEXTS)
def test_packed_rows_use_every_pair_of_a_document_once(stream, context):
    batch = everything(PackedRows(DocumentPieces(stream, context), context, PAD))
    assert pairs_of(batch, batch.documents != PADDING) == pairs_in_stream(stream, within_documents=True)
    assert torch.equal(batch.weights > 0, batch.documents != PADDING)


@pytest.mark.parametrize("context", [7, 32, 5000])
def test_packed_rows_keep_pieces_together(stream, context):
    """Each document number of a row is one run of places 0, 1, 2, ... that stands in the stream as it is."""
    rows = PackedRows(DocumentPieces(stream, context), context, PAD)
    batch, text = everything(rows), stream.read(0, stream.tokens).tolist()
    found = set()
    for tokens, targets, documents, positions in zip(batch.tokens, batch.targets, batch.documents, batch.positions):
        for number in range(int(documents.max()) + 1):
            places = (documents == number).nonzero()[:, 0]
            assert torch.equal(places, torch.arange(places[0], places[0] + len(places)))
            assert torch.equal(positions[places], torch.arange(len(places)))
            ids = [*tokens[places].tolist(), int(targets[places[-1]])]
            assert tokens[places][1:].tolist() == targets[places][:-1].tolist()
            found |= {start for start in range(len(text)) if text[start : start + len(ids)] == ids}
    assert set(rows.pieces.starts.tolist()) <= found


@given(st.lists(st.integers(2, 40), min_size=1, max_size=20), st.integers(1, 15))
def test_long_documents_are_cut_into_equal_pieces_and_a_rest(lengths, context):
    """Pieces cover the pairs of each document in order; none is longer than a row."""

    class Lengths:
        starts = np.cumsum([0, *lengths])

    pieces = DocumentPieces(Lengths(), context)
    covered = [pair for s, n in zip(pieces.starts, pieces.lengths) for pair in range(s, s + n)]
    ends = set((Lengths.starts[1:] - 1).tolist())  # an <eos>, after which no pair begins
    assert covered == [place for place in range(sum(lengths)) if place not in ends]
    assert pieces.lengths.min() >= 1 and pieces.lengths.max() <= context


def test_packed_examples_keep_their_weights():
    """Conversations: weights[i + 1] is the weight of predicting ids[i + 1]."""
    generator = np.random.default_rng(0)
    examples = [
        Example(generator.integers(1, 50, n), generator.integers(0, 2, n).astype(np.float32)) for n in (2, 9, 5, 7, 3)
    ]
    batch = everything(PackedRows(ExamplePieces(examples), 8, PAD))
    expected = Counter(
        (int(a), int(b), float(w)) for e in examples for a, b, w in zip(e.ids[:-1], e.ids[1:], e.weights[1:])
    )
    used = batch.documents != PADDING
    columns = (batch.tokens, batch.targets, batch.weights)
    assert Counter(zip(*(column[used].tolist() for column in columns))) == expected
    assert batch.weights[~used].sum() == 0


def test_fill_is_the_share_of_used_places(stream):
    rows = PackedRows(DocumentPieces(stream, 64), 64, PAD)
    batch = everything(rows)
    assert rows.fill == pytest.approx((batch.documents != PADDING).float().mean().item())
    assert rows.fill > 0.9


# Both ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["flat", "packed"])
def test_rows_are_the_same_whoever_asks(shard_folder, small_tokenizer, layout):
    """Alone, in a batch, in another order, from a second reader of the same folder."""

    def rows():
        stream = TokenStream(shard_folder, "train", read_manifest(shard_folder))
        if layout == "flat":
            return FlatRows(stream, 32, PAD, small_tokenizer.bos)
        return PackedRows(DocumentPieces(stream, 32), 32, PAD)

    one, two = rows(), rows()
    batch = one.batch(np.array([5, 2, 9]), np.array([0, 1, 2]))
    for place, sample in enumerate((5, 2, 9)):
        alone = two.batch(np.array([sample]), np.array([77]))
        for name in ("tokens", "targets", "weights", "documents", "positions", "samples"):
            assert torch.equal(getattr(batch, name)[place], getattr(alone, name)[0])


def test_shapes_and_dtypes(stream, small_tokenizer):
    for rows in (FlatRows(stream, 33, PAD, small_tokenizer.bos), PackedRows(DocumentPieces(stream, 33), 33, PAD)):
        batch = rows.batch(np.array([1, 0]), np.array([4, 5]))
        assert all(
            getattr(batch, n).shape == (2, 33) for n in ("tokens", "targets", "weights", "documents", "positions")
        )
        assert batch.tokens.dtype == batch.targets.dtype == batch.positions.dtype == torch.int64
        assert batch.weights.dtype == torch.float32 and batch.samples.tolist() == [1, 0]


@given(st.integers(1, 9), st.integers(1, 9))
def test_micro_batches_are_the_batch_in_pieces(rows, at_once):
    columns = {name: torch.randn(rows, 3) for name in ("tokens", "targets", "weights", "documents", "positions")}
    batch = Batch(**columns, samples=torch.arange(rows))
    parts = batch.split(at_once)
    assert all(len(part.tokens) == at_once for part in parts[:-1])
    for name in (*columns, "samples"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))


def test_random_numbers_belong_to_seed_and_position():
    draws = {(s, p): row_generator(s, p).integers(0, 2**63, 4).tolist() for s in (0, 1, -1) for p in (0, 1, 10**12)}
    assert draws == {(s, p): row_generator(s, p).integers(0, 2**63, 4).tolist() for s, p in draws}
    assert len({tuple(numbers) for numbers in draws.values()}) == len(draws)
