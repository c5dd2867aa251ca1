"""`linear_cross_entropy` against its plain twin in float64: values, both gradients, every option, odd chunks."""

import pytest
import torch

from configs import UserError
from kernels.loss import _Chunk, _losses, _sum_with_gradients, linear_cross_entropy, linear_cross_entropy_reference

OPTIONS = [
    {},
    {"softcap": 5.0},
    {"label_smoothing": 0.1},
    {"z_loss": 1e-2},
    {"softcap": 3.0, "label_smoothing": 0.2, "z_loss": 1e-2},
]


def inputs(dtype: torch.dtype, N: int = 37, C: int = 11, V: int = 53, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, C, generator=generator).to(dtype)
    weight = torch.randn(V, C, generator=generator).to(dtype)
    targets = torch.randint(-1, V, (N,), generator=generator)
    weights = torch.rand(N, generator=generator)
    return [hidden, weight, targets, weights]


def run(function, arguments, dtype, **options) -> list[torch.Tensor]:
    """[loss, gradient of hidden, gradient of weight] with the inputs cast to dtype, results in float64."""
    hidden, weight = (x.to(dtype).detach().requires_grad_() for x in arguments[:2])
    loss = function(hidden, weight, *arguments[2:], **options)
    (loss.square().sum() / 7).backward()
    return [x.double() for x in (loss.detach(), hidden.grad, weight.grad)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_error_is_at_most_twice_that_of_the_plain_formula(dtype, reduction, options):
    arguments = inputs(dtype)
    options = {**options, "reduction": reduction}
    exact = run(linear_cross_entropy_reference, arguments, torch.float64, **options)
    plain = run(linear_cross_entropy_reference, arguments, dtype, **options)
    for chunk in (1, 10, 37, 100):
        ours = run(linear_cross_entropy, arguments, dtype, chunk=chunk, **options)
        for result, usual, truth in zip(ours, plain, exact, strict=True):
            band = torch.finfo(dtype).eps * truth.abs().max()
            assert (result - truth).abs().max() <= 2 * (usual - truth).abs().max() + band


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_gradcheck(reduction, options):
    hidden, weight, targets, weights = inputs(torch.float64, N=7, C=3, V=5)
    function = lambda h, w: linear_cross_entropy(h, w, targets, weights, chunk=3, reduction=reduction, **options)
    assert torch.autograd.gradcheck(function, (hidden.requires_grad_(), weight.requires_grad_()))


def test_equals_torch_cross_entropy():
    hidden, weight, targets, _ = inputs(torch.float32)
    for smoothing in (0.0, 0.1):
        expected = torch.nn.functional.cross_entropy(
            hidden @ weight.T, targets, ignore_index=-1, reduction="sum", label_smoothing=smoothing
        )
        torch.testing.assert_close(
            linear_cross_entropy(hidden, weight, targets, label_smoothing=smoothing, chunk=8), expected
        )


def test_bf16_loss_is_float32_and_precise():
    """The sum must not be rounded to bf16: 10,000 tokens would lose their last four digits."""
    hidden, weight, targets, _ = inputs(torch.bfloat16, N=10_000)
    loss = linear_cross_entropy(hidden, weight, targets.clamp(min=0))
    exact = linear_cross_entropy_reference(hidden.double(), weight.double(), targets.clamp(min=0))
    assert loss.dtype == torch.float32 and abs(loss / exact - 1) < 1e-4


def test_ignored_and_weightless_tokens_change_nothing():
    hidden, weight, targets, weights = inputs(torch.float32)
    weights[3], targets[5] = 0.0, -100
    loss = lambda h: linear_cross_entropy(h, weight, targets, weights, chunk=4)
    changed = hidden.clone()
    changed[3] += 1.0
    changed[5] -= 2.0
    assert torch.equal(loss(hidden), loss(changed))
    gradient = torch.autograd.grad(loss(hidden.requires_grad_()), hidden)[0]
    assert not gradient[3].any() and not gradient[5].any()


def test_no_logits_are_made_for_tokens_that_do_not_count(monkeypatch):
    hidden, weight, targets, weights = inputs(torch.float32)
    rows, logits = [], _Chunk.logits
    monkeypatch.setattr(_Chunk, "logits", lambda self, hidden: rows.append(len(hidden)) or logits(self, hidden))
    weights[::3] = 0
    linear_cross_entropy(hidden.requires_grad_(), weight, targets, weights, chunk=8).backward()
    assert sum(rows) == int(((targets >= 0) & (weights > 0)).sum()) < len(targets)
    assert not hidden.grad[::3].any() and hidden.grad[(targets >= 0) & (weights > 0)].any(dim=1).all()
    nothing = linear_cross_entropy(hidden, weight, targets, torch.zeros(len(targets)))
    nothing.backward()
    assert nothing == 0


def test_extreme_logits_stay_finite():
    hidden, weight = torch.tensor([[1000.0], [-1000.0]], requires_grad=True), torch.tensor([[1.0], [-1.0]])
    loss = linear_cross_entropy(hidden, weight, torch.tensor([1, 1]))
    loss.backward()
    assert loss == 2000.0 and hidden.grad.isfinite().all()


def test_never_holds_all_logits():
    """No allocation is as large as N x V logits; the largest is one chunk's.

    The logits are the peak of memory (nanochat#443, torchtitan#996), unless chunks begin before the output matrix
    (torchtune#1390).
    """
    hidden, weight, targets, weights = inputs(torch.float32, N=640, V=101)
    hidden.requires_grad_()
    with torch.profiler.profile(profile_memory=True) as profile:
        linear_cross_entropy(hidden, weight.requires_grad_(), targets, weights, chunk=160).backward()
        linear_cross_entropy(hidden, weight, targets, weights, chunk=160, reduction="none").sum().backward()
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert 160 * 101 * 4 <= largest < 640 * 101 * 4 / 2


def test_opcheck():
    hidden, weight, targets, weights = inputs(torch.float32)
    hidden.requires_grad_()
    torch.library.opcheck(_losses, (hidden, weight.requires_grad_(), targets, 4.0, 0.1, 0.01, 10))
    torch.library.opcheck(_sum_with_gradients, (hidden, weight, targets, weights, 0.0, 0.0, 0.0, 10))


def test_compiled_in_one_graph_and_never_again():
    arguments = inputs(torch.float32)
    for reduction in ("sum", "none"):
        loss = lambda h, w, t, f, r=reduction: (linear_cross_entropy(2 * h, w, t, f, reduction=r) * 3).sum()
        torch.compiler.reset()
        compiled = torch.compile(loss, fullgraph=True, dynamic=True)
        with torch._dynamo.config.patch(error_on_recompile=True):
            for N in (37, 20, 9):
                cut = [arguments[0][:N].clone().requires_grad_(), arguments[1]] + [x[:N].clone() for x in arguments[2:]]
                twin = [cut[0].detach().clone().requires_grad_(), *cut[1:]]
                one, two = compiled(*cut), loss(*twin)
                one.backward()
                two.backward()
                torch.testing.assert_close(one, two)
                torch.testing.assert_close(cut[0].grad, twin[0].grad)


def test_autocast():
    hidden, weight, targets, weights = inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets, weights)
    assert torch.equal(loss, linear_cross_entropy(hidden.bfloat16(), weight.bfloat16(), targets, weights))


def test_wrong_input_is_named():
    hidden, weight, targets, weights = inputs(torch.float32)
    with pytest.raises(UserError, match="hidden"):
        linear_cross_entropy(hidden, weight[:, :-1], targets)
    with pytest.raises(UserError, match="targets"):
        linear_cross_entropy(hidden, weight, targets[:-1])
    with pytest.raises(UserError, match="cast"):
        linear_cross_entropy(hidden, weight.double(), targets)
    with pytest.raises(UserError, match="reduction"):
        linear_cross_entropy(hidden, weight, targets, weights, reduction="mean")
