"""Ops called from Python at once do what the dispatcher makes of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from megafm import ops
from tests.ops.backend import needs_library

pytestmark = needs_library

Tensors = tuple[torch.Tensor, ...]


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> tuple[Tensors, Tensors]:
    return (ops.swiglu(gate, up),), (torch.ops.megafm.swiglu(gate, up),)


def rms_norm(x: torch.Tensor, residual: torch.Tensor) -> tuple[Tensors, Tensors]:
    weight = residual[0, 0, 0]
    through_torch = torch.ops.megafm.add_rms_norm(x, residual, weight, 1e-6)[:2]
    return ops.rms_norm(x, weight, residual=residual), through_torch


def rope(q: torch.Tensor, k: torch.Tensor) -> tuple[Tensors, Tensors]:
    angles = ops.rope_cache(q.shape[1], q.shape[3])
    through_torch = torch.ops.megafm.rope(q, k, *angles, None, False, False)
    return ops.apply_rope(q, k, *angles), through_torch


def attention(q: torch.Tensor, k: torch.Tensor) -> tuple[Tensors, Tensors]:
    settings = (None, None, None, True, 0.5, None, None, False)
    through_torch = torch.ops.megafm.attention(q, k, k, *settings)
    return ops.attention(q, k, k, scale=0.5, return_lse=True), through_torch


OPS = pytest.mark.parametrize("op", [swiglu, rms_norm, rope, attention])
Pair = Callable[[torch.Tensor, torch.Tensor], tuple[Tensors, Tensors]]


def make() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 4, 16, generator=generator, requires_grad=True) for _ in range(2)]


@OPS
def test_outputs_and_gradients_have_the_same_bits(op: Pair) -> None:
    leaves = make()
    direct, through_torch = op(*leaves)
    slopes = [torch.randn_like(y) for y in direct]
    for outputs in zip(direct, through_torch, strict=True):
        assert torch.equal(*outputs)
    gradients = (torch.autograd.grad(y, leaves, slopes) for y in (direct, through_torch))
    for pair in zip(*gradients, strict=True):
        assert torch.equal(*pair)


@OPS
def test_a_leaf_without_gradient_gets_none(op: Pair) -> None:
    first, second = make()
    direct, _ = op(first, second.detach())
    sum(y.sum() for y in direct).backward()
    assert first.grad is not None
    assert second.grad is None


@OPS
def test_no_graph_without_need(op: Pair) -> None:
    leaves = make()
    with torch.no_grad():
        assert not any(y.requires_grad for y in op(*leaves)[0])
    assert not any(y.requires_grad for y in op(*(x.detach() for x in leaves))[0])


def test_rope_has_a_second_derivative() -> None:
    q, k = make()
    (d_q,) = torch.autograd.grad(
        (ops.apply_rope(q, k, *ops.rope_cache(3, 16))[0] ** 2).sum(), q, create_graph=True
    )
    (second,) = torch.autograd.grad(d_q.sum(), q)
    assert torch.allclose(second, torch.full_like(q, 2.0), atol=1e-5)  # turns keep lengths
