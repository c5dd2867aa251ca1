"""Masks: the three answers (element, dense, block) agree, for single masks, for combinations, for odd sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import UserError
from kernels.masks import EMPTY, FULL, PARTIAL, Causal, Document, Full, Mask, Padding, Prefix, Window


@st.composite
def cases(draw) -> tuple[Mask, int, int, int]:
    """A random combination of one to three masks with its B, T, S."""
    B, T, S = draw(st.integers(1, 3)), draw(st.integers(1, 23)), draw(st.integers(1, 23))
    integers = lambda low, high, shape: torch.tensor(
        draw(st.lists(st.integers(low, high), min_size=shape, max_size=shape))
    )
    offset = draw(st.sampled_from(["default", "int", "rows"]))
    offset = None if offset == "default" else draw(st.integers(-3, 9)) if offset == "int" else integers(-3, 9, B)
    masks = [
        lambda: Full(),
        lambda: Causal(offset),
        lambda: Window(draw(st.integers(0, 9)), draw(st.integers(0, 9)), offset),
        lambda: Prefix(integers(0, S, B), offset),
        lambda: Padding(integers(0, S, B)),
        lambda: Document(integers(-1, 2, B * T).view(B, T), integers(-1, 2, B * S).view(B, S)),
        lambda: Document(integers(0, 2, B * T).view(B, T).sort(-1)[0], integers(0, 2, B * S).view(B, S).sort(-1)[0]),
    ]
    chosen = draw(st.lists(st.sampled_from(masks), min_size=1, max_size=3))
    mask = chosen[0]()
    for make in chosen[1:]:
        mask = mask & make()
    return mask, B, T, S


def by_hand(mask: Mask, B: int, T: int, S: int) -> torch.Tensor:
    """The dense mask, one element at a time."""
    number = lambda x: torch.tensor(x)
    rows = [
        [[bool(mask.visible(number(b), number(t), number(s), S - T)) for s in range(S)] for t in range(T)]
        for b in range(B)
    ]
    return torch.tensor(rows)[:, None]


@settings(max_examples=60, deadline=None)
@given(cases())
def test_dense_and_spans_are_the_definition(case):
    mask, B, T, S = case
    expected = by_hand(mask, B, T, S)
    assert torch.equal(mask.dense(B, T, S).expand_as(expected), expected)
    assert torch.equal(mask.spans(T, S).dense(S).expand_as(expected), expected)


@settings(max_examples=150, deadline=None)
@given(cases(), st.integers(1, 9), st.integers(1, 9))
def test_block_map_never_lies(case, block_q, block_k):
    """EMPTY blocks hold no visible pair, FULL blocks no hidden one."""
    mask, B, T, S = case
    blocks = mask.blocks(B, T, S, block_q, block_k)
    assert blocks.shape[1:] == (-(-T // block_q), -(-S // block_k))
    for b, i, j in blocks.expand(B, -1, -1).cpu().ne(PARTIAL).nonzero().tolist():
        tile = mask.dense(B, T, S).expand(B, 1, T, S)[b, 0, i * block_q :, j * block_k :][:block_q, :block_k]
        kind = blocks.expand(B, -1, -1)[b, i, j]
        assert tile.all() if kind == FULL else not tile.any()


@pytest.mark.parametrize("mask", [Causal(), Window(5), Causal() & Document(torch.arange(64)[None] // 16)])
def test_block_map_is_sharp_where_it_should_be(mask):
    """For regular masks on aligned blocks every block is told exactly: otherwise nothing would be skipped."""
    blocks, dense = mask.blocks(1, 64, 64, 8, 8), mask.dense(1, 64, 64)[0, 0].view(8, 8, 8, 8).transpose(1, 2)
    assert torch.equal(blocks[0] == EMPTY, ~dense.any(-1).any(-1))
    assert torch.equal(blocks[0] == FULL, dense.all(-1).all(-1))


def test_sees_something_is_never_wrong():
    for mask in (Full(), Causal(), Window(2), Causal() & Window(3), Prefix(torch.tensor([0]))):
        for T, S in ((1, 5), (5, 5), (5, 2)):
            if mask.sees_something(T, S):
                assert mask.dense(1, T, S).any(-1).all(), mask
    assert Causal().sees_something(5, 5) and not Causal().sees_something(5, 2)
    assert not (Causal() & Padding(torch.tensor([0]))).sees_something(5, 5)


def test_default_offset_is_bottom_right():
    assert Causal().dense(1, 2, 4)[0, 0].tolist() == [[True, True, True, False], [True] * 4]


def test_cached_decoding_gives_each_row_its_own_position():
    """Row b has offset[b] keys behind it; the right-padded rest of the cache is hidden."""
    mask = Causal(offset=torch.tensor([0, 3]))
    assert mask.dense(2, 1, 5)[:, 0, 0].tolist() == [[True] + [False] * 4, [True] * 4 + [False]]


def test_padding_tokens_see_nothing_and_are_seen_by_nothing():
    seen = Document(torch.tensor([[0, 0, -1, 1]])).dense(1, 4, 4)[0, 0]
    assert not seen[2].any() and not seen[:, 2].any() and seen[0, 1] and not seen[0, 3]


def test_wrong_sizes_are_named():
    with pytest.raises(UserError, match="T = 3"):
        Document(torch.zeros(1, 4, dtype=torch.long)).spans(3, 3)
    with pytest.raises(UserError, match="0 or more"):
        Window(-1)


def test_masks_are_built_inside_a_compiled_graph():
    """A model constructs its masks in its forward pass: no graph break, and none is compiled again for new values."""

    def total(ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        mask = Causal() & Document(ids) & Padding(lengths)
        return mask.dense(2, 7, 7).sum() + mask.blocks(2, 7, 7, 4, 4).sum()

    compiled = torch.compile(total, fullgraph=True)
    torch.compiler.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            ids = torch.randint(-1, 3, (2, 7), generator=generator)
            lengths = torch.randint(0, 8, (2,), generator=generator)
            assert compiled(ids, lengths) == total(ids, lengths)
