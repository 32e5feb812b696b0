from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megafm import ops
from tests.ops.error_rule import assert_error_rule
from tests.ops.triton.on_device import on_device

pytest.importorskip("triton")


def plain(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return gate * torch.sigmoid(gate) * up


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (3,), (2, 5, 33), (3, 1023)], ids=str)
def test_error_rule(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    torch.manual_seed(0)
    ours = on_device(ops.swiglu, device, swiglu="triton")
    assert_error_rule(ours, plain, (torch.randn(shape) * 3, torch.randn(shape)), dtype)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(rows=st.integers(1, 9), width=st.integers(1, 2100), rest=st.integers(0, 3))
def test_parts_of_a_fused_projection_are_read_where_they_lie(
    rows: int, width: int, rest: int
) -> None:
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def parts(fused: torch.Tensor) -> torch.Tensor:
        return ops.swiglu(fused[:, :width], fused[:, width : 2 * width])

    def plain_parts(fused: torch.Tensor) -> torch.Tensor:
        return plain(fused[:, :width], fused[:, width : 2 * width])

    ours = on_device(parts, device, swiglu="triton")
    assert_error_rule(ours, plain_parts, (torch.randn(rows, 2 * width + rest),), torch.float32)


def test_columns_apart_and_a_broadcast_gradient(device: torch.device) -> None:
    torch.manual_seed(0)
    gate, up = (torch.randn(7, 2, 5, device=device).transpose(0, 2) for _ in range(2))
    found = []
    for backend in ("reference", "triton"):
        leaves = gate.detach().requires_grad_(), up.detach().requires_grad_()
        with ops.use(swiglu=backend):
            y = ops.swiglu(*leaves)
        found.append((y, *torch.autograd.grad(y.sum(), leaves)))
    torch.testing.assert_close(found[1], found[0])


def test_extreme_gates(device: torch.device) -> None:
    gate = torch.tensor([-1e4, 1e4, float("nan"), float("inf")], device=device)
    gate.requires_grad_()
    with ops.use(swiglu="triton"):
        y = ops.swiglu(gate, torch.full_like(gate, 2))
    y.sum().backward()
    nan = float("nan")
    expected = torch.tensor([0, 2e4, nan, float("inf")], device=device)
    torch.testing.assert_close(y, expected, equal_nan=True)
    assert gate.grad[:2].tolist() == [0, 2] and gate.grad[2].isnan()


def test_gradients_are_the_same_bits_on_every_run(device: torch.device) -> None:
    torch.manual_seed(0)
    gate, up = (torch.randn(9, 200, device=device, requires_grad=True) for _ in range(2))
    with ops.use(swiglu="triton"):
        runs = [torch.autograd.grad(ops.swiglu(gate, up).sum(), (gate, up)) for _ in range(30)]
    assert all(torch.equal(a, b) for run in runs for a, b in zip(run, runs[0], strict=True))


def test_what_it_cannot_do_is_refused(device: torch.device) -> None:
    gate = torch.randn(3, 8, device=device, requires_grad=True)
    with ops.use(swiglu="triton"):
        y = ops.swiglu(gate, gate)
        with pytest.raises(ValueError, match=r"no Triton kernel for gate torch.float64"):
            ops.swiglu(gate.double(), gate.double())
    with pytest.raises(NotImplementedError, match=r"set ops.swiglu=reference"):
        torch.autograd.grad(y.sum(), gate, create_graph=True)
