"""RMSNorm in Triton: a program normalises whole rows, in registers.

Bytes per element of x, in bf16: forward 4 (read x, write y; 8 with a residual: x, residual, y,
total), backward 6 (read d_y and x, write d_x; 8 with the gradient of the total). The backward's
d_weight is summed in registers over the rows of a program, then over the programs: no atomics, so
the same bits on every run.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from megafm.ops import registry
from megafm.ops.triton.launch import TILE, as_rows, ceil_div, next_power_of_2, num_warps

# Programs of the backward, at most: two on each of the 132 multiprocessors of an H100.
NUM_PARTIALS = 264


@triton.jit
def forward_kernel(
    x,
    residual,
    weight,
    y,
    total,
    rstd,
    num_rows,
    x_stride,
    residual_stride,
    eps,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)[None, :]
    mask = (rows < num_rows)[:, None] & (columns < DIM)
    row = rows.to(tl.int64)[:, None]
    values = tl.load(x + row * x_stride + columns, mask, other=0).to(tl.float32)  # (ROWS, BLOCK)
    if residual is not None:
        values += tl.load(residual + row * residual_stride + columns, mask, other=0).to(tl.float32)
        rounded = values.to(total.dtype.element_ty)
        tl.store(total + row * DIM + columns, rounded, mask)
        values = rounded.to(tl.float32)
    scale = 1 / tl.sqrt_rn(tl.sum(values * values, axis=1) / DIM + eps)  # (ROWS,)
    tl.store(rstd + rows, scale, rows < num_rows)
    weights = tl.load(weight + columns, columns < DIM, other=0).to(tl.float32)
    normed = values * scale[:, None] * weights
    tl.store(y + row * DIM + columns, normed.to(y.dtype.element_ty), mask)


@triton.jit
def backward_kernel(
    d_y,
    d_total,
    x,
    weight,
    rstd,
    d_x,
    partials,
    num_rows,
    d_y_stride,
    d_total_stride,
    x_stride,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """d_x = rstd * (d_y * weight - normed * mean(d_y * weight * normed)) + d_total."""
    columns = tl.arange(0, BLOCK)[None, :]
    d_weight = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(tl.program_id(0) * ROWS, num_rows, tl.num_programs(0) * ROWS):
        rows = start + tl.arange(0, ROWS)
        mask = (rows < num_rows)[:, None] & (columns < DIM)
        row = rows.to(tl.int64)[:, None]
        slope = tl.load(d_y + row * d_y_stride + columns, mask, other=0).to(tl.float32)
        values = tl.load(x + row * x_stride + columns, mask, other=0).to(tl.float32)
        scale = tl.load(rstd + rows, rows < num_rows, other=0)[:, None]
        weights = tl.load(weight + columns, columns < DIM, other=0).to(tl.float32)
        normed = values * scale
        d_weight += slope * normed
        slope *= weights
        mean = tl.sum(slope * normed, axis=1) / DIM
        grad = (slope - normed * mean[:, None]) * scale
        if d_total is not None:
            passed = tl.load(d_total + row * d_total_stride + columns, mask, other=0)
            grad += passed.to(tl.float32)
        tl.store(d_x + row * DIM + columns, grad.to(d_x.dtype.element_ty), mask)
    partial = partials + tl.program_id(0) * DIM + tl.arange(0, BLOCK)
    tl.store(partial, tl.sum(d_weight, axis=0), tl.arange(0, BLOCK) < DIM)


MAX_DIM = 16384


def tile(dim: int) -> tuple[int, int]:
    """Rows and columns of a program's tile."""
    block = next_power_of_2(dim)
    return max(TILE // block, 1), block


def run(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    return _RMSNorm.apply(x, weight, eps, residual)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        rows, weight = as_rows(x), weight.contiguous()
        added = None if residual is None else as_rows(residual)
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        total = None if added is None else torch.empty_like(y)
        rstd = torch.empty(rows.shape[0], dtype=torch.float32, device=x.device)
        num_tile_rows, block = tile(rows.shape[1])
        forward_kernel[(ceil_div(rows.shape[0], num_tile_rows),)](
            rows,
            added,
            weight,
            y,
            total,
            rstd,
            rows.shape[0],
            rows.stride(0),
            0 if added is None else added.stride(0),
            eps,
            DIM=rows.shape[1],
            ROWS=num_tile_rows,
            BLOCK=block,
            num_warps=num_warps(num_tile_rows * block),
        )
        ctx.save_for_backward(x if total is None else total, weight, rstd)
        ctx.has_residual = residual is not None
        return y if total is None else (y, total)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        registry.refuse_second_derivative("rms_norm")
        x, weight, rstd = ctx.saved_tensors
        d_x, d_weight = _backward(grads[0], grads[1] if ctx.has_residual else None, x, weight, rstd)
        return d_x, d_weight, None, d_x if ctx.has_residual else None


def _backward(
    d_y: torch.Tensor,
    d_total: torch.Tensor | None,
    x: torch.Tensor,
    weight: torch.Tensor,
    rstd: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    rows, slopes = as_rows(x), as_rows(d_y)
    passed = None if d_total is None else as_rows(d_total)
    (num_rows, dim), (num_tile_rows, block) = rows.shape, tile(rows.shape[1])
    num_partials = min(ceil_div(num_rows, num_tile_rows), NUM_PARTIALS)
    partials = torch.empty(num_partials, dim, dtype=torch.float32, device=x.device)
    d_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    backward_kernel[(num_partials,)](
        slopes,
        passed,
        rows,
        weight,
        rstd,
        d_x,
        partials,
        num_rows,
        slopes.stride(0),
        0 if passed is None else passed.stride(0),
        rows.stride(0),
        DIM=dim,
        ROWS=num_tile_rows,
        BLOCK=block,
        num_warps=num_warps(num_tile_rows * block),
    )
    return d_x, partials.sum(0).to(weight.dtype)
