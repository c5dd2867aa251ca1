"""Cross entropy of a linear layer's logits, without ever holding all logits.

Why. N tokens times V words is the largest tensor of a small model: 2,048 x 32,000 logits in float32 are 262 MB, and the
plain path holds about three of them. Here the tokens go through in chunks; one chunk's logits live in a reused buffer.

How. For the sum of the losses the gradient of a chunk's logits is known as soon as its softmax is, up to one factor
that arrives in the backward pass. So the forward pass computes both gradients at once and nothing is computed twice
(the idea of Liger-Kernel, Hsu et al. 2024). Losses per token have one unknown factor each; their backward pass computes
the logits of each chunk again.

Per token, with x = softcap * tanh(hidden . weight / softcap), e = label_smoothing and lse = logsumexp(x):

    loss = lse - (1 - e) * x[target] - e * mean(x) + z_loss * lse^2

(softcap: Gemma 2; label smoothing: Szegedy et al. 2016; z-loss: PaLM). Products run in the dtype of the inputs, all
else in float32 (float64 for float64), the gradient of the weight is summed over chunks in float32.

The operators are opaque to `torch.compile`: a compiled model sees one node, whatever the number of tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from configs import UserError


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    *,
    softcap: float | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    chunk: int | None = None,
    reduction: str = "sum",
) -> Tensor:
    """Weighted cross entropy of the logits hidden @ weight.T, in nats.

    hidden: (N, C). weight: (V, C), same dtype (under autocast both are cast). targets: (N,) int64; a negative one is
    ignored. weights: (N,) factor of each token's loss, not differentiable; None is all ones. chunk: tokens at a time.
    reduction: "sum" gives a scalar, "none" gives (N,); float32 (float64 for float64 inputs).
    Raises UserError for shapes that do not fit.
    """
    hidden, weight = _autocast(hidden, weight)
    _check(hidden, weight, targets, weights, reduction)
    factors = _factors(hidden, targets, weights)
    chunk = chunk or default_chunk(weight.shape[0], hidden.device.type)
    options = (softcap or 0.0, label_smoothing, z_loss, chunk)
    if reduction == "none":
        return _losses(hidden, weight, targets, *options) * factors
    gradients = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    if not gradients:
        return (_losses(hidden, weight, targets, *options) * factors).sum()
    return _sum_with_gradients(hidden, weight, targets, factors, *options)[0]


def linear_cross_entropy_reference(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    *,
    softcap: float | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "sum",
) -> Tensor:
    """The plain twin of `linear_cross_entropy`: all logits at once."""
    hidden, weight = _autocast(hidden, weight)
    _check(hidden, weight, targets, weights, reduction)
    x = (hidden @ weight.T).to(_working(hidden))
    if softcap:
        x = softcap * torch.tanh(x / softcap)
    lse = torch.logsumexp(x, dim=-1)
    at_target = x.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    losses = lse - (1 - label_smoothing) * at_target + z_loss * lse.square()
    if label_smoothing:
        losses = losses - label_smoothing * x.mean(-1)
    losses = losses * _factors(hidden, targets, weights)
    return losses.sum() if reduction == "sum" else losses


def default_chunk(V: int, device: str) -> int:
    """Tokens at a time: on a CPU about 32 MB of float32 logits, on a GPU eight times that to fill it."""
    logits = 2**23 if device == "cpu" else 2**26
    return max(64, logits // V)


def _working(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _factors(hidden: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """(N,) what each token's loss is multiplied by: its weight, zero where it is ignored."""
    counted = targets >= 0
    if weights is None:
        return counted.to(_working(hidden))
    return torch.where(counted, weights.detach().to(_working(hidden)), 0.0)


