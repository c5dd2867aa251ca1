"""Every implementation against the definition in float64: all masks, dtypes, options, odd sizes, outputs and gradients.

The budget is `kernels.accuracy`: at most twice the error of the plain formula in the same precision.
"""

import pytest
import torch
from hypothesis import given, settings

from configs import UserError
from kernels import (
    IMPLEMENTATIONS,
    ALiBi,
    Causal,
    Document,
    Full,
    Padding,
    Prefix,
    Window,
    attention,
    explain,
    paged_decode,
)
from kernels import table as table_module
from kernels.accuracy import error_ratios
from kernels.blocked import _backward, _forward, blocked, plan
from kernels.dispatch import why_not
from kernels.lse import merge
from kernels.reference import reference
from tests.test_masks import cases

B, H, K, D = 2, 4, 2, 8
# (T, S): one query, odd, larger than a block, more keys than queries, more queries than keys
SIZES = [(1, 1), (7, 7), (129, 129), (1, 70), (33, 100), (100, 33)]
EAGER = ["reference", "sdpa", "blocked", "online", "decode"]  # flex and triton have their own tests below


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tensors(T: int, S: int, heads: int = H, key_heads: int = K) -> list[torch.Tensor]:
    return [random(B, heads, T, D), random(B, key_heads, S, D, seed=1), random(B, key_heads, S, D, seed=2)]


