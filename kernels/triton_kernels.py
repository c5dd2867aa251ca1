"""The Triton kernels of `triton_flash.py`, which imports this file only when they are wanted: it needs Triton.

Three kernels, FlashAttention-2's division of labour (Dao 2023): the forward pass and the gradient of the queries walk
over keys for one block of queries; the gradients of keys and values walk over queries for one block of keys, so that no
two programs add to the same place. Each walks first over its FULL blocks, without masking, then over the PARTIAL ones.

Scores are in units of log2, because the hardware computes 2^x. Layouts are contiguous: q (B, H, T, D), k and v
(B, K, S, D), lse and delta (B, H, T). Row r of low, high, the ids and the lists is the batch row where they have one
per row (`*_rows`), else 0. Lists: (rows, number of blocks, longest list) of block numbers, with counts.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


def _configs():
    if triton.knobs.runtime.interpret:  # nothing to tune where nothing runs on a device
        return [triton.Config({}, num_warps=4, num_stages=1)]
    return [triton.Config({}, num_warps=w, num_stages=s) for w in (4, 8) for s in (2, 3, 4)]


_TUNE_BY = ["BLOCK_D", "HAS_IDS", "SOFTCAP", "ALIBI"]


@triton.jit
def _load(pointer, rows, T, D, BLOCK_D: tl.constexpr):
    """Some rows of a (T, D) matrix, zeros outside: (rows, BLOCK_D)."""
    columns = tl.arange(0, BLOCK_D)
    inside = (rows[:, None] < T) & (columns[None, :] < D)
    return tl.load(pointer + rows[:, None] * D + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _store(pointer, values, rows, T, D, BLOCK_D: tl.constexpr):
    columns = tl.arange(0, BLOCK_D)
    inside = (rows[:, None] < T) & (columns[None, :] < D)
    tl.store(pointer + rows[:, None] * D + columns[None, :], values.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def _scores(q, k, rows, keys, position, slope, scale, softcap, SOFTCAP: tl.constexpr, ALIBI: tl.constexpr):
    """(rows, keys): natural scores after softcap and ALiBi, and the softcapped score over the cap."""
    s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    tanh = s
    if SOFTCAP:
        tanh = 2.0 * tl.sigmoid(2.0 * s / softcap) - 1.0
        s = softcap * tanh
    if ALIBI:
        s -= slope * tl.abs(position[:, None] - keys[None, :]).to(tl.float32)
    return s, tanh


@triton.jit
def _visible(rows, keys, low, high, query_ids, key_ids, T, S, HAS_IDS: tl.constexpr):
    seen = (keys[None, :] >= low[:, None]) & (keys[None, :] < high[:, None]) & (rows[:, None] < T) & (keys[None, :] < S)
    if HAS_IDS:
        seen &= (query_ids[:, None] == key_ids[None, :]) & (query_ids[:, None] >= 0)
    return seen


@triton.jit
def _forward_step(
    acc, l, m, q, k, v, j, rows, position, slope, low, high, query_ids, KeyIds,
    T, S, D, scale, softcap,
    MASKED: tl.constexpr, HAS_IDS: tl.constexpr, SOFTCAP: tl.constexpr, ALIBI: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One block of keys of the online softmax (see online.py)."""
    keys = j * BLOCK_N + tl.arange(0, BLOCK_N)
    s, _ = _scores(
        q, _load(k, keys, S, D, BLOCK_D), rows, keys, position, slope, scale, softcap, SOFTCAP, ALIBI
    )  # fmt: skip
    s *= LOG2E
    if MASKED:
        key_ids = tl.load(KeyIds + keys, mask=keys < S, other=-1) if HAS_IDS else keys
        s = tl.where(_visible(rows, keys, low, high, query_ids, key_ids, T, S, HAS_IDS), s, -float("inf"))
    new_m = tl.maximum(m, tl.max(s, 1))
    safe = tl.where(new_m == -float("inf"), 0.0, new_m)  # nothing seen yet: 2^(-inf - 0) is 0, not NaN
    p = tl.exp2(s - safe[:, None])
    shrink = tl.exp2(m - safe)
    block = _load(v, keys, S, D, BLOCK_D)
    acc = acc * shrink[:, None] + tl.dot(p.to(block.dtype), block, input_precision="ieee")
    return acc, l * shrink + tl.sum(p, 1), new_m


