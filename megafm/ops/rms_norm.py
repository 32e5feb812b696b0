"""RMSNorm (Zhang and Sennrich 2019), alone or after adding a residual.

    y = x / sqrt(mean(x**2) + eps) * weight

Statistics and scaling in fp32 (fp64 for fp64 input), one rounding at the end. Bytes moved by a
fused forward: read x, write y; with a residual, two reads and two writes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from megafm.ops import _library, registry, triton
from megafm.ops.adapters import apex, transformer_engine
from megafm.ops.cpp import rms_norm as cpp
from megafm.ops.cpp.storage import CPU, CUDA

Normed = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float = 1e-6,
    *,
    residual: torch.Tensor | None = None,
) -> Normed:
    """Normalise the last dimension to root mean square 1 and scale it.

    Args:
        x: (..., dim), any floating dtype.
        weight: (dim,), the dtype of `x` or fp32.
        residual: (..., dim), is added to `x` first; the wider dtype of the two is that of both.

    Returns:
        y (..., dim) in the dtype of `x`; with a residual, the pair (y, x + residual).
    """
    registry.check_devices("rms_norm", x=x, weight=weight, residual=residual)
    if weight.shape != x.shape[-1:]:
        raise ValueError(f"rms_norm: weight {tuple(weight.shape)} does not fit x {tuple(x.shape)}")
    if residual is not None:
        if residual.shape != x.shape:
            shapes = f"{tuple(residual.shape)} does not fit x {tuple(x.shape)}"
            raise ValueError(f"rms_norm: residual {shapes}")
        wide = torch.promote_types(x.dtype, residual.dtype)
        x, residual = x.to(wide), residual.to(wide)
    return registry.dispatch("rms_norm", x.device, x, weight, eps, residual)


def reference(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None
) -> Normed:
    if residual is not None:
        total = x + residual
        return _normalise(total, weight, eps), total
    return _normalise(x, weight, eps)


def _normalise(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = torch.sqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide / scale * weight).to(x.dtype)


def _torch(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None
) -> Normed:
    if residual is not None:
        total = x + residual
        return F.rms_norm(total, weight.shape, weight, eps), total
    return F.rms_norm(x, weight.shape, weight, eps)


def _torch_refuses(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None
) -> str | None:
    if x.dtype != weight.dtype:
        return f"x is {x.dtype} and weight {weight.dtype}, torch's fused kernel wants one dtype"
    return None


registry.register("rms_norm", "reference", registry.Backend(reference))
registry.register(
    "rms_norm", "torch", registry.Backend(_torch, refuses=_torch_refuses, transforms=True)
)
registry.register("rms_norm", "cpu", _library.backend(cpp.run, cpp.refuses, CPU))
registry.register("rms_norm", "cuda", _library.backend(cpp.run, cpp.refuses, CUDA))
registry.register("rms_norm", "triton", triton.backend("rms_norm"))
registry.register("rms_norm", "transformer_engine", transformer_engine.RMS_NORM)
registry.register("rms_norm", "apex", apex.RMS_NORM)