def masks(T: int, S: int) -> dict:
    """One of each kind, and combinations; the second row of the batch holds queries that see nothing."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(-1, 3, (B, T), generator=generator).sort(-1)[0]
    key_ids = torch.randint(-1, 3, (B, S), generator=generator).sort(-1)[0]
    mixed = Document(torch.randint(0, 3, (B, T), generator=generator), torch.randint(0, 3, (B, S), generator=generator))
    return {
        "full": Full(),
        "causal": Causal(),
        "rows": Causal(offset=torch.tensor([S - T, -2])),
        "window": Window(5, 2),
        "prefix": Prefix(torch.tensor([S // 2, 0])),
        "padding": Causal() & Padding(torch.tensor([S, 0])),
        "documents": Causal() & Document(ids, key_ids),
        "mixed": Window(40, 40) & mixed,
    }


def options_of(T: int, S: int) -> dict[str, dict]:
    return {
        "softcap": {"softcap": 2.0},
        "scale": {"scale": 0.3},
        "alibi": {"bias": ALiBi.for_heads(H)},
        "bias": {"bias": random(B, H, T, S, seed=5)},
        "bias-heads": {"bias": random(H, 1, S, seed=5)},
        "sinks": {"sinks": random(H, seed=6)},
        "lse": {"return_lse": True},
        "all": {"softcap": 3.0, "bias": random(T, S, seed=5), "sinks": random(H, seed=6), "return_lse": True},
    }


def check(name: str, T: int, S: int, mask, dtype: torch.dtype, **options) -> None:
    ratios = error_ratios(IMPLEMENTATIONS[name], *tensors(T, S), mask, dtype, **options)
    assert max(ratios.values()) <= 2.0, ratios


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", masks(1, 1))
@pytest.mark.parametrize("name", EAGER)
def test_every_mask_and_size(name, kind, size, dtype):
    check(name, *size, masks(*size)[kind], dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("option", options_of(1, 1))
@pytest.mark.parametrize("name", ["blocked", "online", "decode"])
def test_every_option(name, option, dtype):
    T, S = 70, 81
    for kind in ("causal", "padding", "mixed"):
        check(name, T, S, masks(T, S)[kind], dtype, **options_of(T, S)[option])


@settings(max_examples=40, deadline=None)
@given(cases())
def test_blocked_on_random_masks(case):
    mask, rows, T, S = case
    q, k, v = (random(rows, 2, n, D, seed=n) for n in (T, S, S + 1))
    ratios = error_ratios(blocked, q, k, v[:, :, :S], mask, torch.float32)
    assert max(ratios.values()) <= 2.0, ratios


def document_ids(T: int, kind: str) -> torch.Tensor:
    """(B, T): documents one after another with padding behind, or ids that come back."""
    generator = torch.Generator().manual_seed(T)
    if kind == "scattered":
        return torch.randint(-1, 3, (B, T), generator=generator)
    ids = torch.randint(0, 4, (B, T), generator=generator).sort(-1)[0]
    ids[1, T - T // 3 :] = -1
    return ids


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", ["contiguous", "scattered"])
@pytest.mark.parametrize("T", [7, 64, 129])
def test_segments_on_documents(T, kind, causal, dtype):
    mask = Document(document_ids(T, kind))
    check_same_heads("segments", T, Causal() & mask if causal else mask, dtype)


def check_same_heads(name: str, T: int, mask, dtype: torch.dtype) -> None:
    ratios = error_ratios(IMPLEMENTATIONS[name], *tensors(T, T, H, H), mask, dtype)
    assert max(ratios.values()) <= 2.0, ratios


@pytest.mark.parametrize("kind", ["contiguous", "scattered"])
def test_segments_derivatives_and_operators(kind):
    ids = document_ids(9, kind)
    inputs = [x.double()[:, :, :, :3].contiguous().requires_grad_() for x in tensors(9, 9, H, H)]
    mask = Causal() & Document(ids)
    assert torch.autograd.gradcheck(lambda q, k, v: IMPLEMENTATIONS["segments"](q, k, v, mask), inputs)
    torch.library.opcheck(torch.ops.zhiling.segments.default, (*tensors(9, 9, H, H), ids, True, 0.5))


def test_segments_are_not_compiled_again_for_other_documents():
    torch.compiler.reset()
    function = torch.compile(
        lambda q, k, v, ids: attention(2 * q, k, v, Causal() & Document(ids), impl="segments"), fullgraph=True
    )
    with torch._dynamo.config.patch(error_on_recompile=True):
        for kind in ("contiguous", "scattered", "contiguous"):
            q, k, v = tensors(64, 64, H, H)
            ids = document_ids(64, kind)
            expected = attention(2 * q, k, v, Causal() & Document(ids), impl="reference")
            torch.testing.assert_close(function(q, k, v, ids), expected)


def test_auto_takes_documents_apart_and_says_so():
    q, k, v = tensors(600, 600, H, H)
    choice = explain(q, k, v, Causal() & Document(document_ids(600, "contiguous")))
    assert choice.impl == "segments" and "documents" in choice.reason
    assert explain(q, k, v, Window(3) & Document(document_ids(600, "contiguous"))).impl == "blocked"
    assert explain(q, *tensors(600, 600)[1:], Document(document_ids(600, "contiguous"))).impl == "blocked"
    with pytest.raises(UserError, match="segments is for documents"):
        attention(q, k, v, impl="segments")


@pytest.mark.parametrize("option", ["none", *options_of(1, 1)])
@pytest.mark.parametrize("name", ["reference", "blocked", "online", "decode"])
def test_gradcheck(name, option):
    """Derivatives by hand equal finite differences, in float64."""
    T, S = 5, 7
    options = {} if option == "none" else options_of(T, S)[option]
    inputs = [x.double()[:, :, :, :3].requires_grad_() for x in tensors(T, S)]
    learned = {n: x.double().requires_grad_() for n, x in options.items() if isinstance(x, torch.Tensor)}
    mask = masks(T, S)["padding"] & Window(3, 1)

    def function(q, k, v, *extra):
        result = IMPLEMENTATIONS[name](q, k, v, mask, **{**options, **dict(zip(learned, extra))})
        if isinstance(result, tuple):  # -inf has no finite difference
            result = (result[0], result[1].masked_fill(result[1] == -torch.inf, 0.0))
        return result

    assert torch.autograd.gradcheck(function, (*inputs, *learned.values()))


@pytest.mark.parametrize("name", EAGER)
def test_a_query_that_sees_nothing_gives_zeros_and_no_gradient(name):
    """It gives NaN elsewhere (pytorch#103749, OLMo#322, transformers#38690)."""
    q, k, v = (x.requires_grad_() for x in tensors(6, 6))
    mask = Document(torch.tensor([[0, 0, 0, -1, 1, 1], [-1] * 6]))
    out = attention(q, k, v, mask, impl=name)
    assert not out[0, :, 3].any() and not out[1].any() and out[0, :, :3].all()
    out.sum().backward()
    for gradient in (q.grad, k.grad, v.grad):
        assert gradient.isfinite().all() and not gradient[0, :, 3].any() and not gradient[1].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", ["sdpa", "reference", "blocked"])
def test_documents_do_not_leak_a_bit(name, dtype):
    """Changing one document leaves the others' outputs and gradients bit-equal."""
    T = 150
    mask = Causal() & Document((torch.arange(T) // 50).expand(B, T))
    one = [x.to(dtype) for x in tensors(T, T)]
    two = [x.clone() for x in one]
    for x in two:
        x[:, :, 50:100] = 7.0
    got = []
    for q, k, v in (one, two):
        q.requires_grad_()
        out = attention(q, k, v, mask, impl=name)
        got.append((out, torch.autograd.grad(out.float().square().sum(), q)[0]))
    for first, second in zip(*got):
        assert torch.equal(first[:, :, :50], second[:, :, :50]) and torch.equal(first[:, :, 100:], second[:, :, 100:])
        assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ["sdpa", "reference", "blocked", "decode"])
def test_row_does_not_depend_on_the_batch(name):
    q, k, v = tensors(40, 40)
    together = attention(q, k, v, impl=name)
    assert torch.equal(together[1:], attention(q[1:], k[1:], v[1:], impl=name))


def test_grouped_heads_are_neighbours():
    """Query head h reads key head h // (H / K), as if keys were repeated one after another."""
    q, k, v = tensors(9, 9)
    repeated = [x.repeat_interleave(H // K, dim=1) for x in (k, v)]
    for name in EAGER:
        torch.testing.assert_close(attention(q, k, v, impl=name), attention(q, *repeated, impl="reference"))


@pytest.mark.parametrize("name", EAGER)
def test_layout_does_not_matter(name):
    """Transposed, expanded and overlapping inputs (q is k is v) give what contiguous copies give."""
    x = random(B, 20, 4, D).transpose(1, 2).requires_grad_()
    wide = random(1, 4, 20, D, seed=1).expand(B, -1, -1, -1)
    for q, k, v in ((x, x, x), (x, wide, wide)):
        out = attention(q, k, v, impl=name)
        copies = [a.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for a in (q, k, v)]
        expected = attention(*copies, impl=name)
        torch.testing.assert_close(out, expected)
        out.square().sum().backward()
        expected.square().sum().backward()
        torch.testing.assert_close(x.grad, sum(c.grad for c in copies) if k is x else copies[0].grad)
        x.grad = None


def test_cached_decoding_equals_the_full_pass():
    """The last query alone, against a right-padded cache with unequal lengths, equals its row of the full pass."""
    lengths = torch.tensor([5, 9])
    q, k, v = tensors(9, 12)
    full = attention(q, k[:, :, :9], v[:, :, :9], impl="reference")
    for name in EAGER:
        last = torch.stack([q[b, :, n - 1 : n] for b, n in enumerate(lengths.tolist())])
        out = attention(last, k, v, Causal(offset=lengths - 1), impl=name)
        for b, n in enumerate(lengths.tolist()):
            torch.testing.assert_close(out[b, :, 0], full[b, :, n - 1])


def test_decoding_in_parts_and_in_pages():
    lengths, page = torch.tensor([5, 12]), 4
    q, k, v = tensors(1, 12)
    expected = attention(q, k, v, Causal(offset=lengths - 1), impl="reference")
    for parts in (2, 3, 12):
        ours = IMPLEMENTATIONS["decode"](q, k, v, Causal(offset=lengths - 1), parts=parts)
        torch.testing.assert_close(ours, expected)
    order = torch.tensor([4, 0, 5, 2, 1, 3])  # pages of the pool in which the pages of the rows lie
    pool_k, pool_v = torch.empty(6, K, page, D), torch.empty(6, K, page, D)
    for pool, x in ((pool_k, k), (pool_v, v)):
        pool[order] = x.view(B, K, 3, page, D).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(paged_decode(q, pool_k, pool_v, order.view(B, 3), lengths), expected)


def test_merge_of_an_empty_part_changes_nothing():
    out, lse = random(1, 3, 5), random(1, 3)
    nothing = torch.zeros(1, 3, 5), torch.full((1, 3), -torch.inf)
    merged, total = merge(torch.cat([out, nothing[0]]), torch.cat([lse, nothing[1]]))
    torch.testing.assert_close(merged, out[0])
    torch.testing.assert_close(total, lse[0])
    assert not merge(nothing[0], nothing[1])[0].any()


def test_opcheck():
    """PyTorch's own checks of an operator: schema, autograd registration, fake kernel, dynamic shapes."""
    T = 11
    for kind, bias in (("causal", None), ("documents", random(1, H, T, T))):
        spans = masks(T, T)[kind].spans(T, T)
        q, k, v = (x.requires_grad_() for x in tensors(T, T))
        bias = None if bias is None else bias.requires_grad_()
        masking = (spans.low, spans.high, spans.query_ids, spans.key_ids, bias, None, None)
        torch.library.opcheck(_forward, (q, k, v, *masking, 0.3, 0.0, bias is not None))
        tensors_of = [x.detach() if isinstance(x, torch.Tensor) else x for x in (q, k, v, *masking)]
        torch.library.opcheck(_backward, (torch.ones_like(q), None, *tensors_of, 0.3, 0.0, bias is not None))


def test_compiled_once_for_all_lengths_and_masks():
    """A compiled model holds one node: no graph break, and no compilation for other values, lengths or documents."""

    def model(q, k, v, ids):
        return attention(2 * q, k, v, Causal() & Document(ids), impl="blocked")

    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for step, T in enumerate((65, 40, 130)):
            q, k, v = (x.requires_grad_() for x in tensors(T, T))
            ids = (torch.arange(T) // (7 + step)).expand(B, T).contiguous()
            gradients = torch.autograd.grad(compiled(q, k, v, ids).square().sum(), (q, k, v))
            expected = torch.autograd.grad(model(q, k, v, ids).square().sum(), (q, k, v))
            for ours, theirs in zip(gradients, expected):
                torch.testing.assert_close(ours, theirs)


def test_auto_compiles_in_one_graph():
    """`auto` decides while tracing; 20 steps of equal shapes compile once."""

    def model(q, k, v, lengths):
        out = attention(q, k, v, Window(9) & Padding(lengths), softcap=5.0)
        return out + attention(q, k, v) + attention(q, k, v, Causal(offset=lengths - 1), bias=ALiBi.for_heads(H))

    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True)
    q, k, v = (x.bfloat16() for x in tensors(12, 12))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for step in range(20):
            lengths = torch.tensor([12, 1 + step % 12])
            out = compiled(q, k, v, lengths)
    torch.testing.assert_close(out, model(q, k, v, lengths), rtol=2e-2, atol=2e-2)


def test_blocked_memory_grows_with_length_not_its_square():
    """No allocation of T x T: the largest is a workspace, whose size is linear in T."""
    sizes = []
    for T in (1024, 2048):
        q, k, v = (random(1, 1, T, 8).requires_grad_() for _ in range(3))
        with torch.profiler.profile(profile_memory=True) as profile:
            blocked(q, k, v, Causal()).sum().backward()
        sizes.append(max(event.self_cpu_memory_usage for event in profile.events()))
    assert sizes[1] <= 2.1 * sizes[0] and sizes[1] < 2048 * 2048 * 4 / 2


def test_plan_skips_what_is_hidden():
    """The work planned for a window is proportional to the window, and for documents to the documents."""
    T = 4096
    pairs = lambda mask: sum(
        (b.queries.stop - b.queries.start) * (b.keys.stop - b.keys.start) for b in plan(mask.spans(T, T), T, 128)[0]
    )
    documents = Causal() & Document((torch.arange(T) // 512)[None])
    assert pairs(Full()) == T * T
    assert pairs(Causal()) <= 1.04 * T * T / 2
    assert pairs(Window(256)) <= T * (256 + 128 + 64)
    assert pairs(documents) <= 8 * 512 * (512 + 128) / 2


def test_alibi_slopes_are_the_papers():
    assert ALiBi.for_heads(8).slopes.tolist() == [2.0**-i for i in range(1, 9)]
    slopes = ALiBi.for_heads(6).slopes
    torch.testing.assert_close(slopes, torch.tensor([2.0**-i for i in (2, 4, 6, 8, 1, 3)]))
    assert ALiBi(torch.ones(1)).dense(2, 3)[0, 0].tolist() == [[-1, 0, -1], [-2, -1, 0]]


def test_learned_alibi_slopes_get_a_gradient_from_auto():
    q, k, v = tensors(6, 6)
    slopes = torch.ones(H, requires_grad=True)
    attention(q, k, v, bias=ALiBi(slopes)).sum().backward()
    assert slopes.grad.abs().sum() > 0


def test_autocast():
    q, k, v = tensors(9, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attention(q, k, v, Window(3), impl="blocked")
    assert torch.equal(out, attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), Window(3), impl="blocked"))


def test_explain_says_what_auto_does(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    table_module._calibrated.cache_clear()
    q, k, v = (x.bfloat16() for x in tensors(20, 20))
    assert explain(q, k, v) == explain(q, k, v, Causal())
    assert explain(q, k, v).impl == "reference" and "built-in" in explain(q, k, v).reason
    assert explain(q, k, v, softcap=3.0).impl == "reference"
    long = [random(1, 1, 600, D)] * 3
    assert explain(*long).impl == "sdpa" and explain(*long, Window(3)).impl == "blocked"
    assert explain(*long, sinks=torch.zeros(1)).impl == "blocked"
    assert "no sinks" in explain(*long, sinks=torch.zeros(1)).reason
    table_module._calibrated.cache_clear()


def test_a_calibration_is_used_on_its_own_machine_only(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    x = random(1, 1, 20, D)
    try:
        table_module.write_calibration({"cpu/float32/plain/forward": ((None, "blocked"),)})
        assert explain(x, x, x).impl == "blocked" and "this machine" in explain(x, x, x).reason
        monkeypatch.setattr(table_module, "cpu_name", lambda: "another")
        table_module._calibrated.cache_clear()
        assert explain(x, x, x).impl == "sdpa"
        table_module.calibration_file().write_text("{damaged", encoding="utf-8")
        table_module._calibrated.cache_clear()
        assert explain(x, x, x).impl == "sdpa"
    finally:
        table_module._calibrated.cache_clear()


def test_wrong_input_is_one_sentence():
    q, k, v = tensors(4, 4)
    for arguments, options, words in (
        ((q, k, v), {"impl": "fast"}, "choose one of"),
        ((q[0], k, v), {}, "axes"),
        ((q[:, :3], k, v), {}, "multiple"),
        ((q, k, v[:, :, :3]), {}, "do not fit"),
        ((q, k.double(), v), {}, "one dtype"),
        ((q, k, v), {"sinks": torch.zeros(3)}, "sinks"),
        ((q, k, v), {"impl": "sdpa", "softcap": 3.0}, "no softcap"),
    ):
        with pytest.raises(UserError, match=words):
            attention(*arguments, **options)


def test_flex_forward_is_right_and_its_limit_is_said():
    torch.compiler.reset()
    mask, options = masks(150, 170)["documents"], {"softcap": 3.0, "gradients": False}
    ratios = error_ratios(IMPLEMENTATIONS["flex"], *tensors(150, 170), mask, torch.float32, **options)
    assert max(ratios.values()) <= 2.0, ratios
    q, k, v = tensors(4, 4)
    with pytest.raises(UserError, match="no backward pass on a CPU"):
        attention(q.requires_grad_(), k, v, impl="flex")


@pytest.mark.slow
@pytest.mark.parametrize("kind", masks(1, 1))
@pytest.mark.parametrize("option", ["none", "softcap", "scale", "alibi", "bias", "bias-heads"])
def test_flex_everywhere(kind, option):
    torch.compiler.reset()
    T, S = 130, 150
    options = {} if option == "none" else options_of(T, S)[option]
    ratios = error_ratios(
        IMPLEMENTATIONS["flex"], *tensors(T, S), masks(T, S)[kind], torch.float32, gradients=False, **options
    )
    assert max(ratios.values()) <= 2.0, ratios


def test_online_fused_by_the_compiler_is_as_exact():
    torch.compiler.reset()
    compiled = torch.compile(IMPLEMENTATIONS["online"], fullgraph=True)
    function = lambda *arguments, **options: compiled(*arguments, block=32, **options)
    ratios = error_ratios(function, *tensors(65, 65), masks(65, 65)["documents"], torch.bfloat16)
    assert max(ratios.values()) <= 2.0, ratios


def test_the_reference_is_softmax_attention():
    """The definition itself, against four lines that share nothing with it."""
    q, k, v = (x.double() for x in tensors(5, 5, H, H))
    weights = torch.exp(torch.einsum("bhtd,bhsd->bhts", q, k) / D**0.5).tril()
    expected = torch.einsum("bhts,bhsd->bhtd", weights / weights.sum(-1, keepdim=True), v)
    torch.testing.assert_close(reference(q, k, v), expected)
    assert why_not("reference", None) is None
