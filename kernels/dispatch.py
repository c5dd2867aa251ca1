"""One signature, several implementations: `attention` checks its input, chooses, and calls; `explain` says why.

The choice is made in Python from shapes, dtype, device, the kind of mask and whether gradients are wanted; never from
the values of a tensor, so it happens while `torch.compile` traces and costs nothing afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from configs import UserError
from kernels.bias import ALiBi, Bias
from kernels.blocked import blocked
from kernels.decode import decode
from kernels.flex import flex
from kernels.masks import CAUSAL, Mask
from kernels.online import online
from kernels.reference import reference
from kernels.sdpa import is_plain, sdpa
from kernels.segments import documents_of, segments
from kernels.table import rules, source
from kernels.triton_flash import triton, triton_obstacle


class Choice(NamedTuple):
    """impl: name of the implementation. reason: one sentence."""

    impl: str
    reason: str


@dataclass(frozen=True)
class Call:
    """What a choice may depend on: everything about one call of `attention` except the values."""

    device: str
    dtype: torch.dtype
    T: int
    S: int
    plain_mask: bool
    documents: bool
    grouped: bool
    training: bool
    bias: str  # "none", "alibi", "tensor" or "learned"
    softcap: bool
    sinks: bool
    lse: bool


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask = CAUSAL,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    bias: Bias = None,
    sinks: Tensor | None = None,
    return_lse: bool = False,
    impl: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax attention (Vaswani et al. 2017) with grouped queries (Ainslie et al. 2023).

    q: (B, H, T, D). k: (B, K, S, D), v: (B, K, S, D), H a multiple of K: query head h reads key head h // (H / K).
    mask: see `kernels.masks`. A query that may attend to nothing gives zeros and zero gradients.
    scale: of the scores, by default D ** -0.5. softcap: scores become softcap * tanh(scores / softcap) (Gemma 2).
    bias: added after the softcap; a tensor that broadcasts to (B, H, T, S), differentiable, or `ALiBi`.
    sinks: (H,), one learned extra logit per head that takes weight and gives nothing (gpt-oss).
    return_lse: also return the log-sum-exp of each query's scores, (B, H, T) float32 (-inf where nothing is seen).
    impl: "auto", or the name of one implementation (`IMPLEMENTATIONS`).
    Returns (B, H, T, D) in the dtype of q. Raises UserError for shapes that do not fit, an unknown impl, or one that
    cannot do what is asked. Under `torch.autocast` the inputs are cast to its dtype.
    """
    q, k, v = _autocast(q, k, v)
    _check_shapes(q, k, v, sinks)
    if isinstance(bias, ALiBi) and bias.slopes.requires_grad:
        bias = bias.dense(q.shape[2], k.shape[2])  # learned slopes get their gradient through the tensor
    call = _describe(q, k, v, mask, softcap, bias, sinks, return_lse)
    if impl == "auto":
        impl = choose(call).impl
    elif impl not in IMPLEMENTATIONS:
        raise UserError(f"unknown impl {impl!r}; choose one of auto, {', '.join(IMPLEMENTATIONS)}.")
    obstacle = why_not(impl, call)
    if obstacle:
        raise UserError(f"impl={impl!r} cannot do this call: {obstacle}; use impl='auto'.")
    options = {}
    if softcap is not None:
        options["softcap"] = softcap
    if sinks is not None:
        options["sinks"] = sinks
    if return_lse:
        options["return_lse"] = True
    return IMPLEMENTATIONS[impl](q, k, v, mask, scale=scale, bias=bias, **options)


def explain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask = CAUSAL,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    bias: Bias = None,
    sinks: Tensor | None = None,
    return_lse: bool = False,
) -> Choice:
    """Which implementation `attention(..., impl="auto")` takes for these arguments, and why."""
    q, k, v = _autocast(q, k, v)
    _check_shapes(q, k, v, sinks)
    return choose(_describe(q, k, v, mask, softcap, bias, sinks, return_lse))


