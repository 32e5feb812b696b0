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


def test_gradients_are_the_same_bits_on_every_run(device: str) -> None:
    """Of 90 rows in 6 partial sums."""
    torch.manual_seed(0)
    x = torch.randn(90, 256, device=device, requires_grad=True)
    weight = torch.randn(256, device=device, requires_grad=True)
    with ops.use(rms_norm="cuda"):
        runs = [
            torch.autograd.grad(ops.rms_norm(x, weight).square().sum(), (x, weight))
            for _ in range(10)
        ]
    assert all(torch.equal(a, b) for run in runs for a, b in zip(run, runs[0], strict=True))


@DTYPES
def test_many_rows_of_a_block(dtype: torch.dtype, device: str) -> None:
    """More rows than a block has: its sums go through several turns of its two slots."""
    torch.manual_seed(0)
    x, weight = torch.randn(700, 520), torch.randn(520)
    ours = on_device(ops.rms_norm, torch.device(device), rms_norm="cuda")
    assert_error_rule(ours, plain, (x, weight), dtype)
