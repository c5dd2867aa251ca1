"""Attention and the other fused operations: tensors in, tensors out.

    from kernels import Causal, Document, attention, explain
    out = attention(q, k, v, Causal() & Document(ids))      # q (B, H, T, D); k, v (B, K, S, D)
    print(explain(q, k, v, Causal()))                       # which implementation, and why

Each fast implementation stands in its own file beside the plain definition (`reference`), behind one signature.
Shapes: B batch, T query tokens, S key tokens, H heads, K key-value heads, D head width, C width, V vocabulary.
"""

from kernels.bias import ALiBi
from kernels.decode import decode, paged_decode
from kernels.dispatch import IMPLEMENTATIONS, Choice, attention, explain
from kernels.loss import linear_cross_entropy, linear_cross_entropy_reference
from kernels.masks import And, Causal, Document, Full, Mask, Padding, Prefix, Window

__all__ = [
    "IMPLEMENTATIONS",
    "ALiBi",
    "And",
    "Causal",
    "Choice",
    "Document",
    "Full",
    "Mask",
    "Padding",
    "Prefix",
    "Window",
    "attention",
    "decode",
    "explain",
    "linear_cross_entropy",
    "linear_cross_entropy_reference",
    "paged_decode",
]
