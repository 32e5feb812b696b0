from __future__ import annotations

import pytest
import torch

from megafm import ops
from megafm.ops import auto
from megafm.ops.linear import onednn_unavailable
from tests.ops.error_rule import assert_error_rule

needs_onednn = pytest.mark.skipif(
    onednn_unavailable() is not None, reason=str(onednn_unavailable())
)
BACKENDS = ["reference", pytest.param("onednn", marks=needs_onednn)]


def plain(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x @ weight.T


@pytest.mark.parametrize("shape", [(7, 33, 5), (2, 3, 17, 9), (300, 260, 120), (1, 4, 8)], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_error_rule(backend: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    *rows, features, outputs = shape
    x, weight = torch.randn(*rows, features), torch.randn(outputs, features)
    with ops.use(linear=backend):
        assert_error_rule(ops.linear, plain, (x, weight), torch.float32)


@needs_onednn
def test_strided_input_and_weight() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(40, 12).T, torch.randn(40, 14)[:, ::2].T
    with ops.use(linear="onednn"):
        assert_error_rule(ops.linear, plain, (x, weight), torch.float32)


@needs_onednn
def test_second_derivatives_are_right() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(5, 7, requires_grad=True), torch.randn(3, 7, requires_grad=True)

    def second(backend: str) -> tuple[torch.Tensor, ...]:
        with ops.use(linear=backend):
            y = ops.linear(x, weight).square().sum()
            (d_x,) = torch.autograd.grad(y, x, create_graph=True)
            return torch.autograd.grad(d_x.square().sum(), (x, weight))

    torch.testing.assert_close(second("onednn"), second("reference"))


@needs_onednn
def test_a_compiled_call_gives_the_eager_bits() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(6, 16, requires_grad=True), torch.randn(8, 16, requires_grad=True)
    with ops.use(linear="onednn"):
        eager = ops.linear(x, weight)
        compiled = torch.compile(ops.linear, fullgraph=True)(x, weight)
    assert torch.equal(eager, compiled)
    expected = torch.autograd.grad(eager.sum(), (x, weight))
    got = torch.autograd.grad(compiled.sum(), (x, weight))
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


def test_autocast_gives_the_product_in_its_dtype() -> None:
    x, weight = torch.randn(4, 8), torch.randn(3, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ops.linear(x, weight)
    assert torch.equal(y, torch.nn.functional.linear(x.bfloat16(), weight.bfloat16()))


def test_only_a_large_product_is_worth_the_overhead_of_onednn() -> None:
    assert auto.shape_class("linear", torch.empty(4096, 256), torch.empty(256, 256)) == "large"
    assert auto.shape_class("linear", torch.empty(1, 256), torch.empty(688, 256)) == "small"


def test_no_row() -> None:
    x, weight = torch.randn(0, 8, requires_grad=True), torch.randn(3, 8, requires_grad=True)
    y = ops.linear(x, weight)
    assert y.shape == (0, 3)
    assert not torch.autograd.grad(y.sum(), weight)[0].any()


@pytest.mark.parametrize(
    ("x", "weight", "message"),
    [
        (torch.ones(2, 3), torch.ones(4, 5), r"weight \(4, 5\) does not fit x \(2, 3\)"),
        (torch.ones(2, 3), torch.ones(4, 3).double(), "x is torch.float32, weight torch.float64"),
        (torch.ones(2, 3), torch.ones(4, 3, device="meta"), "weight is on meta; move them"),
    ],
)
def test_mistakes_are_named(x: torch.Tensor, weight: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.linear(x, weight)
