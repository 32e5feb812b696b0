"""One launch over many tensors: a table of their addresses, and a program for each chunk of each.

The table is copied to the device once and kept while the tensors stay where they are, as parameters
and moments do, and gradients of the caching allocator mostly.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

CHUNK = 16384  # elements of a program
ALIGNMENT = 16  # bytes; what a vector load wants

TYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@dataclass(frozen=True)
class Table:
    """What a kernel needs to find its chunk.

    Attributes:
        addresses: (num_lists, num_tensors) int64.
        sizes: (num_tensors,) int64, elements of each tensor.
        chunks: (num_chunks, 2) int32, tensor and number of the chunk in it.
        aligned: every address is a multiple of ALIGNMENT.
    """

    addresses: torch.Tensor
    sizes: torch.Tensor
    chunks: torch.Tensor
    aligned: bool


def table(*lists: Sequence[torch.Tensor]) -> Table:
    """Of lists of contiguous tensors, of which the i-th ones have the same number of elements."""
    addresses = tuple(tuple(x.data_ptr() for x in tensors) for tensors in lists)
    sizes = tuple(x.numel() for x in lists[0])
    return _table(addresses, sizes, lists[0][0].device)


@functools.lru_cache(maxsize=32)
def _table(
    addresses: tuple[tuple[int, ...], ...], sizes: tuple[int, ...], device: torch.device
) -> Table:
    chunks = [
        (tensor, chunk) for tensor, size in enumerate(sizes) for chunk in range(-(-size // CHUNK))
    ]
    return Table(
        torch.tensor(addresses, dtype=torch.int64, device=device),
        torch.tensor(sizes, dtype=torch.int64, device=device),
        torch.tensor(chunks, dtype=torch.int32, device=device).reshape(-1, 2),
        all(address % ALIGNMENT == 0 for row in addresses for address in row),
    )


@triton.jit
def address(addresses, row, dtype: tl.constexpr, ALIGNED: tl.constexpr):
    """The pointer at `row` of the table."""
    pointer = tl.load(addresses + row).to(tl.pointer_type(dtype))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer
