"""The norm of many tensors by csrc/: float64 sums of squares of chunks, added in their order."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

from megafm.ops.cpp.storage import Target

CHUNK = 16384  # elements of a sum; csrc/cuda/grad_norm.h has the same


def run(target: Target, tensors: list[torch.Tensor]) -> torch.Tensor:
    by_dtype = defaultdict(list)
    for tensor in tensors:
        by_dtype[tensor.dtype].append(tensor.contiguous())
    sums = [target.ops.square_sums(alike) for alike in by_dtype.values()]
    return torch.cat(sums).sum().sqrt().float()


def refuses(target: Target, tensors: list[torch.Tensor]) -> str | None:
    return next(filter(None, map(target.unreadable, tensors)), None)


def register_formulas(namespace: str) -> None:
    """Give torch the output shape of the op in torch.ops.NAMESPACE."""
    torch.library.register_fake(f"{namespace}::square_sums", _shape)


def _shape(tensors: list[torch.Tensor]) -> Any:
    num_sums = sum((x.numel() + CHUNK - 1) // CHUNK for x in tensors)
    return tensors[0].new_empty(num_sums, dtype=torch.float64)