def _autocast(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    kind = hidden.device.type
    if not torch.is_autocast_enabled(kind) or hidden.dtype == torch.float64:
        return hidden, weight
    dtype = torch.get_autocast_dtype(kind)
    return hidden.to(dtype), weight.to(dtype)


def _check(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor | None, reduction: str) -> None:
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise UserError(f"need hidden (N, C) and weight (V, C); got {tuple(hidden.shape)} and {tuple(weight.shape)}.")
    if targets.shape != hidden.shape[:1] or (weights is not None and weights.shape != targets.shape):
        raise UserError(f"targets and weights must have shape ({hidden.shape[0]},), one for each row of hidden.")
    if hidden.dtype != weight.dtype:
        raise UserError(f"hidden is {hidden.dtype} but weight is {weight.dtype}; cast one of them or use autocast.")
    if reduction not in ("sum", "none"):
        raise UserError(f"unknown reduction {reduction!r}; choose sum or none.")


class _Chunk:
    """The buffers of one chunk and what is computed in them. Every method works in place."""

    def __init__(self, hidden: Tensor, weight: Tensor, softcap: float, smoothing: float, z_loss: float, rows: int):
        self.weight, self.softcap, self.smoothing, self.z_loss = weight, softcap, smoothing, z_loss
        V = weight.shape[0]
        self.products = hidden.new_empty(rows, V)
        same = _working(hidden) == hidden.dtype
        self.buffer = self.products if same else hidden.new_empty(rows, V, dtype=_working(hidden))
        self.slope = torch.empty_like(self.buffer) if softcap else None

    def logits(self, hidden: Tensor) -> Tensor:
        """(n, V) in the working precision, after the softcap."""
        n = hidden.shape[0]
        x = torch.mm(hidden, self.weight.T, out=self.products[:n])
        if self.buffer is not self.products:
            x = self.buffer[:n].copy_(x)
        return x.div_(self.softcap).tanh_().mul_(self.softcap) if self.softcap else x

    def losses(self, x: Tensor, targets: Tensor, lse: Tensor) -> Tensor:
        losses = lse - (1 - self.smoothing) * x.gather(1, targets.clamp(min=0)[:, None])[:, 0]
        losses += self.z_loss * lse.square()
        return losses - self.smoothing * x.mean(-1) if self.smoothing else losses

    def losses_and_gradient(self, x: Tensor, targets: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (n,), and in place of x the gradient of sum(factors * losses) by the products hidden . weight."""
        n = x.shape[0]
        slope = None
        if self.softcap:  # d tanh
            slope = torch.div(x, self.softcap, out=self.slope[:n]).square_().neg_().add_(1)
        kept = (x.amax(-1), x.gather(1, targets.clamp(min=0)[:, None])[:, 0], x.mean(-1) if self.smoothing else None)
        p = torch.softmax(x, dim=-1, out=x)
        lse = kept[0] - p.amax(-1).log()  # the largest probability is at least 1 / V: no cancellation, no underflow
        losses = lse - (1 - self.smoothing) * kept[1] + self.z_loss * lse.square()
        if self.smoothing:
            losses -= self.smoothing * kept[2]
        p.mul_((factors * (1 + 2 * self.z_loss * lse))[:, None])
        p.scatter_add_(1, targets.clamp(min=0)[:, None], (-(1 - self.smoothing) * factors)[:, None])
        if self.smoothing:
            p.sub_((self.smoothing / p.shape[1]) * factors[:, None])
        if slope is not None:
            p.mul_(slope)
        return losses, p if self.buffer is self.products else self.products[:n].copy_(p)


@torch.library.custom_op("zhiling::linear_cross_entropy_losses", mutates_args=())
def _losses(
    hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float, smoothing: float, z_loss: float, chunk: int
) -> Tensor:
    """(N,) losses."""
    buffers = _Chunk(hidden, weight, softcap, smoothing, z_loss, min(chunk, hidden.shape[0]))
    losses = hidden.new_empty(hidden.shape[0], dtype=_working(hidden))
    for start in range(0, hidden.shape[0], chunk):
        part = slice(start, start + chunk)
        x = buffers.logits(hidden[part])
        losses[part] = buffers.losses(x, targets[part], torch.logsumexp(x, dim=-1))
    return losses


@torch.library.custom_op("zhiling::linear_cross_entropy_sum", mutates_args=())
def _sum_with_gradients(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    factors: Tensor,
    softcap: float,
    smoothing: float,
    z_loss: float,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of factors * losses, and its gradients by hidden (N, C) and weight (V, C)."""
    places, N = _counted(factors), hidden.shape[0]
    if places is not None:
        hidden, targets, factors = hidden[places], targets[places], factors[places]
    buffers = _Chunk(hidden, weight, softcap, smoothing, z_loss, min(chunk, hidden.shape[0]))
    total = hidden.new_zeros((), dtype=_working(hidden))
    grad_hidden = torch.empty_like(hidden, memory_format=torch.contiguous_format)
    grad_weight = torch.zeros(weight.shape, dtype=_working(hidden), device=weight.device)
    for start in range(0, hidden.shape[0], chunk):
        part = slice(start, start + chunk)
        x = buffers.logits(hidden[part])
        losses, gradient = buffers.losses_and_gradient(x, targets[part], factors[part])
        total += (losses * factors[part]).sum()
        torch.mm(gradient, weight, out=grad_hidden[part])
        if grad_weight.dtype == gradient.dtype:
            grad_weight.addmm_(gradient.T, hidden[part])
        else:  # bf16: the sum over chunks in float32
            grad_weight += gradient.T @ hidden[part]
    if places is not None:
        grad_hidden = hidden.new_zeros(N, hidden.shape[1]).index_copy_(0, places, grad_hidden)
    return total, grad_hidden, grad_weight.to(weight.dtype)


def _counted(factors: Tensor) -> Tensor | None:
    """The places whose factor is not zero; None where all are, or where asking would make a GPU wait.

    Instruction tuning learns the answers only, a quarter of all tokens: no logits are made for the rest.
    """
    if factors.device.type != "cpu":
        return None
    places = factors.nonzero()[:, 0]
    return places if len(places) < len(factors) else None


@_losses.register_fake
def _(hidden, weight, targets, softcap, smoothing, z_loss, chunk):
    return hidden.new_empty(hidden.shape[0], dtype=_working(hidden))


@_sum_with_gradients.register_fake
def _(hidden, weight, targets, factors, softcap, smoothing, z_loss, chunk):
    total = hidden.new_empty((), dtype=_working(hidden))
    return total, hidden.new_empty(hidden.shape), weight.new_empty(weight.shape)


def _losses_setup(ctx, inputs, output) -> None:
    hidden, weight, targets, *options = inputs
    ctx.save_for_backward(hidden, weight, targets)
    ctx.options = options


def _losses_backward(ctx, gradient):
    _, grad_hidden, grad_weight = _sum_with_gradients(*ctx.saved_tensors, gradient, *ctx.options)
    return grad_hidden, grad_weight, None, None, None, None, None


def _sum_setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*output[1:])


def _sum_backward(ctx, gradient, *_):
    grad_hidden, grad_weight = ctx.saved_tensors
    factor = gradient.to(grad_hidden.dtype)
    return grad_hidden * factor, grad_weight * factor, None, None, None, None, None, None


_losses.register_autograd(_losses_backward, setup_context=_losses_setup)
_sum_with_gradients.register_autograd(_sum_backward, setup_context=_sum_setup)
