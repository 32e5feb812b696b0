from __future__ import annotations

import pytest
import torch

from megafm import ops
from tests.ops.error_rule import assert_error_rule
from tests.ops.test_rms_norm import SHAPES, add_rms_norm, plain, plain_add
from tests.ops.triton.on_device import on_device

HALVES = [torch.bfloat16, torch.float16]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=["fp32", "bf16", "fp16"])
# Rows of a quarter of a warp, of a warp, of several, and of more than the registers hold.
ALIGNED = [(70, 64), (9, 1024), (3, 4096), (2, 20480)]


@DTYPES
@pytest.mark.parametrize("shape", [*SHAPES, *ALIGNED], ids=str)
def test_error_rule(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    torch.manual_seed(0)
    x, residual, weight = torch.randn(shape), torch.randn(shape), torch.randn(shape[-1])
    ours = on_device(ops.rms_norm, torch.device(device), rms_norm="cuda")
    assert_error_rule(ours, plain, (x, weight), dtype)
    ours = on_device(add_rms_norm, torch.device(device), rms_norm="cuda")
    assert_error_rule(ours, plain_add, (x, weight, residual), dtype)
