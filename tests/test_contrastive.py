"""The contrastive loss: a closed form, what is masked, chunks and ranks that change nothing."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from data.batches import PADDING, Batch
from model.embedder import pad_rows, prefix
from tests.ranks import on_ranks
from tests.test_embedder import embedder
from train.contrastive import NOTHING, Contrastive, info_nce, vectors_in_chunks
from train.distributed import Ranks

BEHAVIOURS = torch.tensor([0, 0, 1, 1, 1, 2, 0, NOTHING])


def unit(count, seed=0):
    return F.normalize(torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)).double(), dim=1)


def by_hand(vectors, behaviours, scale):
    """The definition, with loops: total and the number of anchors that have a positive."""
    total, anchors = 0.0, 0
    places = [i for i, each in enumerate(behaviours.tolist()) if each != NOTHING]
    cosine = (vectors @ vectors.T).tolist()
    for i in places:
        positives = [p for p in places if p != i and behaviours[p] == behaviours[i]]
        negatives = [n for n in places if behaviours[n] != behaviours[i]]
        terms = []
        for p in positives:
            above = math.exp(scale * cosine[i][p])
            below = above + sum(math.exp(scale * cosine[i][n]) for n in negatives)
            terms.append(-math.log(above / below))
        if positives:
            total, anchors = total + sum(terms) / len(terms), anchors + 1
    return total, anchors


def test_the_loss_is_the_closed_form_in_float64():
    vectors = unit(8)
    terms = info_nce(vectors, vectors, BEHAVIOURS, BEHAVIOURS, 0, torch.tensor([7.0]).double())
    total, anchors = by_hand(vectors, BEHAVIOURS, 7.0)
    assert terms.total.item() == pytest.approx(total, rel=1e-12) and terms.weight.item() == anchors == 6


def test_its_gradient_is_that_of_the_closed_form():
    """Two pairs, one over the temperature 1, by hand: d loss / d cos(i, p) = -(1 - share of p)."""
    vectors, behaviours = unit(4), torch.tensor([0, 0, 1, 1])
    cosine = (vectors @ vectors.T).requires_grad_()
    eye = torch.eye(4).double()  # anchors @ everyone.T = cosine
    info_nce(cosine, eye, behaviours, behaviours, 0, torch.tensor(1.0)).total.backward()
    pair, others = {0: 1, 1: 0, 2: 3, 3: 2}, {0: (2, 3), 1: (2, 3), 2: (0, 1), 3: (0, 1)}
    for i in range(4):
        shares = {j: math.exp(cosine[i, j].item()) for j in (pair[i], *others[i])}
        whole = sum(shares.values())
        assert cosine.grad[i, pair[i]].item() == pytest.approx(shares[pair[i]] / whole - 1, rel=1e-12)
        for n in others[i]:
            assert cosine.grad[i, n].item() == pytest.approx(shares[n] / whole, rel=1e-12)
        assert cosine.grad[i, i] == 0


def test_gradients_of_vectors_and_temperature_are_those_of_differences():
    scale = torch.tensor([5.0]).double().requires_grad_()

    def loss(vectors, scale):
        return info_nce(vectors, vectors, BEHAVIOURS, BEHAVIOURS, 0, scale).total

    assert torch.autograd.gradcheck(loss, (unit(8).requires_grad_(), scale))


def test_false_negatives_are_masked():
    """Texts of one behaviour that came in two rows: were they negatives, an equal text would cost log 2 at least."""
    one, other = unit(2)
    vectors = torch.stack([one, one, one, one, other, other])
    scale = torch.tensor(50.0).double()
    known = info_nce(vectors, vectors, *[torch.tensor([0, 0, 0, 0, 1, 1])] * 2, 0, scale)
    taken_apart = info_nce(vectors, vectors, *[torch.tensor([0, 0, 2, 2, 1, 1])] * 2, 0, scale)
    assert known.total.item() < 1e-3 < 4 * math.log(2) < taken_apart.total.item()


def test_without_negatives_or_positives_all_is_finite():
    vectors = unit(3).requires_grad_()
    for behaviours, weight in (([0, 0, 0], 3), ([0, 1, 2], 0), ([NOTHING] * 3, 0)):
        behaviours = torch.tensor(behaviours)
        terms = info_nce(vectors, vectors, behaviours, behaviours, 0, torch.tensor(9.0))
        assert terms.total.item() == 0 and terms.weight.item() == weight
        assert terms.total.requires_grad and torch.autograd.grad(terms.total, vectors)[0].isfinite().all()


def batch_of(seed=0) -> Batch:
    """Four rows of three texts; one place holds no text."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 12, (12,), generator=draw).tolist()
    ids = [torch.randint(3, 60, (length,), generator=draw).tolist() for length in lengths]
    ids[7] = []
    tokens, documents = (each.view(4, 3, -1) for each in pad_rows(ids, 0))
    behaviours = torch.tensor([[0, 0, 5], [1, 1, 6], [2, NOTHING, 7], [0, 0, 2]])
    return Batch(tokens, behaviours, torch.ones(4, 3), documents, torch.zeros(4, 3), torch.arange(4))


