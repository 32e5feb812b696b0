"""SwiGLU of csrc/: one dispatcher op per direction."""

from __future__ import annotations

import functools
from typing import Any

import torch

from megafm.ops import registry
from megafm.ops.cpp import derivative
from megafm.ops.cpp.storage import Target, empty_contiguous_like


def run(target: Target, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return derivative.call(target.ops.swiglu.default, gate, up)


def refuses(target: Target, gate: torch.Tensor, up: torch.Tensor) -> str | None:
    return "no kernel for scalars" if gate.dim() == 0 else target.unreadable(gate)


def register_formulas(namespace: str) -> None:
    """Give torch the output shapes and the derivative of the op in torch.ops.NAMESPACE."""
    ops = getattr(torch.ops, namespace)
    torch.library.register_fake(f"{namespace}::swiglu", _shape)
    torch.library.register_fake(f"{namespace}::swiglu_backward", _shape_backward)
    backward = functools.partial(_backward, ops)
    derivative.register(ops.swiglu.default, backward, _save)


def _shape(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return empty_contiguous_like(gate)


def _shape_backward(
    d_out: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return empty_contiguous_like(gate), empty_contiguous_like(gate)


def _save(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ops: Any, ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    registry.refuse_second_derivative("swiglu")
    return ops.swiglu_backward.default(d_out, *ctx.saved_tensors)
