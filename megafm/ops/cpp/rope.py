"""RoPE of csrc/: one dispatcher op, whose derivative is itself, turning back."""

from __future__ import annotations

import functools
from typing import Any

import torch

from megafm.ops.cpp import derivative
from megafm.ops.cpp.storage import Target, empty_contiguous_like


def run(
    target: Target,
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor | None,
    interleaved: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    op = target.ops.rope.default
    return derivative.call(op, q, k, cos, sin, positions, interleaved, False)


def refuses(
    target: Target,
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor | None,
    interleaved: bool,
) -> str | None:
    if q.dim() != 4 or cos.dim() != 2:
        return "the kernel takes (batch, seq, heads, head_dim)"
    if q.dtype != k.dtype:
        return f"q is {q.dtype} and k {k.dtype}"
    if cos.dtype != torch.float32 or sin.dtype != torch.float32:
        return f"cos is {cos.dtype} and sin {sin.dtype}, not float32"
    if cos.requires_grad or sin.requires_grad:
        return "the kernel forms no gradient of cos and sin"
    if positions is not None and positions.dtype != torch.int64:
        return f"positions are {positions.dtype}, not int64"
    return target.unreadable(q)


def register_formulas(namespace: str) -> None:
    """Give torch the output shapes and the derivative of the op in torch.ops.NAMESPACE."""
    ops = getattr(torch.ops, namespace)
    torch.library.register_fake(f"{namespace}::rope", _shape)
    backward = functools.partial(_backward, ops)
    derivative.register(ops.rope.default, backward, _save)


def _shape(q: torch.Tensor, k: torch.Tensor, *turn: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return empty_contiguous_like(q), empty_contiguous_like(k)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    _, _, cos, sin, positions, ctx.interleaved, ctx.inverse = inputs
    ctx.save_for_backward(cos, sin, positions)


def _backward(
    ops: Any, ctx: Any, d_q: torch.Tensor, d_k: torch.Tensor
) -> tuple[torch.Tensor | None, ...]:
    turn = (*ctx.saved_tensors, ctx.interleaved, not ctx.inverse)
    d_q, d_k = derivative.call(ops.rope.default, d_q, d_k, *turn)
    return d_q, d_k, None, None, None, None, None
