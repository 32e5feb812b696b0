"""Results that go past the caches, as those of large tensors do, are those of small ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from megafm.ops.cross_entropy import NO_COLUMN
from tests.ops.backend import CPU, needs_library, on_backend

pytestmark = needs_library

ROWS, SMALL, DIM = 1 << 13, 1 << 9, 512  # 16 MB of fp32 each: 32 that are read and written
Tensors = list[torch.Tensor]


def swiglu(x: Tensors) -> Tensors:
    return [torch.ops.megafm.swiglu(x[0], x[1])]


def swiglu_backward(x: Tensors) -> Tensors:
    return list(torch.ops.megafm.swiglu_backward(*x))


def rms_norm(x: Tensors) -> Tensors:
    return list(torch.ops.megafm.rms_norm(x[0], x[1][0], 1e-6)[:1])


def add_rms_norm(x: Tensors) -> Tensors:
    return list(torch.ops.megafm.add_rms_norm(x[0], x[1], x[2][0], 1e-6)[:2])


def rms_norm_backward(x: Tensors) -> Tensors:
    weight, rstd = x[0][0], x[2][:, 0].float().contiguous()
    return list(torch.ops.megafm.rms_norm_backward(x[0], x[2], x[1], weight, rstd)[:1])


def rope(x: Tensors, interleaved: bool = False) -> Tensors:
    rows = x[0].shape[0]
    q, k = (y.view(rows, 1, DIM // 128, 128) for y in x[:2])
    angles = x[2][:1, :128].float().view(2, 1, 64)
    turned = torch.ops.megafm.rope(q, k, *angles, None, interleaved, False)
    return [y.view(rows, DIM) for y in turned]


def rope_interleaved(x: Tensors) -> Tensors:
    return rope(x, interleaved=True)


def softmax_backward(x: Tensors) -> Tensors:
    row = torch.arange(x[0].shape[0]) % SMALL
    columns = row.masked_fill(row % 3 == 0, NO_COLUMN)
    top, log_total, d_lse, d_picked = (x[2][:, column].float() for column in range(4))
    d_lse = d_lse.masked_fill(row % 6 == 0, 0)
    rows = (columns, top, log_total, d_lse, d_picked)
    return [torch.ops.megafm.softmax_backward(x[0], *rows)]


@pytest.fixture(params=CPU)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with on_backend("swiglu", request.param):
        yield request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    "op",
    [
        swiglu,
        swiglu_backward,
        rms_norm,
        add_rms_norm,
        rms_norm_backward,
        rope,
        rope_interleaved,
        softmax_backward,
    ],
)
def test_large_tensors_get_the_bits_of_small_ones(
    op: Callable[[Tensors], Tensors], dtype: torch.dtype, isa: str
) -> None:
    rows = ROWS * 4 // dtype.itemsize
    common = torch.randn(SMALL, DIM).to(dtype)  # an op looks at its rows one by one
    large = [(common * scale).repeat(rows // SMALL, 1) for scale in (1, 0.5, -2)]
    small = [x[:SMALL] for x in large]
    for many, few in zip(op(large), op(small), strict=True):
        assert torch.equal(many.view(-1, SMALL, DIM), few.expand(rows // SMALL, SMALL, DIM))
