"""Kernels of other libraries, one file a library; each is imported only when it is asked for.

A library's kernel is adapted where it computes the op as the reference defines it; what it cannot
take it refuses. No result here has been seen on a GPU yet: the arguments are tested against
stand-ins that have the library's signatures.

Not adapted: TransformerEngine's RoPE takes angles, not cos and sin (which may carry YaRN's
magnitude); its SwiGLU takes gate and up as one tensor, and joining them would cost more than it
saves. apex has no SwiGLU, RoPE or attention outside what upstream removed.
"""

from __future__ import annotations

import importlib.util

import torch


def missing(name: str, *modules: str) -> str | None:
    """Why a library cannot run here, in one line; None if its modules and a CUDA device are."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            return f"{name} is not installed"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return None


def refused_place(x: torch.Tensor) -> str | None:
    """Why a library's kernel cannot be called on `x` here; None if it can."""
    if torch.compiler.is_compiling():
        return "torch.compile cannot trace it"
    if x.device.type != "cuda":
        return f"it runs on CUDA tensors, not on {x.device.type}"
    return "it takes no empty tensor" if x.numel() == 0 else None


def refused_rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None
) -> str | None:
    if x.dtype == torch.float64:
        return "it computes in float32"
    return refused_place(x)
