"""The error budget of a kernel, shared by tests and benchmark: at most twice the error of the plain formula.

A fixed tolerance is either too loose for float32 or too tight for bf16. So three runs are compared: the definition in
float64 on the same (rounded) inputs is the truth; the plain formula in the low precision shows what that costs; a
kernel may cost twice as much. A few roundings are granted on top, for sizes at which the plain formula is lucky; sums
over n terms that cancel (gradients of sinks and of broadcast biases) carry sqrt(n) times as many.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kernels.bias import Bias
from kernels.masks import Mask
from kernels.reference import reference

ROUNDINGS = 4.0  # granted on top, in units of the dtype's epsilon times the largest true value


def results(
    function: Callable,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask,
    dtype: torch.dtype,
    *,
    gradients: bool = True,
    bias: Bias = None,
    sinks: Tensor | None = None,
    **options,
) -> dict[str, Tensor]:
    """Output, and gradients of a fixed random functional of it, computed in `dtype`, returned in float64.

    Keys: "out", with return_lse "lse", and with gradients "dq", "dk", "dv", "dbias", "dsinks" for those that exist.
    """
    inputs = {"dq": q, "dk": k, "dv": v}
    if isinstance(bias, Tensor):
        inputs["dbias"] = bias
    if sinks is not None:
        inputs["dsinks"] = sinks
    inputs = {name: x.detach().to(dtype).requires_grad_(gradients) for name, x in inputs.items()}
    bias = inputs.get("dbias", bias)
    if "dsinks" in inputs:
        options["sinks"] = inputs["dsinks"]
    with torch.set_grad_enabled(gradients):
        result = function(inputs["dq"], inputs["dk"], inputs["dv"], mask, bias=bias, **options)
    named = dict(zip(("out", "lse"), result if isinstance(result, tuple) else (result,)))
    found = {name: x.detach().double() for name, x in named.items()}
    if gradients:
        generator = torch.Generator(q.device).manual_seed(1)
        total = sum(
            (x * torch.randn(x.shape, generator=generator, device=q.device, dtype=torch.float32).to(x.dtype))
            .masked_fill(x == -torch.inf, 0.0)
            .sum(dtype=torch.float64)
            for x in named.values()
        )
        for name, gradient in zip(inputs, torch.autograd.grad(total, tuple(inputs.values()))):
            found[name] = gradient.double()
    return found


def error_ratios(
    function: Callable, q: Tensor, k: Tensor, v: Tensor, mask: Mask, dtype: torch.dtype, **options
) -> dict[str, float]:
    """For each result the error of `function` over that of the plain formula, in `dtype`; 2 is the budget.

    inf where one is NaN or infinite and the truth is not.
    """
    q, k, v = (x.to(dtype) for x in (q, k, v))
    options |= {name: options[name].to(dtype) for name in ("bias", "sinks") if isinstance(options.get(name), Tensor)}
    exact = results(reference, q, k, v, mask, torch.float64, **options)
    plain = results(reference, q, k, v, mask, dtype, **options)
    ours = results(function, q, k, v, mask, dtype, **options)
    pairs = q.shape[0] * q.shape[1] * q.shape[2]
    terms = {"dsinks": pairs, "dbias": pairs * k.shape[2]}  # summed over the axes along which they are broadcast
    count = {name: terms.get(name, exact[name].numel()) / max(1, exact[name].numel()) for name in exact}
    return {name: _ratio(ours[name], plain[name], exact[name], dtype, count[name]) for name in exact}


def _ratio(ours: Tensor, plain: Tensor, exact: Tensor, dtype: torch.dtype, terms: float) -> float:
    finite = exact.isfinite()
    if not torch.equal(ours[~finite], exact[~finite]) or not ours[finite].isfinite().all():
        return float("inf")
    largest = lambda x: x[finite].abs().max().item() if finite.any() else 0.0
    band = ROUNDINGS * terms**0.5 * torch.finfo(dtype).eps * largest(exact)
    error = largest((ours - exact).masked_fill(~finite, 0.0))
    usual = largest((plain - exact).masked_fill(~finite, 0.0))
    return error / (usual + band / 2) if error else 0.0
