"""The error budget of a kernel, shared by tests and benchmark: at most twice the error of the plain formula.

A fixed tolerance is either too loose for float32 or too tight for bf16. So three runs are compared: the definition in
float64 on the same (rounded) inputs is the truth; the plain formula in the low precision shows what that costs; a
kernel may cost twice as much. A few roundings are granted on top, for sizes at which the plain formula is lucky; sums
over n terms that cancel (gradients of sinks and of broadcast biases) carry sqrt(n) times as many. Where the truth is
zero (the gradient by the query of a row that sees one key) they are those of the largest result: what cancels is not 0.
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


class Budget:
    """The truth and the plain formula's error for one set of inputs, against which several kernels are held."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, dtype: torch.dtype, **options):
        tensors = {name: options[name].to(dtype) for name in ("bias", "sinks") if isinstance(options.get(name), Tensor)}
        self.inputs, self.mask, self.dtype = [x.to(dtype) for x in (q, k, v)], mask, dtype
        self.options = options | tensors
        self.exact = results(reference, *self.inputs, mask, torch.float64, **self.options)
        self.plain = results(reference, *self.inputs, mask, dtype, **self.options)
        pairs = q.shape[0] * q.shape[1] * q.shape[2]
        self.summed = {"dsinks": pairs, "dbias": pairs * k.shape[2]}  # terms of results that were broadcast

    def ratios(self, function: Callable) -> dict[str, float]:
        """For each result the error of `function` over that of the plain formula; 2 is the budget.

        inf where one is NaN or infinite and the truth is not.
        """
        ours = results(function, *self.inputs, self.mask, self.dtype, **self.options)
        return {name: self._ratio(name, ours[name]) for name in self.exact if name in ours}

    def _ratio(self, name: str, ours: Tensor) -> float:
        exact, plain = self.exact[name], self.plain[name]
        finite = exact.isfinite()
        if not torch.equal(ours[~finite], exact[~finite]) or not ours[finite].isfinite().all():
            return float("inf")
        largest = lambda x: x[finite].abs().max().item() if finite.any() else 0.0
        terms = self.summed.get(name, exact.numel()) / max(1, exact.numel())
        scale = largest(exact) or max(each[each.isfinite()].abs().max().item() for each in self.exact.values())
        band = ROUNDINGS * terms**0.5 * torch.finfo(self.dtype).eps * scale
        error, usual = largest(ours - exact), largest(plain - exact)
        return error / (usual + band / 2) if error else 0.0


def error_ratios(
    function: Callable, q: Tensor, k: Tensor, v: Tensor, mask: Mask, dtype: torch.dtype, **options
) -> dict[str, float]:
    """`Budget(...).ratios(function)`."""
    return Budget(q, k, v, mask, dtype, **options).ratios(function)
