"""SwiGLU of csrc/: one dispatcher op per direction."""

from __future__ import annotations

from typing import Any

import torch

from megafm.ops import registry
from megafm.ops.cpp.storage import empty_contiguous_like, unreadable


def run(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return torch.ops.megafm.swiglu(gate, up)


def refuses(gate: torch.Tensor, up: torch.Tensor) -> str | None:
    return "no kernel for scalars" if gate.dim() == 0 else unreadable(gate)


def register_formulas() -> None:
    """Give torch the output shapes and the derivative of the op; call once after loading."""
    library = torch.library
    library.register_fake("megafm::swiglu", _shape)
    library.register_fake("megafm::swiglu_backward", _shape_backward)
    library.register_autograd("megafm::swiglu", _backward, setup_context=_save)


def _shape(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return empty_contiguous_like(gate)


def _shape_backward(
    d_out: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return empty_contiguous_like(gate), empty_contiguous_like(gate)


def _save(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    registry.refuse_second_derivative("swiglu")
    return torch.ops.megafm.swiglu_backward(d_out, *ctx.saved_tensors)
