"""Rotary embedding in Triton: a program turns all heads of q and of k of one token.

Bytes per element of q and k, in bf16: 4 (read, write), forward and backward alike; the backward is
the rotation by the opposite angle. cos and sin are read once a token, at the token's position.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl

from megafm.ops import registry
from megafm.ops.triton import wrong_dtype
from megafm.ops.triton.cases import Case, forward_and_backward
from megafm.ops.triton.launch import TILE, next_power_of_2, num_warps


@triton.jit
def _rotate(
    x,  # at the token, heads apart by head_stride
    out,
    num_heads,
    head_stride,
    cos,  # (PAIRS,)
    sin,
    NUM_PAIRS: tl.constexpr,
    HEADS: tl.constexpr,
    PAIRS: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):
    for start in range(0, num_heads, HEADS):
        head = (start + tl.arange(0, HEADS))[:, None]
        if INTERLEAVED:
            columns = tl.arange(0, 2 * PAIRS)[None, :]
            mask = (head < num_heads) & (columns < 2 * NUM_PAIRS)
            both = tl.load(x + head * head_stride + columns, mask, other=0).to(tl.float32)
            first, second = tl.split(tl.reshape(both, (HEADS, PAIRS, 2)))
        else:
            columns = tl.arange(0, PAIRS)[None, :]
            mask = (head < num_heads) & (columns < NUM_PAIRS)
            at = x + head * head_stride + columns
            first = tl.load(at, mask, other=0).to(tl.float32)
            second = tl.load(at + NUM_PAIRS, mask, other=0).to(tl.float32)
        turned = first * cos[None, :] - second * sin[None, :]
        turned_second = second * cos[None, :] + first * sin[None, :]
        at = out + head * (2 * NUM_PAIRS) + columns
        if INTERLEAVED:
            both = tl.reshape(tl.join(turned, turned_second), (HEADS, 2 * PAIRS))
            tl.store(at, both.to(out.dtype.element_ty), mask)
        else:
            tl.store(at, turned.to(out.dtype.element_ty), mask)
            tl.store(at + NUM_PAIRS, turned_second.to(out.dtype.element_ty), mask)


@triton.jit
def kernel(
    q,
    k,
    q_out,  # contiguous, as k_out
    k_out,
    cos,  # (max_seq_len, NUM_PAIRS), as sin
    sin,
    positions,
    seq_len,
    max_seq_len,
    q_heads,
    k_heads,
    q_batch_stride,
    q_token_stride,
    q_head_stride,
    k_batch_stride,
    k_token_stride,
    k_head_stride,
    positions_batch_stride,
    positions_token_stride,
    NUM_PAIRS: tl.constexpr,
    Q_HEADS: tl.constexpr,
    K_HEADS: tl.constexpr,
    PAIRS: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    BACKWARD: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)  # of batch * seq
    batch, token = row // seq_len, row % seq_len
    position = token
    if positions is not None:
        at = positions + batch * positions_batch_stride + token * positions_token_stride
        position = tl.load(at).to(tl.int64)
    # A position outside the cache gives NaN: nothing beyond the tables is read.
    pair = tl.arange(0, PAIRS)
    mask = (pair < NUM_PAIRS) & (position >= 0) & (position < max_seq_len)
    c = tl.load(cos + position * NUM_PAIRS + pair, mask, other=float("nan")).to(tl.float32)
    s = tl.load(sin + position * NUM_PAIRS + pair, mask, other=float("nan")).to(tl.float32)
    if BACKWARD:
        s = -s
    q += batch * q_batch_stride + token * q_token_stride
    k += batch * k_batch_stride + token * k_token_stride
    q_out += row * q_heads * (2 * NUM_PAIRS)
    k_out += row * k_heads * (2 * NUM_PAIRS)
    _rotate(q, q_out, q_heads, q_head_stride, c, s, NUM_PAIRS, Q_HEADS, PAIRS, INTERLEAVED)
    _rotate(k, k_out, k_heads, k_head_stride, c, s, NUM_PAIRS, K_HEADS, PAIRS, INTERLEAVED)


def tile_heads(num_heads: int, head_dim: int) -> int:
    """Heads that a program turns at once."""
    return min(next_power_of_2(num_heads), max(TILE // next_power_of_2(head_dim), 1))


def run(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor | None,
    interleaved: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    return _Rope.apply(q, k, cos, sin, positions, interleaved)


def refuses(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *rest: Any
) -> str | None:
    if cos.requires_grad or sin.requires_grad:
        return "cos and sin get no gradient from the Triton kernel"
    return wrong_dtype(q=q, k=k, cos=cos, sin=sin)


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        positions: torch.Tensor | None,
        interleaved: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(cos, sin, positions)
        ctx.interleaved = interleaved
        return _turn(q, k, cos, sin, positions, interleaved, backward=False)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        registry.refuse_second_derivative("rope")
        cos, sin, positions = ctx.saved_tensors
        d_q, d_k = _turn(grads[0], grads[1], cos, sin, positions, ctx.interleaved, backward=True)
        return d_q, d_k, None, None, None, None


def _turn(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor | None,
    interleaved: bool,
    *,
    backward: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    q, k = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k))
    (batch, seq_len, q_heads, head_dim), k_heads = q.shape, k.shape[2]
    q_out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    k_out = torch.empty(k.shape, dtype=k.dtype, device=k.device)
    places = None if positions is None else positions.expand(batch, seq_len)
    heads = tile_heads(q_heads, head_dim), tile_heads(k_heads, head_dim)
    kernel[(batch * seq_len,)](
        q,
        k,
        q_out,
        k_out,
        cos.contiguous(),
        sin.contiguous(),
        places,
        seq_len,
        cos.shape[0],
        q_heads,
        k_heads,
        *q.stride()[:3],
        *k.stride()[:3],
        *((0, 0) if places is None else places.stride()),
        NUM_PAIRS=head_dim // 2,
        Q_HEADS=heads[0],
        K_HEADS=heads[1],
        PAIRS=next_power_of_2(head_dim // 2),
        INTERLEAVED=interleaved,
        BACKWARD=backward,
        num_warps=num_warps(max(heads) * next_power_of_2(head_dim)),
    )
    return q_out, k_out


def compile_cases() -> Iterator[Case]:
    for head_dim in (64, 96, 128):
        for interleaved in (False, True):
            fused = torch.empty(2, 4096, 40, head_dim, dtype=torch.bfloat16, device="meta")
            q, k = fused.requires_grad_().split((32, 8), dim=2)
            cos, sin = (torch.empty(8192, head_dim // 2, device="meta") for _ in range(2))
            positions = torch.empty(2, 4096, dtype=torch.int64, device="meta")
            name = f"head_dim {head_dim}{' interleaved' if interleaved else ''}"
            arguments = (run, q, k, cos, sin, positions, interleaved)
            yield Case(name, forward_and_backward, arguments)
