"""Attention backward: one kernel per block of keys, one per block of queries, no atomics.

With p = exp(scores - lse), dp = d_out @ v.T and delta = sum(out * d_out) - d_lse per query:

    dv = p.T @ d_out        ds = p * (dp - delta)        dk = ds.T @ q        dq = ds @ k

(times scale and the slope of softcap). A block of keys sums over all query heads that read it, so
grouped heads need no reduction and every sum has one order. Both kernels form the scores again:
FLOPs are 7 products where one kernel with atomics would need 5.
Source: FlashAttention (Dao et al. 2022), appendix B.
"""

from __future__ import annotations

import triton
import triton.language as tl

from megafm.ops.triton.attention_common import (
    LOG2E,
    capped_scores,
    load_rows,
    repeated,
    seen_interval,
    split_blocks,
)
from megafm.ops.triton.attention_forward import SIZES


@triton.jit(do_not_specialize=["seq_q", "heads"])
def attention_delta(
    out,  # (batch, seq_q, heads, V_DIM), as d_out
    d_out,
    d_lse,  # (batch, heads, seq_q) or None
    delta,  # (batch, heads, seq_q)
    d_out_batch: tl.int64,
    d_out_seq: tl.int64,
    d_out_head: tl.int64,
    seq_q,
    heads,
    V_DIM: tl.constexpr,
    BLOCK_V_DIM: tl.constexpr,
    BLOCK_Q: tl.constexpr,
):
    """delta = sum(out * d_out) - d_lse."""
    num_blocks = tl.cdiv(seq_q, BLOCK_Q)
    queries = tl.program_id(0) % num_blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)
    head = (tl.program_id(0) // num_blocks % heads).to(tl.int64)
    batch = (tl.program_id(0) // num_blocks // heads).to(tl.int64)
    dims = tl.arange(0, BLOCK_V_DIM)
    out_rows = out + ((batch * seq_q + queries) * heads + head)[:, None] * V_DIM + dims[None, :]
    value = load_rows(out_rows, queries, seq_q, True, V_DIM)
    d_out += batch * d_out_batch + head * d_out_head
    d_out_rows = d_out + queries.to(tl.int64)[:, None] * d_out_seq + dims[None, :]
    d_value = load_rows(d_out_rows, queries, seq_q, True, V_DIM)
    total = tl.sum(value.to(tl.float32) * d_value.to(tl.float32), 1)
    row = (batch * heads + head) * seq_q + queries
    if d_lse is not None:
        total -= tl.load(d_lse + row, mask=queries < seq_q, other=0.0)
    tl.store(delta + row, total, mask=queries < seq_q)


@triton.jit(do_not_specialize=SIZES)
def attention_backward_keys(
    q,
    k,
    v,
    d_out,
    lse,  # (batch, heads, seq_q) float32, as delta
    delta,
    dk,  # (batch, seq_k, kv_heads, DIM)
    dv,  # (batch, seq_k, kv_heads, V_DIM)
    first_query,  # (seq_k,) int32 or None
    last_query,
    q_batch: tl.int64,
    q_seq: tl.int64,
    q_head: tl.int64,
    k_batch: tl.int64,
    k_seq: tl.int64,
    k_head: tl.int64,
    v_batch: tl.int64,
    v_seq: tl.int64,
    v_head: tl.int64,
    d_out_batch: tl.int64,
    d_out_seq: tl.int64,
    d_out_head: tl.int64,
    seq_q,
    seq_k,
    heads,
    group,
    before,
    after,
    scale,
    softcap,
    DIM: tl.constexpr,
    V_DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK_V_DIM: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """dk and dv of one block of keys; scores are held transposed, (BLOCK_K, BLOCK_Q)."""
    num_blocks, kv_heads = tl.cdiv(seq_k, BLOCK_K), heads // group
    keys = tl.program_id(0) % num_blocks * BLOCK_K + tl.arange(0, BLOCK_K)
    kv_head = tl.program_id(0) // num_blocks % kv_heads
    batch = (tl.program_id(0) // num_blocks // kv_heads).to(tl.int64)

    valid = keys < seq_k
    # A key sees back what sees it: `before` and `after` change places.
    low, high = seen_interval(
        keys, valid, seq_q - seq_k, after, before, seq_q, first_query, last_query
    )
    begin, full, rest, end = split_blocks(low, high, valid, BLOCK_Q)

    dims, v_dims = tl.arange(0, BLOCK_DIM), tl.arange(0, BLOCK_V_DIM)
    queries = tl.arange(0, BLOCK_Q)
    k += batch * k_batch + kv_head * k_head
    v += batch * v_batch + kv_head * v_head
    key_rows = keys.to(tl.int64)[:, None]
    key = load_rows(k + key_rows * k_seq + dims[None, :], keys, seq_k, True, DIM)
    value = load_rows(v + key_rows * v_seq + v_dims[None, :], keys, seq_k, True, V_DIM)
    d_key = tl.zeros((BLOCK_K, BLOCK_DIM), tl.float32)
    d_value = tl.zeros((BLOCK_K, BLOCK_V_DIM), tl.float32)
    q_tile = queries[:, None] * q_seq.to(tl.int32) + repeated(dims, DIM)[None, :]
    d_out_tile = queries[:, None] * d_out_seq.to(tl.int32) + repeated(v_dims, V_DIM)[None, :]
    q_rows, d_out_rows = q + batch * q_batch + q_tile, d_out + batch * d_out_batch + d_out_tile

    # Over the heads and blocks in one loop: fewer live addresses than in two nested ones.
    SPLIT: tl.constexpr = BLOCK_DIM + BLOCK_V_DIM <= 256  # else registers are few for two loops
    if not SPLIT:
        rest = full
    num_full, num_partial = rest - full, full - begin + end - rest
    if SPLIT:
        for index in range(0, group * num_full):
            head = kv_head * group + index // num_full
            start = (full + index % num_full) * BLOCK_Q
            row = (batch * heads + head) * seq_q
            d_key, d_value = _add_queries(
                *(d_key, d_value, key, value),
                *(q_rows + (head * q_head + start * q_seq), lse + row),
                *(d_out_rows + (head * d_out_head + start * d_out_seq), delta + row),
                *(start + queries, seq_q, low, high, scale, softcap, False),
            )
    for index in range(0, group * num_partial):
        head = kv_head * group + index // num_partial
        step = begin + index % num_partial
        start = tl.where(step < full, step, step - full + rest) * BLOCK_Q
        row = (batch * heads + head) * seq_q
        d_key, d_value = _add_queries(
            *(d_key, d_value, key, value),
            *(q_rows + (head * q_head + start * q_seq), lse + row),
            *(d_out_rows + (head * d_out_head + start * d_out_seq), delta + row),
            *(start + queries, seq_q, low, high, scale, softcap, True),
        )

    row = ((batch * seq_k + keys) * kv_heads + kv_head)[:, None]
    tl.store(
        dk + row * DIM + dims[None, :],
        (d_key * scale).to(dk.dtype.element_ty),
        mask=valid[:, None] & (dims[None, :] < DIM),
    )
    tl.store(
        dv + row * V_DIM + v_dims[None, :],
        d_value.to(dv.dtype.element_ty),
        mask=valid[:, None] & (v_dims[None, :] < V_DIM),
    )


@triton.jit
def _add_queries(
    d_key,
    d_value,
    key,
    value,
    q_rows,
    lse,
    d_out_rows,
    delta,
    at,
    seq_q,
    low,
    high,
    scale,
    softcap,
    MASKED: tl.constexpr,
):
    """Add to d_key and d_value what the block of queries at `at` of one head gives.

    Columns of padding hold anything: they meet zeros of key and value, or are not stored.
    """
    query = load_rows(q_rows, at, seq_q, MASKED, q_rows.shape[1])
    d_row = load_rows(d_out_rows, at, seq_q, MASKED, d_out_rows.shape[1])
    exists = at < seq_q if MASKED else None
    log_total = tl.load(lse + at, mask=exists)
    products = tl.dot(key, tl.trans(query), input_precision="ieee")
    scores = capped_scores(products, scale, softcap)
    weights = _weights(scores, log_total[None, :])
    if MASKED:
        seen = (at[None, :] >= low[:, None]) & (at[None, :] < high[:, None])
        weights = tl.where(seen, weights, 0.0)
    d_value = tl.dot(weights.to(d_row.dtype), d_row, d_value, input_precision="ieee")
    d_weights = tl.dot(value, tl.trans(d_row), input_precision="ieee")
    offset = tl.load(delta + at, mask=exists)  # late: at head dim 192 registers are short
    d_scores = _d_scores(weights, d_weights - offset[None, :], scores, softcap)
    d_key = tl.dot(d_scores.to(query.dtype), query, d_key, input_precision="ieee")
    return d_key, d_value


@triton.jit(do_not_specialize=SIZES)
def attention_backward_queries(
    q,
    k,
    v,
    d_out,
    lse,  # (batch, heads, seq_q) float32, as delta
    delta,
    dq,  # (batch, seq_q, heads, DIM)
    first_key,  # (seq_q,) int32 or None
    last_key,
    q_batch: tl.int64,
    q_seq: tl.int64,
    q_head: tl.int64,
    k_batch: tl.int64,
    k_seq: tl.int64,
    k_head: tl.int64,
    v_batch: tl.int64,
    v_seq: tl.int64,
    v_head: tl.int64,
    d_out_batch: tl.int64,
    d_out_seq: tl.int64,
    d_out_head: tl.int64,
    seq_q,
    seq_k,
    heads,
    group,
    before,
    after,
    scale,
    softcap,
    DIM: tl.constexpr,
    V_DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK_V_DIM: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """dq of one block of queries."""
    num_blocks = tl.cdiv(seq_q, BLOCK_Q)
    block = num_blocks - 1 - tl.program_id(0) % num_blocks
    head = tl.program_id(0) // num_blocks % heads
    batch = (tl.program_id(0) // num_blocks // heads).to(tl.int64)

    queries = block * BLOCK_Q + tl.arange(0, BLOCK_Q)
    valid = queries < seq_q
    low, high = seen_interval(
        queries, valid, seq_k - seq_q, before, after, seq_k, first_key, last_key
    )
    begin, full, rest, end = split_blocks(low, high, valid, BLOCK_K)

    dims, v_dims = tl.arange(0, BLOCK_DIM), tl.arange(0, BLOCK_V_DIM)
    keys = tl.arange(0, BLOCK_K)
    q += batch * q_batch + head * q_head
    d_out += batch * d_out_batch + head * d_out_head
    k += batch * k_batch + (head // group) * k_head
    v += batch * v_batch + (head // group) * v_head
    query_rows = queries.to(tl.int64)[:, None]
    query = load_rows(q + query_rows * q_seq + dims[None, :], queries, seq_q, True, DIM)
    d_rows = d_out + query_rows * d_out_seq + v_dims[None, :]
    d_row = load_rows(d_rows, queries, seq_q, True, V_DIM)
    row = (batch * heads + head) * seq_q + queries
    log_total = tl.load(lse + row, mask=valid, other=0.0)[:, None]
    offset = tl.load(delta + row, mask=valid, other=0.0)[:, None]
    k_rows = k + (keys[:, None] * k_seq.to(tl.int32) + dims[None, :])
    v_rows = v + (keys[:, None] * v_seq.to(tl.int32) + v_dims[None, :])
    d_query = tl.zeros((BLOCK_Q, BLOCK_DIM), tl.float32)

    for block_k in range(full, rest):
        start = block_k * BLOCK_K
        at = start + keys
        key = load_rows(k_rows + start * k_seq, at, seq_k, False, DIM)
        value = load_rows(v_rows + start * v_seq, at, seq_k, False, V_DIM)
        products = tl.dot(query, tl.trans(key), input_precision="ieee")
        scores = capped_scores(products, scale, softcap)
        weights = _weights(scores, log_total)
        d_weights = tl.dot(d_row, tl.trans(value), input_precision="ieee")
        d_scores = _d_scores(weights, d_weights - offset, scores, softcap)
        d_query = tl.dot(d_scores.to(key.dtype), key, d_query, input_precision="ieee")
    for index in range(0, full - begin + end - rest):
        start = tl.where(index < full - begin, begin + index, index - full + begin + rest) * BLOCK_K
        at = start + keys
        key = load_rows(k_rows + start * k_seq, at, seq_k, True, DIM)
        value = load_rows(v_rows + start * v_seq, at, seq_k, True, V_DIM)
        products = tl.dot(query, tl.trans(key), input_precision="ieee")
        scores = capped_scores(products, scale, softcap)
        seen = (at[None, :] >= low[:, None]) & (at[None, :] < high[:, None])
        weights = tl.where(seen, _weights(scores, log_total), 0.0)
        d_weights = tl.dot(d_row, tl.trans(value), input_precision="ieee")
        d_scores = _d_scores(weights, d_weights - offset, scores, softcap)
        d_query = tl.dot(d_scores.to(key.dtype), key, d_query, input_precision="ieee")

    row = ((batch * seq_q + queries) * heads + head)[:, None]
    tl.store(
        dq + row * DIM + dims[None, :],
        (d_query * scale).to(dq.dtype.element_ty),
        mask=valid[:, None] & (dims[None, :] < DIM),
    )


@triton.jit
def _weights(scores, lse):
    """exp(scores - lse); 0 for a query that sees no key."""
    lse = tl.where(lse == float("-inf"), float("inf"), lse)
    return tl.exp2((scores - lse) * LOG2E)


@triton.jit
def _d_scores(weights, d_weights, scores, softcap):
    d_scores = weights * d_weights
    if softcap is not None:  # d softcap(x) / dx = 1 - tanh(x / softcap)**2
        ratio = scores * (1 / softcap)
        d_scores *= 1.0 - ratio * ratio
    return d_scores
