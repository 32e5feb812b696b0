"""A matrix product with a weight: the projections of a small decoder, and a larger one."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks.ops.op import FORWARD, Inputs, Op, Sizes, Work, normal
from megafm import ops


def inputs(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Inputs:
    x = normal(sizes["tokens"], sizes["dim"], dtype=dtype, device=device)
    weight = normal(sizes["out"], sizes["dim"], dtype=dtype, device=device, seed=2)
    return Inputs((x, weight * sizes["dim"] ** -0.5))


def work(sizes: Sizes, size: int, mode: str) -> Work:
    """One product forward, two backward."""
    tokens, dim, out = sizes["tokens"], sizes["dim"], sizes["out"]
    passes = 1 if mode == FORWARD else 3
    elements = tokens * dim + tokens * out + dim * out
    return Work(passes * elements * size, flops=passes * 2 * tokens * dim * out)


OP = Op(
    name="linear",
    shapes={
        "4096x256->256": {"tokens": 4096, "dim": 256, "out": 256},
        "4096x256->688": {"tokens": 4096, "dim": 256, "out": 688},
        "2048x1024->2816": {"tokens": 2048, "dim": 1024, "out": 2816},
        "decode 8x1024->2816": {"tokens": 8, "dim": 1024, "out": 2816},
    },
    gpu={"16384x2048->8192": {"tokens": 16384, "dim": 2048, "out": 8192}},
    quick={"32x16->24": {"tokens": 32, "dim": 16, "out": 24}},
    inputs=inputs,
    ours=ops.linear,
    eager={"F.linear": F.linear},
    compiled=("F.linear",),
    exact=F.linear,
    work=work,
    dtypes=("fp32",),  # in others auto takes F.linear itself
)
