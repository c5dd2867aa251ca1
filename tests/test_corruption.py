"""Masking and infilling: shares as in the papers, words whole, no text lost, the same position the same batch."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from configs import UserError
from data.batches import PADDING, Batch, DocumentPieces, FlatRows, PackedRows, row_generator
from data.corruption import Infill, MaskedRows, MaskingConfig

PAD = 0
STANDARD_DEVIATIONS = 6  # a binomial share leaves this band with probability below 1e-8


def assert_share(count: int, of: int, share: float) -> None:
    assert abs(count - share * of) < STANDARD_DEVIATIONS * (of * share * (1 - share)) ** 0.5


def masked_batch(stream, tokenizer, epochs: int, seed: int = 0, **settings) -> tuple[Batch, Batch]:
    """The same rows before and after masking, `epochs` times at different positions."""
    rows = PackedRows(DocumentPieces(stream, 64), 64, PAD)
    samples, positions = np.tile(np.arange(len(rows)), epochs), np.arange(epochs * len(rows))
    masked = MaskedRows(rows, tokenizer, MaskingConfig(**settings), seed)
    assert len(masked) == len(rows)
    return rows.batch(samples, positions), masked.batch(samples, positions)


def test_shares_are_those_of_bert(stream, small_tokenizer):
    """15 % of the text of each row, to the nearest token; of these 80 % hidden, 10 % random, 10 % as they were.

    A random token is the original by chance in one of V cases: its share is 0.1 * (1 - 1 / V) that change. Each of the
    two shares is binomial; the test fails by chance with probability below 1e-8.
    """
    plain, masked = masked_batch(stream, small_tokenizer, epochs=20)
    text = torch.from_numpy(small_tokenizer.byte_lengths > 0)[plain.tokens]
    chosen = masked.weights > 0
    for row in range(len(text)):
        assert chosen[row].sum() == max(1, round(0.15 * int(text[row].sum())))
    count = int(chosen.sum())
    hidden = chosen & (masked.tokens == small_tokenizer.mask)
    changed = chosen & ~hidden & (masked.tokens != plain.tokens)
    V = int((small_tokenizer.byte_lengths > 0).sum())
    assert count > 10_000
    assert_share(int(hidden.sum()), count, 0.8)
    assert_share(int(changed.sum()), count, 0.1 * (1 - 1 / V))


def test_only_text_is_chosen_and_only_the_chosen_changes(stream, small_tokenizer):
    """Markers and padding are neither hidden nor put in; targets are the originals; the rest is as it was."""
    plain, masked = masked_batch(stream, small_tokenizer, epochs=3)
    is_text = torch.from_numpy(small_tokenizer.byte_lengths > 0)
    chosen = masked.weights > 0
    assert is_text[plain.tokens[chosen]].all()
    assert torch.equal(masked.tokens[~chosen], plain.tokens[~chosen])
    assert torch.equal(masked.targets, plain.tokens)
    put_in = masked.tokens[chosen & (masked.tokens != small_tokenizer.mask)]
    assert is_text[put_in].all()
    assert set(masked.weights.unique().tolist()) == {0.0, 1.0}
    for name in ("documents", "positions", "samples"):
        assert torch.equal(getattr(masked, name), getattr(plain, name))


def test_every_token_has_its_turn(stream, small_tokenizer):
    """In 200 epochs a token is never chosen with probability 0.85^200 < 1e-14; there are some thousand."""
    plain, masked = masked_batch(stream, small_tokenizer, epochs=200)
    text = (small_tokenizer.byte_lengths > 0)[plain.tokens[: len(plain.tokens) // 200].numpy()]
    chosen = (masked.weights > 0).view(200, *text.shape).any(0).numpy()
    assert np.array_equal(chosen, text)


def words_of(row: Batch, tokenizer) -> list[list[int]]:
    """Places of each word of a row, by the definition: a new one at each word start, marker, and new document."""
    ids = row.tokens[0].numpy()
    starts = tokenizer.is_word_start(ids)
    words: list[list[int]] = []
    for place, index in enumerate(ids):
        if tokenizer.byte_lengths[index] == 0:
            words.append([])
        elif starts[place] or row.positions[0, place] == 0 or not words:
            words.append([place])
        else:
            words[-1].append(place)
    return [word for word in words if word]


def test_words_are_chosen_whole(stream, small_tokenizer):
    """And no more of them than needed: without one of them the share would not be reached."""
    plain, masked = masked_batch(stream, small_tokenizer, epochs=3, whole_words=True)
    longest = 0
    for row in range(len(plain.tokens)):
        one = dataclasses.replace(plain, tokens=plain.tokens[row : row + 1], positions=plain.positions[row : row + 1])
        chosen = set((masked.weights[row] > 0).nonzero()[:, 0].tolist())
        words = words_of(one, small_tokenizer)
        taken = [word for word in words if chosen & set(word)]
        assert all(chosen >= set(word) for word in taken)
        wanted = max(1, round(0.15 * sum(map(len, words))))
        assert wanted <= len(chosen) < wanted + max(map(len, taken))
        longest = max(longest, *map(len, taken))
    assert longest > 1


def test_a_word_ends_where_a_document_ends(small_tokenizer):
    """Two pieces of cut documents that meet in the middle of words do not become one word."""
    letter = small_tokenizer.encode("k")[0]
    tokens = torch.full((1, 20), letter)
    positions = torch.arange(20)[None] % 10

    class TwoPieces:
        def batch(self, samples, numbers):
            documents = (torch.arange(20)[None] // 10).int()
            return Batch(tokens, tokens, torch.ones(1, 20), documents, positions, torch.zeros(1))

    masked = MaskedRows(TwoPieces(), small_tokenizer, MaskingConfig(whole_words=True))
    for position in range(10):
        chosen = masked.batch(np.array([0]), np.array([position])).weights[0]
        assert chosen.view(2, 10).sum(1).sort().values.tolist() == [0, 10]


def test_a_row_without_text_has_nothing_to_predict(small_tokenizer):
    class Empty:
        def batch(self, samples, positions):
            pad = torch.full((1, 8), small_tokenizer.pad)
            return Batch(pad, pad, torch.zeros(1, 8), pad - 1, pad * 0, torch.zeros(1))

    batch = MaskedRows(Empty(), small_tokenizer, MaskingConfig()).batch(np.array([0]), np.array([0]))
    assert batch.weights.sum() == 0 and (batch.tokens == small_tokenizer.pad).all()


def test_same_position_same_batch(stream, small_tokenizer):
    """Another position, another seed: another choice; in a batch or alone: the same."""
    rows = FlatRows(stream, 64, PAD, small_tokenizer.bos)
    for whole_words in (False, True):
        masked = MaskedRows(rows, small_tokenizer, MaskingConfig(whole_words=whole_words), seed=4)
        samples = np.array([3, 1, 3])
        batch = masked.batch(samples, np.array([10, 11, 12]))
        again = MaskedRows(rows, small_tokenizer, MaskingConfig(whole_words=whole_words), seed=4)
        assert torch.equal(again.batch(samples[1:2], np.array([11])).tokens[0], batch.tokens[1])
        assert not torch.equal(batch.weights[0], batch.weights[2])
        other = MaskedRows(rows, small_tokenizer, MaskingConfig(whole_words=whole_words), seed=5)
        assert not torch.equal(other.batch(samples, np.array([10, 11, 12])).weights, batch.weights)


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"share": 1.0}, {"mask": -0.1}, {"mask": 0.8, "random": 0.3}])
def test_shares_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match=r"share must|mask \+ random must"):
        MaskingConfig(**wrong)


# Infilling -----------------------------------------------------------------------------------------------------------


@given(length=st.integers(0, 40), ends=st.sampled_from(["both", "bos", "eos", "none"]), position=st.integers(0, 10**6))
def test_infilling_keeps_all_text(small_tokenizer, length, ends, position):
    """prefix + middle + suffix is the text but for the last three tokens; <bos>, <eos> and the length stay."""
    t = small_tokenizer
    text = np.arange(100, 100 + length)
    head = [t.bos] if ends in ("both", "bos") else []
    tail = [t.eos] if ends in ("both", "eos") else []
    ids = np.array([*head, *text, *tail, *([100] if not length and ends == "none" else [])])
    weights = np.linspace(0, 1, len(ids), dtype=np.float32)
    new, new_weights = Infill(t, rate=1.0)(ids, weights, row_generator(0, position))
    assert len(new) == len(new_weights) == len(ids) and new.dtype == np.int64
    if length < 5:
        assert new is ids and new_weights is weights
        return
    inner = new[len(head) : len(new) - len(tail)].tolist()
    assert new[: len(head)].tolist() == head and new[len(new) - len(tail) :].tolist() == tail
    assert inner[0] == t.prefix and inner.count(t.suffix) == inner.count(t.middle) == 1
    suffix, middle = inner.index(t.suffix), inner.index(t.middle)
    assert inner[1:suffix] + inner[middle + 1 :] + inner[suffix + 1 : middle] == text[:-3].tolist()
    assert (new_weights == 1).all()


def test_cuts_fall_everywhere(small_tokenizer):
    """Each of the two cuts is uniform: over 4,000 draws every place of ten is the start of the middle sometimes."""
    ids = np.arange(100, 113)
    starts = set()
    for position in range(4000):
        new, _ = Infill(small_tokenizer, 1.0)(ids, ids, row_generator(1, position))
        starts.add(new.tolist().index(small_tokenizer.suffix) - 1)
    assert starts == set(range(11))


def test_rate_is_the_share_of_rewritten_pieces(stream, small_tokenizer):
    """Binomial; fails by chance with probability below 1e-8. What is not rewritten is untouched."""
    pieces = DocumentPieces(stream, 64)
    plain = PackedRows(pieces, 64, PAD)
    rows = PackedRows(pieces, 64, PAD, Infill(small_tokenizer, 0.3), seed=2)
    samples, positions = np.tile(np.arange(len(rows)), 20), np.arange(20 * len(rows))
    before, after = plain.batch(samples, positions), rows.batch(samples, positions)
    rewritten = total = 0
    for row in range(len(samples)):
        for number in range(int(after.documents[row].max()) + 1):
            places = after.documents[row] == number
            is_new = bool((after.tokens[row][places] == small_tokenizer.prefix).any())
            if places.sum() >= 8:  # the shortest pieces are left alone
                rewritten, total = rewritten + is_new, total + 1
            if not is_new:
                assert torch.equal(after.tokens[row][places], before.tokens[row][places])
    assert_share(rewritten, total, 0.3)
    for name in ("documents", "positions", "weights"):
        assert torch.equal(getattr(after, name), getattr(before, name))
    assert (after.documents == PADDING).any()


def test_infilling_same_position_same_batch(stream, small_tokenizer):
    rows = PackedRows(DocumentPieces(stream, 64), 64, PAD, Infill(small_tokenizer, 1.0), seed=2)
    batch = rows.batch(np.array([1, 1]), np.array([5, 6]))
    assert not torch.equal(batch.tokens[0], batch.tokens[1])
    assert torch.equal(rows.batch(np.array([1]), np.array([6])).tokens[0], batch.tokens[1])
