from __future__ import annotations

import pytest
import torch

from megafm import ops
from tests.ops.error_rule import assert_error_rule


def plain(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return gate / (1 + torch.exp(-gate)) * up


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", [(0, 4), (3,), (2, 5, 33)], ids=str)
def test_error_rule(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    assert_error_rule(ops.swiglu, plain, (torch.randn(shape) * 3, torch.randn(shape)), dtype)


def test_large_gates_are_finite() -> None:
    gate = torch.tensor([-1e4, 1e4], requires_grad=True)
    out = ops.swiglu(gate, torch.tensor([2.0, 2.0]))
    out.sum().backward()
    assert out.tolist() == [0, 2e4]
    assert gate.grad.tolist() == [0, 2]


def test_gradients_match_finite_differences() -> None:
    gate, up = (torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(ops.swiglu, (gate, up))


@pytest.mark.parametrize("up", [torch.ones(3), torch.ones(2, 3).bfloat16()])
def test_another_shape_or_dtype_is_refused(up: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="give one shape and dtype"):
        ops.swiglu(torch.ones(2, 3), up)