def why_not(impl: str, call: Call) -> str | None:
    """What stops this implementation from doing the call; None when nothing does."""
    if impl == "sdpa":
        for wanted, name in ((call.softcap, "softcap"), (call.sinks, "sinks"), (call.lse, "return_lse")):
            if wanted:
                return f"PyTorch's SDPA has no {name}"
    if impl == "segments":
        return _no_segments(call)
    if impl == "blocked" and call.device != "cpu":
        return "blocked is written for CPUs"
    if impl == "triton":
        return triton_obstacle(call.device, call.dtype, call.bias)
    if impl == "flex" and call.device == "cpu" and call.training:
        return "FlexAttention has no backward pass on a CPU"
    if impl == "flex" and call.device == "cpu" and (call.lse or call.sinks):
        return "FlexAttention has no log-sum-exp on a CPU, which return_lse and sinks need"
    return None


def _no_segments(call: Call) -> str | None:
    if call.device != "cpu" or call.grouped or not call.documents:
        return "segments is for documents on a CPU, with as many key heads as query heads"
    wanted = (call.softcap, call.sinks, call.lse, call.bias != "none")
    return "segments has no softcap, sinks, bias or return_lse" if any(wanted) else None


def choose(call: Call) -> Choice:
    """The implementation for a call: what the table says, unless that cannot do it."""
    kind = "decode" if call.T <= 8 and not call.training else "train" if call.training else "forward"
    mask = "plain" if call.plain_mask else "documents" if _no_segments(call) is None else "masked"
    key = f"{call.device}/{str(call.dtype).removeprefix('torch.')}/{mask}/{kind}"
    if kind == "decode" and not call.grouped:
        key += "/ungrouped"
    impl = next(impl for limit, impl in rules(key) if limit is None or call.T < limit)
    obstacle = why_not(impl, call)
    if obstacle is None:  # no T in the sentences: while tracing, to print a symbolic size is to fix it
        return Choice(impl, f"{source()} for {key} at this T.")
    impl = "reference" if call.T < 512 else "blocked" if call.device == "cpu" else "flex"
    return Choice(impl, f"{obstacle}; of those that can, this one is best at this T.")


IMPLEMENTATIONS = {
    "reference": reference,
    "sdpa": sdpa,
    "blocked": blocked,
    "online": online,
    "flex": flex,
    "decode": decode,
    "segments": segments,
    "triton": triton,
}


def _autocast(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    kind = q.device.type
    if not torch.is_autocast_enabled(kind):
        return q, k, v
    dtype = torch.get_autocast_dtype(kind)
    return tuple(x if x.dtype == torch.float64 else x.to(dtype) for x in (q, k, v))


def _check_shapes(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None) -> None:
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4:
        raise UserError(f"attention needs q (B, H, T, D), k and v (B, K, S, D); got {q.ndim}, {k.ndim}, {v.ndim} axes.")
    (B, H, _, D), (_, K, S, _) = q.shape, k.shape
    if k.shape != (B, K, S, D) or v.shape[:3] != (B, K, S):
        raise UserError(f"k {tuple(k.shape)} and v {tuple(v.shape)} do not fit q {tuple(q.shape)}: need (B, K, S, D).")
    if H % K:
        raise UserError(f"{H} query heads cannot share {K} key heads: H must be a multiple of K.")
    if not q.dtype == k.dtype == v.dtype:
        raise UserError(f"q, k and v must have one dtype; got {q.dtype}, {k.dtype}, {v.dtype}.")
    if sinks is not None and sinks.shape != (H,):
        raise UserError(f"sinks must have shape ({H},), one logit per head; got {tuple(sinks.shape)}.")


def _describe(q, k, v, mask: Mask, softcap, bias: Bias, sinks, lse: bool) -> Call:
    (_, H, T, _), (_, K, S, _) = q.shape, k.shape
    learned = isinstance(bias, Tensor) and bias.requires_grad and torch.is_grad_enabled()
    kind = "none" if bias is None else "alibi" if isinstance(bias, ALiBi) else "learned" if learned else "tensor"
    return Call(
        device=q.device.type,
        dtype=q.dtype,
        T=T,
        S=S,
        plain_mask=is_plain(mask, T, S),
        documents=documents_of(mask) is not None,
        grouped=H != K,
        training=torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad or learned),
        bias=kind,
        softcap=softcap is not None,
        sinks=sinks is not None,
        lse=lse,
    )
