"""Softmax over the vocabulary in Triton: statistics of each row, and the gradient of its logits.

Bytes per logit, in bf16: statistics 2 (one read, with a maximum and a sum kept along the way),
gradient 4 (read, write; in place too).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from megafm.ops.cross_entropy import NO_COLUMN
from megafm.ops.triton.cases import Case
from megafm.ops.triton.launch import TILE, as_rows, ceil_div, next_power_of_2, num_warps

NONE = tl.constexpr(NO_COLUMN)


@triton.jit
def stats_kernel(logits, columns, top, log_total, picked, vocab, row_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    most, shift = -float("inf"), 0.0
    totals = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocab, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        x = tl.load(logits + offsets, offsets < vocab, other=-float("inf")).to(tl.float32)
        before, most = most, tl.maximum(most, tl.max(x, axis=0))
        shift = tl.where(most == -float("inf"), 0.0, most)  # -inf - -inf would be NaN
        totals = totals * tl.exp(before - shift) + tl.exp(x - shift)
    column = tl.load(columns + row)
    # A column outside the row gives NaN: nothing beyond the logits is read.
    inside = (column >= 0) & (column < vocab)
    at_column = tl.load(logits + column, inside, other=float("nan")).to(tl.float32) - shift
    tl.store(top + row, most)
    tl.store(log_total + row, tl.log(tl.sum(totals, axis=0)))
    tl.store(picked + row, tl.where(column == NONE, 0.0, at_column))


@triton.jit
def gradient_kernel(
    logits,
    d_logits,
    columns,
    top,
    log_total,
    d_lse,
    d_picked,
    softcap,
    vocab,
    num_blocks,
    row_stride,
    d_row_stride,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    row = (program // num_blocks).to(tl.int64)
    offsets = program % num_blocks * BLOCK + tl.arange(0, BLOCK)
    lse_slope, picked_slope = tl.load(d_lse + row), tl.load(d_picked + row)
    grad = tl.zeros((BLOCK,), tl.float32)
    if tl.abs(lse_slope) + tl.abs(picked_slope) != 0:
        at = logits + row * row_stride + offsets
        x = tl.load(at, offsets < vocab, other=0).to(tl.float32)
        softmax = tl.exp(x - tl.load(top + row) - tl.load(log_total + row))
        grad = softmax * lse_slope
        grad += tl.where(offsets == tl.load(columns + row), picked_slope, 0.0)
        if softcap is not None:
            grad *= 1 - (x / softcap) * (x / softcap)
    at = d_logits + row * d_row_stride + offsets
    tl.store(at, grad.to(d_logits.dtype.element_ty), offsets < vocab)


def block_size(vocab: int) -> int:
    return min(next_power_of_2(vocab), TILE)


def stats(
    logits: torch.Tensor, columns: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of each row: its maximum, log(sum(exp(logits - maximum))) and logits[column] - maximum.

    Args:
        logits: (..., vocab).
        columns: (...) int64; NO_COLUMN picks nothing and gives 0.

    Returns:
        top, log_total, picked: (...) float32. A row of -inf alone has top = log_total = -inf.
    """
    rows, vocab = as_rows(logits), logits.shape[-1]
    top, log_total, picked = (
        torch.empty(columns.shape, dtype=torch.float32, device=logits.device) for _ in range(3)
    )
    block = block_size(vocab)
    stats_kernel[(rows.shape[0],)](
        rows,
        columns.contiguous(),
        top,
        log_total,
        picked,
        vocab,
        rows.stride(0),
        BLOCK=block,
        num_warps=num_warps(block),
    )
    return top, log_total, picked


def gradient(
    logits: torch.Tensor,
    columns: torch.Tensor,
    top: torch.Tensor,
    log_total: torch.Tensor,
    d_lse: torch.Tensor,
    d_picked: torch.Tensor,
) -> torch.Tensor:
    """softmax * d_lse, and d_picked more at the column; zeros where both are 0.

    Args:
        logits, columns, top, log_total: as of `stats`.
        d_lse, d_picked: (...) float32, the gradients of top + log_total and of picked + top.

    Returns:
        (..., vocab) in the dtype of `logits`.
    """
    d_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
    _gradient(as_rows(logits), as_rows(d_logits), columns, top, log_total, d_lse, d_picked, None)
    return d_logits


def gradient_in_place(
    logits: torch.Tensor,
    columns: torch.Tensor,
    top: torch.Tensor,
    log_total: torch.Tensor,
    d_lse: torch.Tensor,
    d_picked: torch.Tensor,
    *,
    softcap: float | None,
) -> None:
    """`gradient`, over the logits (rows, vocab); of what was capped, where they are capped."""
    _gradient(logits, logits, columns, top, log_total, d_lse, d_picked, softcap)


def _gradient(
    logits: torch.Tensor,
    d_logits: torch.Tensor,
    columns: torch.Tensor,
    top: torch.Tensor,
    log_total: torch.Tensor,
    d_lse: torch.Tensor,
    d_picked: torch.Tensor,
    softcap: float | None,
) -> None:
    num_rows, vocab = logits.shape
    block = block_size(vocab)
    num_blocks = ceil_div(vocab, block)
    gradient_kernel[(num_rows * num_blocks,)](
        logits,
        d_logits,
        columns.contiguous(),
        top,
        log_total,
        d_lse.contiguous(),
        d_picked.contiguous(),
        softcap,
        vocab,
        num_blocks,
        logits.stride(0),
        d_logits.stride(0),
        BLOCK=block,
        num_warps=num_warps(block),
    )


def compile_cases() -> Iterator[Case]:
    capped = functools.partial(gradient_in_place, softcap=30.0)
    for vocab in (32000, 128256):
        for dtype in (torch.bfloat16, torch.float32):
            logits = torch.empty(4096, vocab, dtype=dtype, device="meta")
            columns = torch.empty(4096, dtype=torch.int64, device="meta")
            rows = torch.empty(4, 4096, device="meta").unbind()
            name = f"{str(dtype).removeprefix('torch.')} vocab {vocab}"
            yield Case(name, stats, (logits, columns))
            yield Case(f"{name} softcap", capped, (logits, columns, *rows))
