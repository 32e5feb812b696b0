"""RMSNorm in Triton: a program normalises whole rows, in registers.

Bytes per element of x, in bf16: forward 4 (read x, write y; 8 with a residual: x, residual, y,
total), backward 6 (read d_y and x, write d_x; 8 with the gradient of the total). The backward's
d_weight is summed in registers over the rows of a program, then over the programs: no atomics, so
the same bits on every run. Rows wider than MAX_BLOCK do not fit the registers: their programs walk
each row twice, and d_weight has a kernel of its own, which reads d_y and x once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl

from megafm.ops import registry
from megafm.ops.triton import wrong_dtype
from megafm.ops.triton.cases import Case, forward_and_backward
from megafm.ops.triton.launch import TILE, as_rows, ceil_div, next_power_of_2, num_warps

# Programs of the backward, at most: two on each of the 132 multiprocessors of an H100.
NUM_PARTIALS = 264
MAX_BLOCK = 8192
WEIGHT_ROWS, WEIGHT_COLUMNS = 32, 128  # tile of d_weight's own kernel


@triton.jit
def _load_total(x, x_at, residual, residual_at, mask):
    """x + residual (None: x), rounded to the dtype of x."""
    values = tl.load(x + x_at, mask, other=0).to(tl.float32)
    if residual is not None:
        values += tl.load(residual + residual_at, mask, other=0).to(tl.float32)
        values = values.to(x.dtype.element_ty).to(tl.float32)
    return values


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
    x_at, residual_at = row * x_stride + columns, row * residual_stride + columns
    values = _load_total(x, x_at, residual, residual_at, mask)  # (ROWS, BLOCK)
    if residual is not None:
        tl.store(total + row * DIM + columns, values.to(total.dtype.element_ty), mask)
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


@triton.jit
def wide_forward_kernel(
    x,
    residual,
    weight,
    y,
    total,
    rstd,
    x_stride,
    residual_stride,
    eps,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    squares = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, DIM, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        mask = columns < DIM
        x_at, residual_at = row * x_stride + columns, row * residual_stride + columns
        values = _load_total(x, x_at, residual, residual_at, mask)
        squares += values * values
    scale = 1 / tl.sqrt_rn(tl.sum(squares, axis=0) / DIM + eps)
    tl.store(rstd + row, scale)
    for start in range(0, DIM, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        mask = columns < DIM
        x_at, residual_at = row * x_stride + columns, row * residual_stride + columns
        values = _load_total(x, x_at, residual, residual_at, mask)
        if residual is not None:
            tl.store(total + row * DIM + columns, values.to(total.dtype.element_ty), mask)
        normed = values * scale * tl.load(weight + columns, mask, other=0).to(tl.float32)
        tl.store(y + row * DIM + columns, normed.to(y.dtype.element_ty), mask)


@triton.jit
def wide_d_x_kernel(
    d_y,
    d_total,
    x,
    weight,
    rstd,
    d_x,
    d_y_stride,
    d_total_stride,
    x_stride,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    scale = tl.load(rstd + row)
    products = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, DIM, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        mask = columns < DIM
        slope = tl.load(d_y + row * d_y_stride + columns, mask, other=0).to(tl.float32)
        slope *= tl.load(weight + columns, mask, other=0).to(tl.float32)
        values = tl.load(x + row * x_stride + columns, mask, other=0).to(tl.float32)
        products += slope * (values * scale)
    mean = tl.sum(products, axis=0) / DIM
    for start in range(0, DIM, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        mask = columns < DIM
        slope = tl.load(d_y + row * d_y_stride + columns, mask, other=0).to(tl.float32)
        slope *= tl.load(weight + columns, mask, other=0).to(tl.float32)
        values = tl.load(x + row * x_stride + columns, mask, other=0).to(tl.float32)
        grad = (slope - values * scale * mean) * scale
        if d_total is not None:
            passed = tl.load(d_total + row * d_total_stride + columns, mask, other=0)
            grad += passed.to(tl.float32)
        tl.store(d_x + row * DIM + columns, grad.to(d_x.dtype.element_ty), mask)


@triton.jit
def wide_d_weight_kernel(
    d_y,
    x,
    rstd,
    partials,
    num_rows,
    d_y_stride,
    x_stride,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    d_weight = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(tl.program_id(1) * ROWS, num_rows, tl.num_programs(1) * ROWS):
        rows = start + tl.arange(0, ROWS)
        mask = (rows < num_rows)[:, None] & (columns < DIM)[None, :]
        row = rows.to(tl.int64)[:, None]
        slope = tl.load(d_y + row * d_y_stride + columns[None, :], mask, other=0).to(tl.float32)
        values = tl.load(x + row * x_stride + columns[None, :], mask, other=0).to(tl.float32)
        d_weight += slope * (values * tl.load(rstd + rows, rows < num_rows, other=0)[:, None])
    partial = partials + tl.program_id(1) * DIM + columns
    tl.store(partial, tl.sum(d_weight, axis=0), columns < DIM)


def tile(dim: int) -> tuple[int, int]:
    """Rows and columns of a program's tile."""
    block = min(next_power_of_2(dim), MAX_BLOCK)
    return max(TILE // block, 1), block


def run(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    return _RMSNorm.apply(x, weight, eps, residual)


def refuses(x: torch.Tensor, weight: torch.Tensor, *rest: Any) -> str | None:
    return wrong_dtype(x=x, weight=weight)


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
        _forward(rows, added, weight, y, total, rstd, eps)
        ctx.save_for_backward(x if total is None else total, weight, rstd)
        ctx.has_residual = residual is not None
        return y if total is None else (y, total)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        registry.refuse_second_derivative("rms_norm")
        x, weight, rstd = ctx.saved_tensors
        d_total = grads[1] if ctx.has_residual else None
        d_x, d_weight = _backward(grads[0], d_total, x, weight, rstd)
        return d_x, d_weight, None, d_x if ctx.has_residual else None


def _forward(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    y: torch.Tensor,
    total: torch.Tensor | None,
    rstd: torch.Tensor,
    eps: float,
) -> None:
    (num_rows, dim), (tile_rows, block) = x.shape, tile(x.shape[1])
    tensors = x, residual, weight, y, total, rstd
    strides = x.stride(0), 0 if residual is None else residual.stride(0)
    sizes = {"DIM": dim, "BLOCK": block, "num_warps": num_warps(tile_rows * block)}
    if dim > block:
        wide_forward_kernel[(num_rows,)](*tensors, *strides, eps, **sizes)
    else:
        grid = (ceil_div(num_rows, tile_rows),)
        forward_kernel[grid](*tensors, num_rows, *strides, eps, ROWS=tile_rows, **sizes)


def _backward(
    d_y: torch.Tensor,
    d_total: torch.Tensor | None,
    x: torch.Tensor,
    weight: torch.Tensor,
    rstd: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    d_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    x, d_y = as_rows(x), as_rows(d_y)
    d_total = None if d_total is None else as_rows(d_total)
    (num_rows, dim), (tile_rows, block) = x.shape, tile(x.shape[1])
    tensors = d_y, d_total, x, weight, rstd, d_x
    strides = d_y.stride(0), 0 if d_total is None else d_total.stride(0), x.stride(0)
    sizes = {"DIM": dim, "BLOCK": block, "num_warps": num_warps(tile_rows * block)}
    if dim > block:
        wide_d_x_kernel[(num_rows,)](*tensors, *strides, **sizes)
        return d_x, _wide_d_weight(d_y, x, rstd).to(weight.dtype)
    num_partials = min(ceil_div(num_rows, tile_rows), NUM_PARTIALS)
    partials = torch.empty(num_partials, dim, dtype=torch.float32, device=x.device)
    backward_kernel[(num_partials,)](
        *tensors, partials, num_rows, *strides, ROWS=tile_rows, **sizes
    )
    return d_x, partials.sum(0).to(weight.dtype)


def _wide_d_weight(d_y: torch.Tensor, x: torch.Tensor, rstd: torch.Tensor) -> torch.Tensor:
    num_rows, dim = x.shape
    num_blocks = ceil_div(dim, WEIGHT_COLUMNS)
    num_partials = min(ceil_div(num_rows, WEIGHT_ROWS), ceil_div(4 * NUM_PARTIALS, num_blocks))
    partials = torch.empty(num_partials, dim, dtype=torch.float32, device=x.device)
    wide_d_weight_kernel[(num_blocks, num_partials)](
        d_y,
        x,
        rstd,
        partials,
        num_rows,
        d_y.stride(0),
        x.stride(0),
        DIM=dim,
        ROWS=WEIGHT_ROWS,
        BLOCK=WEIGHT_COLUMNS,
        num_warps=num_warps(WEIGHT_ROWS * WEIGHT_COLUMNS),
    )
    return partials.sum(0)


def compile_cases() -> Iterator[Case]:
    for dim in (1024, 4096, 8192, 16384):
        for dtype in (torch.bfloat16, torch.float32):
            x, residual = (
                torch.empty(4096, dim, dtype=dtype, device="meta", requires_grad=True)
                for _ in range(2)
            )
            weight = torch.empty(dim, device="meta", requires_grad=True)
            arguments = (run, x, weight, 1e-6, residual)
            name = f"{str(dtype).removeprefix('torch.')} dim {dim}"
            yield Case(name, forward_and_backward, arguments)
