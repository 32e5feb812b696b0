"""SwiGLU in Triton, elementwise; the backward forms silu again instead of saving it.

Bytes per element, in bf16: forward 6 (read gate and up, write y), backward 10 (read d_y, gate and
up, write d_gate and d_up). Halves of one fused projection are read where they lie.
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
from megafm.ops.triton.launch import as_rows, ceil_div

BLOCK = 1024
NUM_WARPS = 4


@triton.jit
def _place(num_blocks, BLOCK: tl.constexpr):
    """The row and the columns of this program."""
    program = tl.program_id(0)
    row = (program // num_blocks).to(tl.int64)
    return row, (program % num_blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def forward_kernel(gate, up, y, width, gate_stride, up_stride, num_blocks, BLOCK: tl.constexpr):
    row, columns = _place(num_blocks, BLOCK)
    mask = columns < width
    gates = tl.load(gate + row * gate_stride + columns, mask).to(tl.float32)
    ups = tl.load(up + row * up_stride + columns, mask).to(tl.float32)
    values = gates * tl.sigmoid(gates) * ups
    tl.store(y + row * width + columns, values.to(y.dtype.element_ty), mask)


@triton.jit
def backward_kernel(
    d_y,
    gate,
    up,
    d_gate,
    d_up,
    width,
    d_y_stride,
    gate_stride,
    up_stride,
    num_blocks,
    BLOCK: tl.constexpr,
):
    """d_up = d_y * silu(gate); d_gate = d_y * up * s * (1 + gate * (1 - s)), s = sigmoid(gate)."""
    row, columns = _place(num_blocks, BLOCK)
    mask = columns < width
    slope = tl.load(d_y + row * d_y_stride + columns, mask).to(tl.float32)
    gates = tl.load(gate + row * gate_stride + columns, mask).to(tl.float32)
    ups = tl.load(up + row * up_stride + columns, mask).to(tl.float32)
    s = tl.sigmoid(gates)
    gate_slope = slope * ups * s * (1 + gates * (1 - s))
    at = row * width + columns
    tl.store(d_gate + at, gate_slope.to(d_gate.dtype.element_ty), mask)
    tl.store(d_up + at, (slope * gates * s).to(d_up.dtype.element_ty), mask)


def run(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return _SwiGLU.apply(gate, up)


def refuses(gate: torch.Tensor, up: torch.Tensor) -> str | None:
    return wrong_dtype(gate=gate)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        y = _contiguous_like(gate)
        gates, ups = _long_rows(gate, up)
        num_blocks = ceil_div(gates.shape[1], BLOCK)
        forward_kernel[(gates.shape[0] * num_blocks,)](
            gates,
            ups,
            y,
            gates.shape[1],
            gates.stride(0),
            ups.stride(0),
            num_blocks,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
        )
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        registry.refuse_second_derivative("swiglu")
        gate, up = ctx.saved_tensors
        d_gate, d_up = _contiguous_like(gate), _contiguous_like(up)
        slopes, gates, ups = _long_rows(grads[0], gate, up)
        num_blocks = ceil_div(gates.shape[1], BLOCK)
        backward_kernel[(gates.shape[0] * num_blocks,)](
            slopes,
            gates,
            ups,
            d_gate,
            d_up,
            gates.shape[1],
            slopes.stride(0),
            gates.stride(0),
            ups.stride(0),
            num_blocks,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
        )
        return d_gate, d_up


def _contiguous_like(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _long_rows(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Each as (rows, width); contiguous ones are one long row, which leaves no block half full."""
    if all(x.is_contiguous() for x in tensors):
        return [x.view(1, -1) for x in tensors]
    return [as_rows(x) for x in tensors]


def compile_cases() -> Iterator[Case]:
    for dtype in (torch.bfloat16, torch.float32):
        fused = torch.empty(4096, 2 * 11008, dtype=dtype, device="meta", requires_grad=True)
        name = f"{str(dtype).removeprefix('torch.')} halves"
        yield Case(name, forward_and_backward, (run, *fused.chunk(2, dim=1)))
