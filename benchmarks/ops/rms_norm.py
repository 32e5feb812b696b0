"""RMSNorm over rows of one width; with a residual, of the sum, which is returned too."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.ops.op import FORWARD, Function, Inputs, Op, Sizes, Work, normal
from megafm import ops

EPS = 1e-6


def inputs(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Inputs:
    x = normal(sizes["rows"], sizes["dim"], dtype=dtype, device=device)
    weight = 1 + 0.1 * normal(sizes["dim"], dtype=dtype, device=device, seed=2)
    residuals = [normal(*x.shape, dtype=dtype, device=device, seed=3)] * ("residual" in sizes)
    return Inputs((x, weight, *residuals))


def ours(
    x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor | None = None
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    return ops.rms_norm(x, weight, EPS, residual=residual)


def of_sum(norm: Function) -> Function:
    """`norm`, which adds a residual first where there is one."""

    def both(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
        if residual is None:
            return norm(x, weight)
        total = x + residual
        return norm(total, weight), total

    return both


def functional(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, weight.shape, weight, EPS)


def written_out(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """As model code writes it: statistics in fp32, then back."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)).to(x.dtype)


def exact(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weight


def libraries() -> dict[str, Function]:
    found: dict[str, Function] = {}
    if importlib.util.find_spec("liger_kernel"):
        from liger_kernel.ops.rms_norm import LigerRMSNormFunction

        def liger(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return LigerRMSNormFunction.apply(x, weight, EPS)

        found["Liger"] = of_sum(liger)
    if importlib.util.find_spec("apex"):
        from apex.normalization.fused_layer_norm import fused_rms_norm_affine

        def apex(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return fused_rms_norm_affine(x, weight, weight.shape, EPS)

        found["apex"] = of_sum(apex)
    return found


def work(sizes: Sizes, size: int, mode: str) -> Work:
    """Forward: x in, y out. Backward: x and dy in, dx out. The residual, the sum and its gradient
    are read or written once more; the gradients of both summands are one tensor."""
    tensors = 2 if mode == FORWARD else 5
    if "residual" in sizes:
        tensors += 2 if mode == FORWARD else 3
    return Work(tensors * sizes["rows"] * sizes["dim"] * size)


OP = Op(
    name="rms_norm",
    shapes={
        "4096x1024": {"rows": 4096, "dim": 1024},
        "8192x256": {"rows": 8192, "dim": 256},
        "512x4096": {"rows": 512, "dim": 4096},
    },
    gpu={
        "32768x4096": {"rows": 32768, "dim": 4096},
        "32768x4096 residual": {"rows": 32768, "dim": 4096, "residual": 1},
    },
    quick={"64x32": {"rows": 64, "dim": 32}},
    inputs=inputs,
    ours=ours,
    eager={"F.rms_norm": of_sum(functional), "written out": of_sum(written_out)},
    compiled=("F.rms_norm", "written out"),
    exact=of_sum(exact),
    work=work,
    libraries=libraries,
)
