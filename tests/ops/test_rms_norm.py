from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from megafm import ops
from tests.ops.backend import CPU, assert_same_bits, needs_library, on_backend
from tests.ops.error_rule import assert_error_rule

BACKENDS = ["reference", "torch", *CPU]
SHAPES = [(5, 33), (2, 3, 257), (70, 64), (1, 3), (0, 16), (3, 0, 8), (3, 0)]


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with on_backend("rms_norm", request.param):
        yield request.param


def plain(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * weight


def plain_add(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor) -> tuple:
    return plain(x + residual, weight), x + residual


def add_rms_norm(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor) -> tuple:
    return ops.rms_norm(x, weight, residual=residual)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_error_rule(backend: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, residual, weight = torch.randn(shape), torch.randn(shape), torch.randn(shape[-1])
    assert_error_rule(ops.rms_norm, plain, (x, weight), dtype)
    assert_error_rule(add_rms_norm, plain_add, (x, weight, residual), dtype)


@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1e4, 1e12])
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_error_rule_at_extreme_values(backend: str, scale: float) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(4, 100) * scale, torch.randn(100)
    assert_error_rule(ops.rms_norm, plain, (x, weight), torch.float32)


@pytest.mark.parametrize("backend", CPU, indirect=True)
def test_takes_a_float32_weight_with_bfloat16_rows(backend: str) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(40, 48).bfloat16(), torch.randn(48, requires_grad=True)
    y = ops.rms_norm(x, weight)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, plain(x.double(), weight.double()).bfloat16())
    y.sum().backward()
    assert weight.grad is not None and weight.grad.dtype == torch.float32


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_takes_rows_that_are_not_contiguous(backend: str) -> None:
    x, weight = torch.randn(6, 5, 4).transpose(0, 2), torch.randn(6)
    torch.testing.assert_close(ops.rms_norm(x, weight), plain(x, weight))


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_a_residual_receives_the_gradient_of_both_outputs(backend: str) -> None:
    x, residual = torch.randn(3, 8, requires_grad=True), torch.randn(3, 8, requires_grad=True)
    y, total = ops.rms_norm(x, torch.ones(8), residual=residual)
    torch.autograd.backward((y, total), (torch.zeros(3, 8), torch.ones(3, 8)))
    assert torch.equal(x.grad, torch.ones(3, 8))
    assert torch.equal(residual.grad, torch.ones(3, 8))


def test_reference_gradients_match_finite_differences() -> None:
    x, residual = (torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.randn(5, dtype=torch.float64, requires_grad=True)
    with ops.use(rms_norm="reference"):
        assert torch.autograd.gradcheck(add_rms_norm, (x, weight, residual))


@needs_library
def test_cpu_gives_the_same_bits_on_any_number_of_threads() -> None:
    x, weight = torch.randn(2000, 96, requires_grad=True), torch.randn(96, requires_grad=True)

    def compute() -> list[torch.Tensor]:
        with ops.use(rms_norm="cpu"):
            y = ops.rms_norm(x, weight)
        return [y, *torch.autograd.grad(y.sum(), (x, weight))]

    assert_same_bits(compute)


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_cpu_ops_pass_opcheck(dtype: torch.dtype) -> None:
    x, residual = (torch.randn(4, 6, dtype=dtype, requires_grad=True) for _ in range(2))
    weight, rstd = torch.randn(6, dtype=dtype, requires_grad=True), torch.rand(4)
    library = torch.ops.megafm
    torch.library.opcheck(library.rms_norm.default, (x, weight, 1e-6))
    torch.library.opcheck(library.add_rms_norm.default, (x, residual, weight, 1e-6))
    d_y, x, weight = torch.randn(4, 6).to(dtype), x.detach(), weight.detach()
    torch.library.opcheck(library.rms_norm_backward.default, (d_y, None, x, weight, rstd))
    torch.library.opcheck(library.rms_norm_backward.default, (d_y, d_y, x, weight, rstd))


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_compiled_in_one_graph_equals_eager(backend: str) -> None:
    x, residual = (torch.randn(4, 16, requires_grad=True) for _ in range(2))
    inputs = (x, torch.randn(16, requires_grad=True), residual)
    compiled = torch.compile(add_rms_norm, fullgraph=True, backend="aot_eager")
    for ours, eager in zip(compiled(*inputs), add_rms_norm(*inputs), strict=True):
        assert torch.equal(ours, eager)
    ours = torch.autograd.grad(compiled(*inputs)[0].sum(), inputs)
    eager = torch.autograd.grad(add_rms_norm(*inputs)[0].sum(), inputs)
    assert all(map(torch.equal, ours, eager))


@needs_library
@pytest.mark.parametrize(
    ("x", "weight", "message"),
    [
        (torch.randn(2, 4), torch.randn(3), "weight must be"),
        (torch.randn(2, 4).double(), torch.randn(4).double(), "must be float32"),
        (torch.randn(2, 4), torch.randn(4).bfloat16(), "must be float32"),
    ],
)
def test_cpu_op_refuses_what_it_cannot_take(
    x: torch.Tensor, weight: torch.Tensor, message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        torch.ops.megafm.rms_norm(x, weight, 1e-6)


def test_weight_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weight \(3,\) does not fit x \(2, 4\)"):
        ops.rms_norm(torch.randn(2, 4), torch.randn(3))


def test_residual_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"residual \(4,\) does not fit x \(2, 4\)"):
        ops.rms_norm(torch.randn(2, 4), torch.ones(4), residual=torch.randn(4))


@pytest.mark.parametrize("backend", ["reference", *CPU], indirect=True)
def test_the_wider_of_x_and_residual_is_the_dtype_of_both_outputs(backend: str) -> None:
    x, residual = torch.randn(3, 8).bfloat16().requires_grad_(), torch.randn(3, 8)
    y, total = ops.rms_norm(x, torch.ones(8), residual=residual)
    assert y.dtype == total.dtype == torch.float32
    torch.testing.assert_close(y, plain(x.float() + residual, torch.ones(8)))
    y.sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_second_derivatives_are_right_or_refused(backend: str) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(3, 8, requires_grad=True), torch.randn(8)
    try:
        (slope,) = torch.autograd.grad(ops.rms_norm(x, weight).sum(), x, create_graph=True)
    except NotImplementedError as error:
        assert str(error).endswith("set ops.rms_norm=reference")
        return
    (found,) = torch.autograd.grad(slope.square().sum(), x)
    (slope,) = torch.autograd.grad(plain(x, weight).sum(), x, create_graph=True)
    torch.testing.assert_close(found, torch.autograd.grad(slope.square().sum(), x)[0])
