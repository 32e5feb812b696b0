"""The norm of many tensors in Triton: a launch for each dtype, a sum of squares for each chunk.

The sums of the chunks are added in fp64 in their order, so that the result has the same bits on
every run. Within a chunk fp32 does, unless its sum comes near the ends of fp32's range: that of
gradients of 1e-25 or 3e19 is taken again in fp64.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from megafm.ops.triton.cases import Case
from megafm.ops.triton.multi_tensor import CHUNK, TYPES, address, table

BLOCK = 2048
NUM_WARPS = 4
# Within these, what squares lost by underflow does not count, and none was infinite.
SMALLEST_SUM = tl.constexpr(2.0**-80)
LARGEST_SUM = tl.constexpr(2.0**127)


def run(tensors: list[torch.Tensor]) -> torch.Tensor:
    by_dtype = defaultdict(list)
    for tensor in tensors:
        by_dtype[tensor.dtype].append(tensor.contiguous())
    sums = [_chunk_sums(alike) for alike in by_dtype.values()]
    return torch.cat(sums).sum().sqrt().float()


def refuses(tensors: list[torch.Tensor]) -> str | None:
    wide = any(x.dtype == torch.float64 for x in tensors)
    return "it computes in float32" if wide else None


def _chunk_sums(tensors: list[torch.Tensor]) -> torch.Tensor:
    """(num_chunks,) float64."""
    where = table(tensors)
    sums = torch.empty(len(where.chunks), dtype=torch.float64, device=tensors[0].device)
    if len(sums):
        square_sum_kernel[(len(sums),)](
            where.addresses,
            where.sizes,
            where.chunks,
            sums,
            DTYPE=TYPES[tensors[0].dtype],
            ALIGNED=where.aligned,
            CHUNK=CHUNK,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
        )
    return sums


@triton.jit
def square_sum_kernel(
    addresses,
    sizes,
    chunks,
    sums,
    DTYPE: tl.constexpr,
    ALIGNED: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    tensor = tl.load(chunks + program * 2)
    start = tl.load(chunks + program * 2 + 1).to(tl.int64) * CHUNK
    x = address(addresses, tensor, DTYPE, ALIGNED) + start
    left = tl.minimum(tl.load(sizes + tensor) - start, CHUNK).to(tl.int32)
    total = sum_of_squares(x, left, CHUNK, BLOCK, tl.float32).to(tl.float64)
    if not (total >= SMALLEST_SUM and total <= LARGEST_SUM):  # NaN is not
        total = sum_of_squares(x, left, CHUNK, BLOCK, tl.float64)
    tl.store(sums + program, total)


@triton.jit
def sum_of_squares(x, left, CHUNK: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    total = tl.zeros((BLOCK,), WIDE)
    if left == CHUNK:  # without a mask, so that loads are vectors
        for first in range(0, CHUNK, BLOCK):
            values = tl.load(x + first + tl.arange(0, BLOCK)).to(WIDE)
            total += values * values
    else:
        for first in range(0, left, BLOCK):
            offsets = first + tl.arange(0, BLOCK)
            values = tl.load(x + offsets, mask=offsets < left, other=0.0).to(WIDE)
            total += values * values
    return tl.sum(total)


def compile_cases() -> Iterator[Case]:
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        x = torch.empty(4096, dtype=dtype, device="meta")
        yield Case(name, run, ([x, x],))
        yield Case(f"{name} unaligned", run, ([x, x[1:]],))