@triton.autotune(_configs(), key=_TUNE_BY)
@triton.jit
def forward(
    Q, K, V, Out, Lse, Low, High, QueryIds, KeyIds, Position, Slopes,
    FullCount, FullList, PartialCount, PartialList,
    T, S, D, H, KEY_HEADS, longest, scale, softcap,
    span_rows, id_rows, list_rows, position_rows,
    HAS_IDS: tl.constexpr, SOFTCAP: tl.constexpr, ALIBI: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Grid: (blocks of queries, B * H)."""
    i, b, h = tl.program_id(0), tl.program_id(1) // H, tl.program_id(1) % H
    head = (b * KEY_HEADS + h // (H // KEY_HEADS)).to(tl.int64) * S * D
    row = (b * H + h).to(tl.int64) * T
    rows = i * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = rows < T
    q = _load(Q + row * D, rows, T, D, BLOCK_D)
    low = tl.load(Low + (b % span_rows) * T + rows, mask=inside, other=0)
    high = tl.load(High + (b % span_rows) * T + rows, mask=inside, other=0)
    query_ids = tl.load(QueryIds + (b % id_rows) * T + rows, mask=inside, other=-1) if HAS_IDS else low
    position = tl.load(Position + (b % position_rows) * T + rows, mask=inside, other=0) if ALIBI else low
    slope = tl.load(Slopes + h) if ALIBI else 0.0
    KeyIds += (b % id_rows) * S
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)
    m = tl.full([BLOCK_M], -float("inf"), tl.float32)
    at = (b % list_rows) * tl.num_programs(0) + i
    for n in range(0, tl.load(FullCount + at)):
        acc, l, m = _forward_step(
            acc, l, m, q, K + head, V + head, tl.load(FullList + at * longest + n), rows, position, slope, low, high,
            query_ids, KeyIds, T, S, D, scale, softcap, False, HAS_IDS, SOFTCAP, ALIBI, BLOCK_N, BLOCK_D,
        )  # fmt: skip
    for n in range(0, tl.load(PartialCount + at)):
        acc, l, m = _forward_step(
            acc, l, m, q, K + head, V + head, tl.load(PartialList + at * longest + n), rows, position, slope, low, high,
            query_ids, KeyIds, T, S, D, scale, softcap, True, HAS_IDS, SOFTCAP, ALIBI, BLOCK_N, BLOCK_D,
        )  # fmt: skip
    blind = l == 0
    _store(Out + row * D, acc / tl.where(blind, 1.0, l)[:, None], rows, T, D, BLOCK_D)
    lse = tl.where(blind, -float("inf"), m / LOG2E + tl.log(tl.where(blind, 1.0, l)))
    tl.store(Lse + row + rows, lse, mask=inside)


@triton.jit
def _weights_and_ds(
    q, k, v, dout, lse, delta, rows, keys, position, slope, low, high, query_ids, key_ids, T, S, scale, softcap,
    MASKED: tl.constexpr, HAS_IDS: tl.constexpr, SOFTCAP: tl.constexpr, ALIBI: tl.constexpr,
):  # fmt: skip
    """Softmax weights again, and the gradient of the products q k^T times scale: two (rows, keys)."""
    s, tanh = _scores(q, k, rows, keys, position, slope, scale, softcap, SOFTCAP, ALIBI)
    p = tl.exp2((s - lse[:, None]) * LOG2E)  # lse is +inf where nothing is seen, so p is 0
    if MASKED:
        p = tl.where(_visible(rows, keys, low, high, query_ids, key_ids, T, S, HAS_IDS), p, 0.0)
    ds = p * (tl.dot(dout, tl.trans(v), input_precision="ieee") - delta[:, None])
    if SOFTCAP:
        ds *= 1.0 - tanh * tanh
    return p, ds


@triton.jit
def _query_step(
    grad, q, dout, lse, delta, K, V, j, rows, position, slope, low, high, query_ids, KeyIds, T, S, D, scale, softcap,
    MASKED: tl.constexpr, HAS_IDS: tl.constexpr, SOFTCAP: tl.constexpr, ALIBI: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    keys = j * BLOCK_N + tl.arange(0, BLOCK_N)
    k, v = _load(K, keys, S, D, BLOCK_D), _load(V, keys, S, D, BLOCK_D)
    key_ids = tl.load(KeyIds + keys, mask=keys < S, other=-1) if HAS_IDS else keys
    _, ds = _weights_and_ds(
        q, k, v, dout, lse, delta, rows, keys, position, slope, low, high, query_ids, key_ids, T, S, scale, softcap,
        MASKED, HAS_IDS, SOFTCAP, ALIBI,
    )  # fmt: skip
    return grad + tl.dot(ds.to(k.dtype), k, input_precision="ieee")


@triton.autotune(_configs(), key=_TUNE_BY)
@triton.jit
def backward_queries(
    Q, K, V, GradOut, Lse, Delta, GradQ, Low, High, QueryIds, KeyIds, Position, Slopes,
    FullCount, FullList, PartialCount, PartialList,
    T, S, D, H, KEY_HEADS, longest, scale, softcap,
    span_rows, id_rows, list_rows, position_rows,
    HAS_IDS: tl.constexpr, SOFTCAP: tl.constexpr, ALIBI: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Grid: (blocks of queries, B * H)."""
    i, b, h = tl.program_id(0), tl.program_id(1) // H, tl.program_id(1) % H
    head = (b * KEY_HEADS + h // (H // KEY_HEADS)).to(tl.int64) * S * D
    row = (b * H + h).to(tl.int64) * T
    rows = i * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = rows < T
    q, dout = _load(Q + row * D, rows, T, D, BLOCK_D), _load(GradOut + row * D, rows, T, D, BLOCK_D)
    lse = tl.load(Lse + row + rows, mask=inside, other=float("inf"))
    delta = tl.load(Delta + row + rows, mask=inside, other=0.0)
    low = tl.load(Low + (b % span_rows) * T + rows, mask=inside, other=0)
    high = tl.load(High + (b % span_rows) * T + rows, mask=inside, other=0)
    query_ids = tl.load(QueryIds + (b % id_rows) * T + rows, mask=inside, other=-1) if HAS_IDS else low
    position = tl.load(Position + (b % position_rows) * T + rows, mask=inside, other=0) if ALIBI else low
    slope = tl.load(Slopes + h) if ALIBI else 0.0
    KeyIds += (b % id_rows) * S
    grad = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    at = (b % list_rows) * tl.num_programs(0) + i
    for n in range(0, tl.load(FullCount + at)):
        grad = _query_step(
            grad, q, dout, lse, delta, K + head, V + head, tl.load(FullList + at * longest + n), rows, position, slope,
            low, high, query_ids, KeyIds, T, S, D, scale, softcap, False, HAS_IDS, SOFTCAP, ALIBI, BLOCK_N, BLOCK_D,
        )  # fmt: skip
    for n in range(0, tl.load(PartialCount + at)):
        grad = _query_step(
            grad, q, dout, lse, delta, K + head, V + head, tl.load(PartialList + at * longest + n), rows, position,
            slope, low, high, query_ids, KeyIds, T, S, D, scale, softcap, True, HAS_IDS, SOFTCAP, ALIBI, BLOCK_N,
            BLOCK_D,
        )  # fmt: skip
    _store(GradQ + row * D, grad * scale, rows, T, D, BLOCK_D)


@triton.jit
def _key_step(
    grad_k, grad_v, k, v, i, keys, key_ids, Q, GradOut, Lse, Delta, Low, High, QueryIds, Position, slope,
    T, S, D, scale, softcap,
    MASKED: tl.constexpr, HAS_IDS: tl.constexpr, SOFTCAP: tl.constexpr, ALIBI: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    rows = i * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = rows < T
    q, dout = _load(Q, rows, T, D, BLOCK_D), _load(GradOut, rows, T, D, BLOCK_D)
    lse = tl.load(Lse + rows, mask=inside, other=float("inf"))
    delta = tl.load(Delta + rows, mask=inside, other=0.0)
    low = tl.load(Low + rows, mask=inside, other=0)
    high = tl.load(High + rows, mask=inside, other=0)
    query_ids = tl.load(QueryIds + rows, mask=inside, other=-1) if HAS_IDS else low
    position = tl.load(Position + rows, mask=inside, other=0) if ALIBI else low
    p, ds = _weights_and_ds(
        q, k, v, dout, lse, delta, rows, keys, position, slope, low, high, query_ids, key_ids, T, S, scale, softcap,
        MASKED, HAS_IDS, SOFTCAP, ALIBI,
    )  # fmt: skip
    grad_v += tl.dot(tl.trans(p.to(dout.dtype)), dout, input_precision="ieee")
    grad_k += tl.dot(tl.trans(ds.to(q.dtype)), q, input_precision="ieee")
    return grad_k, grad_v


@triton.autotune(_configs(), key=_TUNE_BY)
@triton.jit
def backward_keys(
    Q, K, V, GradOut, Lse, Delta, GradK, GradV, Low, High, QueryIds, KeyIds, Position, Slopes,
    FullCount, FullList, PartialCount, PartialList,
    T, S, D, H, KEY_HEADS, longest, scale, softcap,
    span_rows, id_rows, list_rows, position_rows,
    HAS_IDS: tl.constexpr, SOFTCAP: tl.constexpr, ALIBI: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Grid: (blocks of keys, B * KEY_HEADS); the lists hold blocks of queries."""
    j, b, key_head = tl.program_id(0), tl.program_id(1) // KEY_HEADS, tl.program_id(1) % KEY_HEADS
    head = (b * KEY_HEADS + key_head).to(tl.int64) * S * D
    keys = j * BLOCK_N + tl.arange(0, BLOCK_N)
    k, v = _load(K + head, keys, S, D, BLOCK_D), _load(V + head, keys, S, D, BLOCK_D)
    key_ids = tl.load(KeyIds + (b % id_rows) * S + keys, mask=keys < S, other=-1) if HAS_IDS else keys
    Low += (b % span_rows) * T
    High += (b % span_rows) * T
    QueryIds += (b % id_rows) * T
    Position += (b % position_rows) * T
    grad_k = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    grad_v = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    at = (b % list_rows) * tl.num_programs(0) + j
    for g in range(0, H // KEY_HEADS):
        h = key_head * (H // KEY_HEADS) + g
        row = (b * H + h).to(tl.int64) * T
        slope = tl.load(Slopes + h) if ALIBI else 0.0
        for n in range(0, tl.load(FullCount + at)):
            grad_k, grad_v = _key_step(
                grad_k, grad_v, k, v, tl.load(FullList + at * longest + n), keys, key_ids, Q + row * D,
                GradOut + row * D, Lse + row, Delta + row, Low, High, QueryIds, Position, slope, T, S, D, scale,
                softcap, False, HAS_IDS, SOFTCAP, ALIBI, BLOCK_M, BLOCK_D,
            )  # fmt: skip
        for n in range(0, tl.load(PartialCount + at)):
            grad_k, grad_v = _key_step(
                grad_k, grad_v, k, v, tl.load(PartialList + at * longest + n), keys, key_ids, Q + row * D,
                GradOut + row * D, Lse + row, Delta + row, Low, High, QueryIds, Position, slope, T, S, D, scale,
                softcap, True, HAS_IDS, SOFTCAP, ALIBI, BLOCK_M, BLOCK_D,
            )  # fmt: skip
    _store(GradK + head, grad_k * scale, keys, S, D, BLOCK_D)
    _store(GradV + head, grad_v, keys, S, D, BLOCK_D)
