"""Output layer and cross entropy, summed over tokens as training does."""

from __future__ import annotations

import importlib.util

import torch
import torch.nn.functional as F

from benchmarks.ops.cross_entropy import random_targets
from benchmarks.ops.op import FORWARD, Function, Inputs, Op, Sizes, Work, normal
from megafm import ops


def inputs(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Inputs:
    hidden = normal(sizes["tokens"], sizes["dim"], dtype=dtype, device=device)
    weight = normal(sizes["vocab"], sizes["dim"], dtype=dtype, device=device, seed=2)
    return Inputs((hidden, weight * sizes["dim"] ** -0.5), (random_targets(sizes, device),))


def ours(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return ops.linear_cross_entropy(hidden, weight, targets)


def functional(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = F.linear(hidden, weight)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, targets, reduction="sum")


def libraries() -> dict[str, Function]:
    if not importlib.util.find_spec("liger_kernel"):
        return {}
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy as liger

    return {
        "Liger": lambda hidden, weight, targets: liger(hidden, weight, targets, reduction="sum")
    }


def work(sizes: Sizes, size: int, mode: str) -> Work:
    """One matrix product forward, two backward; bytes: both inputs, and their gradients."""
    tokens, dim, vocab = sizes["tokens"], sizes["dim"], sizes["vocab"]
    passes = 1 if mode == FORWARD else 3
    return Work(passes * (tokens + vocab) * dim * size, flops=passes * 2 * tokens * dim * vocab)


OP = Op(
    name="linear_cross_entropy",
    shapes={
        "4096x256->8192": {"tokens": 4096, "dim": 256, "vocab": 8192},
        "1024x512->32000": {"tokens": 1024, "dim": 512, "vocab": 32000},
    },
    gpu={"8192x2048->128256": {"tokens": 8192, "dim": 2048, "vocab": 128256}},
    quick={"32x16->64": {"tokens": 32, "dim": 16, "vocab": 64}},
    inputs=inputs,
    ours=ours,
    eager={"F.linear + F.cross_entropy": functional},
    compiled=("F.linear + F.cross_entropy",),
    exact=functional,
    work=work,
    libraries=libraries,
)
