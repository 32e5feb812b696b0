from __future__ import annotations

import pytest
import torch

from megafm import ops
from tests.ops.cuda.test_rms_norm import DTYPES
from tests.ops.error_rule import assert_error_rule
from tests.ops.triton.on_device import on_device
from tests.ops.triton.test_swiglu import plain

SHAPES = [(0, 4), (3, 0), (3,), (2, 5, 33), (3, 1023), (3, 4104)]


@DTYPES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_error_rule(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    torch.manual_seed(0)
    ours = on_device(ops.swiglu, torch.device(device), swiglu="cuda")
    assert_error_rule(ours, plain, (torch.randn(shape) * 3, torch.randn(shape)), dtype)


@DTYPES
@pytest.mark.parametrize("width", [7, 64])
def test_parts_of_a_fused_projection(width: int, dtype: torch.dtype, device: str) -> None:
    torch.manual_seed(0)

    def halves(function, fused: torch.Tensor) -> torch.Tensor:
        return function(*fused.chunk(2, dim=1))

    ours = on_device(lambda fused: halves(ops.swiglu, fused), torch.device(device), swiglu="cuda")
    fused = torch.randn(5, 2 * width)
    assert_error_rule(ours, lambda fused: halves(plain, fused), (fused,), dtype)


def test_extreme_gates(device: str) -> None:
    gate = torch.tensor([-1e4, 1e4, float("nan"), float("inf")], device=device).requires_grad_()
    with ops.use(swiglu="cuda"):
        y = ops.swiglu(gate, torch.full_like(gate, 2))
    y.sum().backward()
    assert y[:2].tolist() == [0, 2e4] and y[2].isnan() and y[3].isinf()
    assert gate.grad[:2].tolist() == [0, 2] and gate.grad[2].isnan()