def gradients(model, batch, chunk, ranks=None, sizes=(4, 10)):
    model.zero_grad()
    terms = Contrastive(sizes, chunk, ranks or Ranks())(model, batch)
    terms.total.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    return terms.total.item(), terms.weight.item(), found


def double_embedder(dropout=0.0):
    model = embedder(dropout=dropout).double().train()
    model.trunk.compute_dtype = torch.float64
    return model


@pytest.mark.parametrize("chunk", [1, 5, 12, 100])
def test_gradient_caching_equals_the_plain_loss(chunk):
    model, batch = double_embedder(), batch_of()
    total, weight, plain = gradients(model, batch, 0)
    cached_total, cached_weight, cached = gradients(model, batch, chunk)
    assert cached_total == pytest.approx(total, rel=1e-12) and cached_weight == weight == 8
    for name in plain:
        assert plain[name].abs().max() > 0, name
        assert torch.allclose(cached[name], plain[name], rtol=1e-9, atol=1e-12), name


def test_a_chunk_is_computed_twice_with_the_same_dropout():
    """Else the gradients would be those of other vectors than the loss saw."""
    model, batch = double_embedder(0.3), batch_of()

    def loss():
        torch.manual_seed(3)
        return Contrastive((10,), 5, Ranks())(model, batch).total

    model.zero_grad()
    loss().backward()
    weight, step = model.head.weight, 1e-6
    slope = weight.grad[2, 3].item()
    with torch.no_grad():
        weight[2, 3] += step
        above = loss().item()
        weight[2, 3] -= 2 * step
        below = loss().item()
    assert slope == pytest.approx((above - below) / (2 * step), rel=1e-5)


def test_the_first_pass_keeps_no_activations():
    """Between the passes only the weights, the ids and the vectors are kept, whatever the depth."""
    model, batch = double_embedder(), batch_of()
    kept = {}
    for chunk in (0, 3):
        kept[chunk] = 0

        def count(tensor, chunk=chunk):
            kept[chunk] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            tokens, documents = batch.tokens.flatten(0, 1), batch.documents.flatten(0, 1)
            vectors_in_chunks(model, tokens, documents, chunk)
    assert kept[3] < kept[0] / 10


def test_every_size_has_its_loss():
    model, batch = double_embedder(), batch_of()
    both, small, whole = (gradients(model, batch, 0, sizes=sizes)[0] for sizes in ((4, 10), (4,), (10,)))
    assert both == pytest.approx((small + whole) / 2, rel=1e-12) and abs(small - whole) > 1e-3


def test_a_smaller_size_is_compared_by_its_own_cosines():
    vectors = unit(8)
    terms = Contrastive((3,), 0, Ranks()).loss(vectors, BEHAVIOURS, torch.tensor(7.0).double())
    assert terms.total.item() == pytest.approx(by_hand(prefix(vectors, 3), BEHAVIOURS, 7.0)[0], rel=1e-12)


def on_a_rank(ranks: Ranks, chunk: int):
    share = len(batch_of().tokens) // ranks.world
    batch = batch_of().split(share)[ranks.rank]
    total, weight, found = gradients(double_embedder(), batch, chunk, ranks)
    return total, weight, {name: gradient.tolist() for name, gradient in found.items()}


def test_two_ranks_equal_one():
    one = on_a_rank(Ranks(), 0)
    two = on_ranks(2, on_a_rank, 2)
    assert sum(each[0] for each in two) == pytest.approx(one[0], rel=1e-12)
    assert sum(each[1] for each in two) == one[1]
    for name, gradient in one[2].items():
        total = sum(torch.tensor(each[2][name], dtype=torch.float64) for each in two)
        assert torch.allclose(total, torch.tensor(gradient, dtype=torch.float64), rtol=1e-9, atol=1e-12), name


def test_a_place_without_a_text_has_no_document():
    assert (batch_of().documents[2, 1] == PADDING).all()
