"""RMSNorm of csrc/: one dispatcher op per direction, for whichever device has a kernel."""

from __future__ import annotations

import functools
from typing import Any

import torch

from megafm.ops import registry
from megafm.ops.cpp import derivative
from megafm.ops.cpp.storage import Target, empty_contiguous_like


def run(
    target: Target,
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    residual: torch.Tensor | None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    if residual is None:
        return derivative.call(target.ops.rms_norm.default, x, weight, eps)[0]
    y, total, _ = derivative.call(target.ops.add_rms_norm.default, x, residual, weight, eps)
    return y, total


def refuses(
    target: Target,
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    residual: torch.Tensor | None,
) -> str | None:
    if weight.dtype not in (x.dtype, torch.float32):
        return f"no kernel for x {x.dtype} with weight {weight.dtype}"
    if residual is not None and residual.dtype != x.dtype:
        return f"residual is {residual.dtype}, unlike x"
    return target.unreadable(x)


def register_formulas(namespace: str) -> None:
    """Give torch the output shapes and the derivatives of the ops in torch.ops.NAMESPACE."""
    ops = getattr(torch.ops, namespace)
    torch.library.register_fake(f"{namespace}::rms_norm", _shape)
    torch.library.register_fake(f"{namespace}::add_rms_norm", _shape_add)
    torch.library.register_fake(f"{namespace}::rms_norm_backward", _shape_backward)
    backward, backward_add = (functools.partial(f, ops) for f in (_backward, _backward_add))
    derivative.register(ops.rms_norm.default, backward, _save)
    derivative.register(ops.add_rms_norm.default, backward_add, _save_add)


def _shape(x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, ...]:
    return empty_contiguous_like(x), x.new_empty(x.shape[:-1], dtype=torch.float32)


def _shape_add(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, ...]:
    y, rstd = _shape(x, weight, eps)
    return y, empty_contiguous_like(x), rstd


def _shape_backward(
    d_y: torch.Tensor,
    d_total: torch.Tensor | None,
    x: torch.Tensor,
    weight: torch.Tensor,
    rstd: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    return empty_contiguous_like(x), empty_contiguous_like(weight)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    x, weight, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, weight, output[1])


def _backward(
    ops: Any, ctx: Any, d_y: torch.Tensor, d_rstd: Any
) -> tuple[torch.Tensor | None, ...]:
    registry.refuse_second_derivative("rms_norm")
    d_x, d_weight = ops.rms_norm_backward.default(d_y, None, *ctx.saved_tensors)
    return d_x, d_weight, None


def _save_add(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    _, total, rstd = output
    ctx.mark_non_differentiable(rstd)
    ctx.save_for_backward(total, inputs[2], rstd)


def _backward_add(
    ops: Any, ctx: Any, d_y: torch.Tensor, d_total: torch.Tensor, d_rstd: Any
) -> tuple[torch.Tensor | None, ...]:
    registry.refuse_second_derivative("rms_norm")
    d_x, d_weight = ops.rms_norm_backward.default(d_y, d_total, *ctx.saved_tensors)
    return d_x, d_x, d_weight, None
