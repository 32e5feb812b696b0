"""Attention forward: a block of queries walks over its keys with a running softmax.

Source: FlashAttention (Dao et al. 2022, 2023). Bytes: q, out and lse once, k and v once per block
of queries; FLOPs: 4 * head_dim per query and key seen, rounded up to blocks.
"""

from __future__ import annotations

import triton
import triton.language as tl

from megafm.ops.triton.attention_common import (
    LN2,
    LOG2E,
    capped_scores,
    load_rows,
    seen_interval,
    split_blocks,
)

SIZES = ["seq_q", "seq_k", "heads", "group", "before", "after"]


@triton.jit(do_not_specialize=SIZES)
def attention_forward(
    q,
    k,
    v,
    out,  # (batch, seq_q, heads, V_DIM)
    lse,  # (batch, heads, seq_q) float32
    sinks,  # (heads,) or None
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
    num_blocks = tl.cdiv(seq_q, BLOCK_Q)
    block = num_blocks - 1 - tl.program_id(0) % num_blocks  # the longest rows of causal first
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
    k += batch * k_batch + (head // group) * k_head
    v += batch * v_batch + (head // group) * v_head
    q_rows = q + queries.to(tl.int64)[:, None] * q_seq + dims[None, :]
    query = load_rows(q_rows, queries, seq_q, True, DIM)  # (BLOCK_Q, BLOCK_DIM)
    k_rows = k + (keys[:, None] * k_seq.to(tl.int32) + dims[None, :])
    v_rows = v + (keys[:, None] * v_seq.to(tl.int32) + v_dims[None, :])

    if sinks is None:
        highest = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_Q,), tl.float32)
    else:  # one more key, seen first, whose value is 0
        sink = tl.load(sinks + head).to(tl.float32)
        highest = tl.zeros((BLOCK_Q,), tl.float32) + sink
        total = tl.where(highest == float("-inf"), 0.0, 1.0)
    sums = tl.zeros((BLOCK_Q, BLOCK_V_DIM), tl.float32)

    for block_k in range(full, rest):
        start = block_k * BLOCK_K
        key = load_rows(k_rows + start * k_seq, start + keys, seq_k, False, DIM)
        scores = _scores(query, key, scale, softcap)
        value = load_rows(v_rows + start * v_seq, start + keys, seq_k, False, V_DIM)
        highest, total, sums = _add_block(scores, value, highest, total, sums)
    for index in range(0, full - begin + end - rest):
        start = tl.where(index < full - begin, begin + index, index - full + begin + rest) * BLOCK_K
        key = load_rows(k_rows + start * k_seq, start + keys, seq_k, True, DIM)
        scores = _scores(query, key, scale, softcap)
        at = start + keys[None, :]
        scores = tl.where((at >= low[:, None]) & (at < high[:, None]), scores, float("-inf"))
        value = load_rows(v_rows + start * v_seq, start + keys, seq_k, True, V_DIM)
        highest, total, sums = _add_block(scores, value, highest, total, sums)

    row = (batch * heads + head) * seq_q + queries
    log_total = tl.where(highest == float("inf"), highest, highest + tl.log2(total) * LN2)
    tl.store(lse + row, log_total, mask=valid)
    sums = sums / tl.where(total == 0.0, 1.0, total)[:, None]
    out_rows = out + ((batch * seq_q + queries) * heads + head)[:, None] * V_DIM + v_dims[None, :]
    tl.store(
        out_rows,
        sums.to(out.dtype.element_ty),
        mask=valid[:, None] & (v_dims[None, :] < V_DIM),
    )


@triton.jit
def _scores(query, key, scale, softcap):
    products = tl.dot(query, tl.trans(key), input_precision="ieee")
    return capped_scores(products, scale, softcap)  # (BLOCK_Q, BLOCK_K)


@triton.jit
def _add_block(scores, value, highest, total, sums):
    """Take a block of scores (-inf where hidden) and its values into the running sums."""
    new_highest = tl.maximum(highest, tl.max(scores, 1))
    # Rows that have seen nothing keep weights of exp(-inf) = 0, not NaN.
    base = tl.where(new_highest == float("-inf"), 0.0, new_highest)
    weights = tl.exp2((scores - base[:, None]) * LOG2E)
    shrink = tl.exp2((highest - base) * LOG2E)
    total = total * shrink + tl.sum(weights, 1)
    sums = sums * shrink[:, None]
    sums = tl.dot(weights.to(value.dtype), value, sums, input_precision="ieee")
    return new_highest, total, sums
