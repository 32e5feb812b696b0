from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from megafm import ops
from tests.ops.backend import CPU, assert_same_bits, needs_library, on_backend
from tests.ops.error_rule import assert_error_rule

BACKENDS = ["reference", *CPU]
SHAPES = [(0, 4), (3, 0), (3,), (2, 5, 33), (3, 239), (2, 799), (1, 1023)]


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with on_backend("swiglu", request.param):
        yield request.param


def plain(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return gate / (1 + torch.exp(-gate)) * up


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_error_rule(backend: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    assert_error_rule(ops.swiglu, plain, (torch.randn(shape) * 3, torch.randn(shape)), dtype)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_large_gates_are_finite(backend: str) -> None:
    gate = torch.tensor([-1e4, 1e4], requires_grad=True)
    out = ops.swiglu(gate, torch.tensor([2.0, 2.0]))
    out.sum().backward()
    assert out.tolist() == [0, 2e4]
    assert gate.grad.tolist() == [0, 2]


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_inf_and_nan_propagate_as_in_torch(backend: str) -> None:
    inf, nan = float("inf"), float("nan")
    gate = torch.tensor([inf, -inf, nan, 1.0, 1.0, 0.0], requires_grad=True)
    up = torch.tensor([1.0, 1.0, 1.0, nan, -inf, inf], requires_grad=True)
    expected = torch.nn.functional.silu(gate) * up
    out = ops.swiglu(gate, up)
    torch.testing.assert_close(out, expected, equal_nan=True)
    ours = torch.autograd.grad(out.sum(), (gate, up))
    theirs = torch.autograd.grad(expected.sum(), (gate, up))
    torch.testing.assert_close(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_takes_the_halves_of_one_projection_and_any_other_layout(backend: str) -> None:
    torch.manual_seed(0)
    fused = torch.randn(4, 6, 2 * 37)
    layouts = [fused.chunk(2, -1), fused[:, 1:].chunk(2, -1), fused.mT.chunk(2, 1)]
    layouts += [fused[..., ::2].chunk(2, 0), (fused[..., :1].expand(4, 6, 5),) * 2]
    for gate, up in layouts:
        leaves = [x.detach().requires_grad_() for x in (gate, up)]
        out, expected = ops.swiglu(*leaves), plain(*leaves)
        torch.testing.assert_close(out, expected)
        # The gradient of a sum is one number in every place: strides of 0.
        ours = torch.autograd.grad(out.sum(), leaves)
        torch.testing.assert_close(ours, torch.autograd.grad(expected.sum(), leaves))


def test_reference_gradients_match_finite_differences() -> None:
    gate, up = (torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    with ops.use(swiglu="reference"):
        assert torch.autograd.gradcheck(ops.swiglu, (gate, up))


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_compiled_in_one_graph_equals_eager(backend: str) -> None:
    inputs = [torch.randn(4, 16, requires_grad=True) for _ in range(2)]
    compiled = torch.compile(ops.swiglu, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*inputs), ops.swiglu(*inputs))
    ours = torch.autograd.grad(compiled(*inputs).sum(), inputs)
    assert all(map(torch.equal, ours, torch.autograd.grad(ops.swiglu(*inputs).sum(), inputs)))


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_cpu_ops_pass_opcheck(dtype: torch.dtype) -> None:
    gate, up = (torch.randn(4, 6, dtype=dtype, requires_grad=True) for _ in range(2))
    torch.library.opcheck(torch.ops.megafm.swiglu.default, (gate, up))
    rows = (torch.randn(4, 6, dtype=dtype), gate.detach(), up.detach())
    torch.library.opcheck(torch.ops.megafm.swiglu_backward.default, rows)


@needs_library
def test_cpu_gives_the_same_bits_on_any_number_of_threads() -> None:
    gate, up = (torch.randn(500, 200, requires_grad=True) for _ in range(2))

    def compute() -> list[torch.Tensor]:
        with ops.use(swiglu="cpu"):
            out = ops.swiglu(gate, up)
        return [out, *torch.autograd.grad(out.sum(), (gate, up))]

    assert_same_bits(compute)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_second_derivatives_are_right_or_refused(backend: str) -> None:
    gate, up = torch.randn(3, 8, requires_grad=True), torch.randn(3, 8)
    try:
        (slope,) = torch.autograd.grad(ops.swiglu(gate, up).sum(), gate, create_graph=True)
    except NotImplementedError as error:
        assert str(error).endswith("set ops.swiglu=reference")
        return
    (found,) = torch.autograd.grad(slope.square().sum(), gate)
    (slope,) = torch.autograd.grad(plain(gate, up).sum(), gate, create_graph=True)
    torch.testing.assert_close(found, torch.autograd.grad(slope.square().sum(), gate)[0])


@pytest.mark.parametrize("up", [torch.ones(3), torch.ones(2, 3).bfloat16()])
def test_another_shape_or_dtype_is_refused(up: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="give one shape and dtype"):
        ops.swiglu(torch.ones(2, 3), up)


def test_tensors_on_two_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="gate is on cpu, up is on meta"):
        ops.swiglu(torch.ones(2, 3), torch.ones(2, 3, device="meta"))


@needs_library
def test_cpu_refuses_what_it_has_no_kernel_for() -> None:
    for wrong in (torch.ones(2).double(), torch.ones(()), torch.ones(2, device="meta")):
        with ops.use(swiglu="cpu"), pytest.raises(ValueError, match="ops.swiglu=cpu: no kernel"):
            ops.swiglu(wrong, wrong)
