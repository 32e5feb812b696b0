from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megafm import ops
from tests.ops.error_rule import assert_error_rule
from tests.ops.triton.on_device import on_device

pytest.importorskip("triton")
DTYPES = [torch.float32, torch.float16]
SHAPES = [(5, 33), (2, 3, 257), (70, 64), (1, 799), (1, 3), (300, 1), (0, 16), (3, 0, 8), (3, 0)]


def plain(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * weight


def plain_add(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor) -> tuple:
    return plain(x + residual, weight), x + residual


def add_rms_norm(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor) -> tuple:
    return ops.rms_norm(x, weight, residual=residual)


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "fp16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_error_rule(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    torch.manual_seed(0)
    x, residual, weight = torch.randn(shape), torch.randn(shape), torch.randn(shape[-1])
    ours = on_device(ops.rms_norm, device, rms_norm="triton")
    assert_error_rule(ours, plain, (x, weight), dtype)
    ours = on_device(add_rms_norm, device, rms_norm="triton")
    assert_error_rule(ours, plain_add, (x, weight, residual), dtype)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(rows=st.integers(1, 40), dim=st.integers(8, 200), magnitude=st.integers(-20, 12))
def test_error_rule_for_any_size_and_magnitude(rows: int, dim: int, magnitude: int) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    x, weight = torch.randn(rows, dim) * 10.0**magnitude, torch.randn(dim)
    ours = on_device(ops.rms_norm, device, rms_norm="triton")
    assert_error_rule(ours, plain, (x, weight), torch.float32)


def test_rows_and_gradients_that_are_not_contiguous(device: torch.device) -> None:
    torch.manual_seed(0)
    wide, weight = torch.randn(6, 5, 20, device=device), torch.randn(9, device=device)
    for x in (wide[..., 4:13], wide.mT[:, 2:11].mT, wide[:, :, :9].transpose(0, 1)):
        leaves = x.requires_grad_(), weight.requires_grad_()
        found = []
        for backend in ("reference", "triton"):
            with ops.use(rms_norm=backend):
                y, total = ops.rms_norm(*leaves, residual=leaves[0].flip(0))
            slope = wide.flip(-1).expand(2, *wide.shape)[1][..., :9].reshape(y.shape)
            total = (y * slope).sum() + total.mT[..., ::2, :].sum()
            found.append((y, *torch.autograd.grad(total, leaves)))
        torch.testing.assert_close(found[1], found[0])


def test_a_float32_weight_with_half_rows_gets_a_float32_gradient(device: torch.device) -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 48, device=device).half()
    weight = torch.randn(48, device=device, requires_grad=True)
    with ops.use(rms_norm="triton"):
        y = ops.rms_norm(x, weight)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y, plain(x.double(), weight.double()).half())
    (grad,) = torch.autograd.grad(y.sum(), weight)
    assert grad.dtype == torch.float32
    torch.testing.assert_close(grad, plain(x.double(), torch.ones_like(weight)).sum(0).float())


def test_the_sum_is_rounded_before_it_is_normalised(device: torch.device) -> None:
    x = torch.full((1, 2), 2048.0, device=device).half()
    residual = torch.tensor([[1.0, 3.0]], device=device).half()
    with ops.use(rms_norm="triton"):
        y, total = ops.rms_norm(x, torch.ones(2, device=device), residual=residual)
        assert total.tolist() == [[2048, 2052]]
        assert torch.equal(y, ops.rms_norm(total, torch.ones(2, device=device)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_spoils_its_row_alone(value: float, device: torch.device) -> None:
    x, weight = torch.ones(3, 70, device=device), torch.ones(70, device=device)
    x[1, 69] = value
    with ops.use(rms_norm="triton"):
        y = ops.rms_norm(x, weight)
    with ops.use(rms_norm="reference"):
        torch.testing.assert_close(y, ops.rms_norm(x, weight), equal_nan=True)
    assert y[1].isnan().any() and y[::2].isfinite().all()


def test_gradients_are_the_same_bits_on_every_run(device: torch.device) -> None:
    torch.manual_seed(0)
    x = torch.randn(90, 100, device=device, requires_grad=True)
    weight = torch.randn(100, device=device, requires_grad=True)
    with ops.use(rms_norm="triton"):
        runs = [
            torch.autograd.grad(ops.rms_norm(x, weight).square().sum(), (x, weight))
            for _ in range(30)
        ]
    assert all(torch.equal(a, b) for run in runs for a, b in zip(run, runs[0], strict=True))


def test_more_rows_than_programs_of_the_backward(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from megafm.ops.triton import rms_norm as kernels

    monkeypatch.setattr(kernels, "NUM_PARTIALS", 3)
    x, weight = torch.randn(50, 2048), torch.randn(2048)
    ours = on_device(ops.rms_norm, device, rms_norm="triton")
    assert_error_rule(ours, plain, (x, weight), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "fp16"])
@pytest.mark.parametrize("shape", [(3, 65), (35, 145), (0, 65)], ids=str)
def test_rows_wider_than_a_tile(
    shape: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from megafm.ops.triton import rms_norm as kernels

    monkeypatch.setattr(kernels, "MAX_BLOCK", 64)
    monkeypatch.setattr(kernels, "NUM_PARTIALS", 1)
    test_error_rule(shape, dtype, device)


def test_second_derivatives_are_refused(device: torch.device) -> None:
    x = torch.randn(3, 8, device=device, requires_grad=True)
    with ops.use(rms_norm="triton"):
        y = ops.rms_norm(x, torch.ones(8, device=device))
    with pytest.raises(NotImplementedError, match=r"set ops.rms_norm=reference"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


def test_float64_is_refused(device: torch.device) -> None:
    x = torch.randn(3, 8, device=device, dtype=torch.float64)
    with ops.use(rms_norm="triton"), pytest.raises(ValueError, match=r"no Triton kernel for x"):
        ops.rms_norm(x, torch.ones(8, device=device))
