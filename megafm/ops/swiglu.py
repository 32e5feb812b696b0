"""SwiGLU (Shazeer 2020): the gated activation of the feed-forward block."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from megafm.ops import registry, triton
from megafm.ops._library import FIX, library_missing
from megafm.ops.cpp import swiglu as cpp


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up, elementwise.

    Args:
        gate, up: (..., ffn_dim) of one shape and dtype.

    Returns:
        (..., ffn_dim) in the dtype of `gate`.
    """
    registry.check_devices("swiglu", gate=gate, up=up)
    if gate.shape != up.shape or gate.dtype != up.dtype:
        both = f"{gate.dtype} {tuple(gate.shape)}, up {up.dtype} {tuple(up.shape)}"
        raise ValueError(f"swiglu: gate is {both}; give one shape and dtype")
    return registry.dispatch("swiglu", gate.device, gate, up)


def reference(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return F.silu(gate) * up


def _triton(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    from megafm.ops.triton import swiglu as kernels

    return kernels.run(gate, up)


def _triton_refuses(gate: torch.Tensor, up: torch.Tensor) -> str | None:
    return triton.wrong_dtype(gate=gate) or triton.wrong_device(gate)


registry.register("swiglu", "reference", registry.Backend(reference))
registry.register("swiglu", "cpu", registry.Backend(cpp.run, library_missing, cpp.refuses, fix=FIX))
registry.register(
    "swiglu", "triton", registry.Backend(_triton, triton.missing, _triton_refuses, fix=triton.FIX)
)
