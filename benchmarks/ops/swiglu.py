"""SwiGLU, the gate of the feed-forward block."""

from __future__ import annotations

import importlib.util

import torch
import torch.nn.functional as F

from benchmarks.ops.op import FORWARD, Function, Inputs, Op, Sizes, Work, normal
from megafm import ops


def inputs(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Inputs:
    gate = normal(sizes["rows"], sizes["dim"], dtype=dtype, device=device)
    return Inputs((gate, normal(sizes["rows"], sizes["dim"], dtype=dtype, device=device, seed=2)))


def functional(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return F.silu(gate) * up


def libraries() -> dict[str, Function]:
    if not importlib.util.find_spec("liger_kernel"):
        return {}
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    return {"Liger": LigerSiLUMulFunction.apply}


def work(sizes: Sizes, size: int, mode: str) -> Work:
    """Forward: gate and up in, one out. Backward: those and dy in, both gradients out."""
    return Work((3 if mode == FORWARD else 8) * sizes["rows"] * sizes["dim"] * size)


OP = Op(
    name="swiglu",
    shapes={
        "4096x688": {"rows": 4096, "dim": 688},
        "8192x688": {"rows": 8192, "dim": 688},
        "2048x2752": {"rows": 2048, "dim": 2752},
    },
    gpu={"16384x8192": {"rows": 16384, "dim": 8192}},
    quick={"64x24": {"rows": 64, "dim": 24}},
    inputs=inputs,
    ours=ops.swiglu,
    eager={"F.silu * up": functional},
    compiled=("F.silu * up",),
    exact=functional,
    work=work,
    libraries=libraries,
)
