"""Cross entropy of logits, mean over tokens."""

from __future__ import annotations

import importlib.util

import torch
import torch.nn.functional as F

from benchmarks.ops.op import FORWARD, Function, Inputs, Op, Sizes, Work, normal
from megafm import ops


def inputs(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Inputs:
    logits = normal(sizes["tokens"], sizes["vocab"], dtype=dtype, device=device)
    return Inputs((logits,), (random_targets(sizes, device),))


def random_targets(sizes: Sizes, device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(sizes["vocab"], (sizes["tokens"],), generator=generator).to(device)


def ours(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return ops.cross_entropy(logits, targets).mean()


def functional(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """In fp32 or wider, as training code takes it."""
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets)


def libraries() -> dict[str, Function]:
    if not importlib.util.find_spec("liger_kernel"):
        return {}
    from liger_kernel.transformers.functional import liger_cross_entropy

    # It leaves the gradient in its input, so it gets a copy.
    return {"Liger": lambda logits, targets: liger_cross_entropy(logits.clone(), targets)}


def work(sizes: Sizes, size: int, mode: str) -> Work:
    """Forward: logits in. Backward: logits in, their gradient out."""
    return Work((1 if mode == FORWARD else 3) * sizes["tokens"] * sizes["vocab"] * size)


OP = Op(
    name="cross_entropy",
    shapes={
        "2048x32000": {"tokens": 2048, "vocab": 32000},
        "8192x4096": {"tokens": 8192, "vocab": 4096},
    },
    gpu={"4096x128256": {"tokens": 4096, "vocab": 128256}},
    quick={"32x64": {"tokens": 32, "vocab": 64}},
    inputs=inputs,
    ours=ours,
    eager={"F.cross_entropy": functional},
    compiled=("F.cross_entropy",),
    exact=functional,
    work=work,
    libraries=libraries,
)
