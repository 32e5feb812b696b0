"""SwiGLU (Shazeer 2020): the gated activation of the feed-forward block."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from megafm.ops import _library, registry, triton
from megafm.ops.cpp import swiglu as cpp
from megafm.ops.cpp.storage import CPU, CUDA


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


registry.register("swiglu", "reference", registry.Backend(reference))
registry.register("swiglu", "cpu", _library.backend(cpp.run, cpp.refuses, CPU))
registry.register("swiglu", "cuda", _library.backend(cpp.run, cpp.refuses, CUDA))
registry.register("swiglu", "triton", triton.backend("swiglu"))
