"""Attention of csrc/: one dispatcher op per direction."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch

from megafm.ops import registry
from megafm.ops.cpp import derivative
from megafm.ops.cpp.storage import Target, empty_contiguous_like

if TYPE_CHECKING:
    from megafm.ops.attention import Attended, Options

LARGEST_HEAD_DIM = 256  # on CUDA


def run(
    target: Target, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: Options
) -> Attended:
    sinks = None if options.sinks is None else options.sinks.float()
    op = target.ops.attention.default
    out, lse = derivative.call(op, q, k, v, sinks, *_settings(options))
    return (out, lse) if options.return_lse else out


def run_backward(
    target: Target,
    d_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    d_lse: torch.Tensor | None,
    options: Options,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    saved = (d_out, d_lse, q, k, v, out, lse, None)
    return target.ops.attention_backward(*saved, *_settings(options))[:3]


def _settings(options: Options) -> tuple[Any, ...]:
    return (
        options.cu_seqlens,
        options.cu_seqlens_k,
        options.causal,
        options.scale,
        options.window,
        options.softcap,
        options.deterministic,
    )


def refuses(
    target: Target, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: Options
) -> str | None:
    return target.unreadable(q)


def refuses_cuda(
    target: Target, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: Options
) -> str | None:
    """What csrc/cuda has no kernel for."""
    reason = target.unreadable(q)
    if reason is None and q.dtype == torch.float32:
        return f"no kernel for {q.dtype}"
    wrong = [dim for dim in (q.shape[3], v.shape[3]) if dim % 8 or not 0 < dim <= LARGEST_HEAD_DIM]
    if reason is None and wrong:
        return f"no kernel for head dim {wrong[0]}, only for multiples of 8 to {LARGEST_HEAD_DIM}"
    return reason


def refuses_cuda_backward(target: Target, d_out: torch.Tensor, *rest: Any) -> str | None:
    q, k, v, *_, options = rest
    return refuses_cuda(target, q, k, v, options)


def refuses_backward(target: Target, d_out: torch.Tensor, *rest: Any) -> str | None:
    return target.unreadable(d_out)


def register_formulas(namespace: str) -> None:
    """Give torch the output shapes and the derivatives of the ops in torch.ops.NAMESPACE."""
    ops = getattr(torch.ops, namespace)
    torch.library.register_fake(f"{namespace}::attention", _shape)
    torch.library.register_fake(f"{namespace}::attention_backward", _shape_backward)
    backward = functools.partial(_backward, ops)
    derivative.register(ops.attention.default, backward, _save)


def _shape(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *settings: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, seq, heads, _ = q.shape
    lse = q.new_empty(batch, heads, seq, dtype=torch.float32)
    return q.new_empty(batch, seq, heads, v.shape[3]), lse


def _shape_backward(
    d_out: torch.Tensor,
    d_lse: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    sinks: torch.Tensor | None,
    *settings: Any,
) -> tuple[torch.Tensor, ...]:
    d_sinks = lse.new_empty(0 if sinks is None else q.shape[2])
    return *map(empty_contiguous_like, (q, k, v)), d_sinks


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    q, k, v, sinks, cu_seqlens, cu_seqlens_k, *ctx.settings = inputs
    ctx.save_for_backward(q, k, v, *output, sinks, cu_seqlens, cu_seqlens_k)
    ctx.set_materialize_grads(False)


def _backward(
    ops: Any, ctx: Any, d_out: torch.Tensor | None, d_lse: torch.Tensor | None
) -> tuple[torch.Tensor | None, ...]:
    registry.refuse_second_derivative("attention")
    no_settings = (None,) * 7
    if d_out is None and d_lse is None:
        return None, None, None, None, *no_settings
    q, k, v, out, lse, sinks, *ends = ctx.saved_tensors
    d_out = torch.zeros_like(out) if d_out is None else d_out
    gradients = ops.attention_backward.default(
        d_out, d_lse, q, k, v, out, lse, sinks, *ends, *ctx.settings
    )
    d_sinks = None if sinks is None else gradients[3]
    return *gradients[:3], d_sinks, *no_settings
