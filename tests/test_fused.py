"""Fused operations against torch's own modules, complex rotation and float64; compiled equals plain."""

import pytest
import torch

from kernels.fused import add_rms_norm, compiled, norm_rotary, rms_norm, rotary, rotary_tables, squared_relu, swiglu

B, H, K, T, D = 2, 4, 2, 7, 10


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_rms_norm_equals_torch():
    x, weight = random(B, T, D, dtype=torch.float32), random(D, dtype=torch.float32)
    torch.testing.assert_close(rms_norm(x, weight, 1e-5), torch.nn.functional.rms_norm(x, (D,), weight, 1e-5))
    normed, total = add_rms_norm(x, 2 * x, weight)
    assert torch.equal(total, 3 * x) and torch.equal(normed, rms_norm(3 * x, weight))


def test_rms_norm_of_bf16_is_rounded_once():
    x = random(3, 500, dtype=torch.bfloat16) * 300
    assert torch.equal(rms_norm(x), rms_norm(x.double()).to(torch.bfloat16))


def test_rotary_is_complex_multiplication():
    x = random(B, H, T, D)
    positions = torch.arange(T) + 5
    angle = positions[:, None].double() * 100.0 ** (torch.arange(0, D, 2).double() / -D)
    turned = torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones_like(angle), angle)
    expected = torch.cat([turned.real, turned.imag], -1)
    torch.testing.assert_close(rotary(x, *rotary_tables(positions, D, 100.0)), expected, rtol=0, atol=1e-6)


def test_rotary_scores_depend_on_distance_only():
    q, k = random(1, 1, 1, D), random(1, 1, 1, D, seed=1)
    score = lambda at, to: (
        rotary(q, *rotary_tables(torch.tensor([at]), D)) * rotary(k, *rotary_tables(torch.tensor([to]), D))
    ).sum()
    torch.testing.assert_close(score(3, 1), score(1003, 1001), rtol=1e-6, atol=1e-6)


def test_rows_may_have_their_own_positions():
    x = random(B, H, T, D)
    positions = torch.stack([torch.arange(T), torch.arange(T) + 3])
    together = rotary(x, *rotary_tables(positions, D))
    for b in range(B):
        assert torch.equal(together[b], rotary(x[b : b + 1], *rotary_tables(positions[b], D))[0])


def test_late_positions_keep_their_angle():
    cos, _ = rotary_tables(torch.tensor([1_000_003]), 2)
    torch.testing.assert_close(
        cos[0, 0].double(), torch.tensor(1_000_003.0, dtype=torch.float64).cos(), rtol=0, atol=1e-6
    )


def test_activations():
    x, up = random(5, 3), random(5, 3, seed=1)
    torch.testing.assert_close(swiglu(x, up), x * torch.sigmoid(x) * up)
    assert torch.equal(squared_relu(x), torch.where(x > 0, x * x, 0.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_is_as_exact_as_plain(dtype):
    """Output and gradients against float64, with at most twice the error of the plain function."""
    shapes = [(B, H, T, D), (B, K, T, D), (D,), (D,)]
    tables = rotary_tables(torch.arange(T), D)

    def run(function, to):
        q, k, q_weight, k_weight = (
            random(*s, seed=i, dtype=dtype).to(to).requires_grad_() for i, s in enumerate(shapes)
        )
        out = function(q, k, *(t.to(to if to == torch.float64 else torch.float32) for t in tables), q_weight, k_weight)
        sum((x * random(*x.shape, seed=9).to(x)).sum() for x in out).backward()
        return [x.detach().double() for x in (*out, q.grad, k.grad, q_weight.grad, k_weight.grad)]

    exact, plain, fast = run(norm_rotary, torch.float64), run(norm_rotary, dtype), run(compiled(norm_rotary), dtype)
    for truth, usual, ours in zip(exact, plain, fast, strict=True):
        band = 4 * torch.finfo(dtype).eps * truth.abs().max()  # sums in another order
        assert (ours - truth).abs().max() <= 2 * (usual - truth).abs().max() + band
