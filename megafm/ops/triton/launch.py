"""What the launchers of row kernels share: how a tensor is read as rows, and how large a tile is.

Tile sizes depend on the sizes of the problem alone, not on the device: the same bits everywhere.
"""

from __future__ import annotations

import math

import torch

TILE = 4096  # elements of a tile: 16 in flight for each thread of 8 warps


def as_rows(x: torch.Tensor) -> torch.Tensor:
    """(..., dim) as (rows, dim), each row's elements adjacent; a copy only where it must be."""
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def num_warps(tile: int) -> int:
    """Warps for a tile of that many elements: 16 elements a thread."""
    return min(max(tile // 512, 1), 32)
