"""What Inductor, torch.compile's default, makes of each op: one graph, the bits of eager mode.

The tests of each op compile it with aot_eager, on every backend; here is the whole path, with the
code that Inductor writes and its plan of memory, on the backend that `auto` picks.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from megafm import ops
from tests.ops.backend import needs_library

Outputs = torch.Tensor | tuple[torch.Tensor, ...]
Case = tuple[Callable[..., Outputs], tuple[torch.Tensor, ...]]


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=True)


def masked_targets() -> torch.Tensor:
    return torch.tensor([3, -100, 0, 6, -100, 2])


def rms_norm() -> Case:
    return ops.rms_norm, (leaf(4, 16), leaf(16))


def add_rms_norm() -> Case:
    def run(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor) -> Outputs:
        return ops.rms_norm(x, weight, residual=residual)

    return run, (leaf(4, 16), leaf(16), leaf(4, 16))


def rope() -> Case:
    tables = ops.rope_cache(5, 8)

    def run(q: torch.Tensor, k: torch.Tensor) -> Outputs:
        return ops.apply_rope(q, k, *tables, positions=torch.tensor([2, 0, 4]))

    return run, (leaf(2, 3, 2, 8), leaf(2, 3, 1, 8))


def swiglu() -> Case:
    return ops.swiglu, (leaf(4, 16), leaf(4, 16))


def linear() -> Case:
    return ops.linear, (leaf(6, 16), leaf(8, 16))


def attention() -> Case:
    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Outputs:
        return ops.attention(q, k, v, window=4, softcap=5.0, return_lse=True)

    return run, (leaf(2, 9, 4, 8), leaf(2, 9, 2, 8), leaf(2, 9, 2, 8))


def packed_attention() -> Case:
    ends = torch.tensor([0, 4, 9], dtype=torch.int32)

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sinks: torch.Tensor) -> Outputs:
        return ops.attention(q, k, v, cu_seqlens=ends, sinks=sinks)

    return run, (leaf(1, 9, 4, 8), leaf(1, 9, 2, 8), leaf(1, 9, 2, 8), leaf(4))


def cross_entropy() -> Case:
    targets = masked_targets()

    def run(logits: torch.Tensor) -> Outputs:
        return ops.cross_entropy(logits, targets, z_loss=0.1)

    return run, (leaf(6, 7),)


def linear_cross_entropy() -> Case:
    targets = masked_targets()

    def run(hidden: torch.Tensor, weight: torch.Tensor) -> Outputs:
        return ops.linear_cross_entropy(hidden, weight, targets, reduction="sum", z_loss=0.1)

    return run, (leaf(6, 16), leaf(7, 16))


CASES = (
    rms_norm,
    add_rms_norm,
    rope,
    swiglu,
    linear,
    attention,
    packed_attention,
    cross_entropy,
)


@needs_library
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_inductor_gives_the_eager_bits(case: Callable[[], Case]) -> None:
    compiled, eager = compiled_and_eager(case)
    assert all(map(torch.equal, compiled, eager))


@needs_library
def test_inductor_sums_the_losses_in_an_order_of_its_own() -> None:
    compiled, eager = compiled_and_eager(linear_cross_entropy)
    torch.testing.assert_close(compiled, eager)


def compiled_and_eager(case: Callable[[], Case]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    torch.manual_seed(0)
    run, leaves = case()
    return results(torch.compile(run, fullgraph=True), leaves), results(run, leaves)


def results(run: Callable[..., Outputs], leaves: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Outputs and gradients of all leaves, for cotangents that differ from row to row."""
    outputs = run(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    cotangents = [torch.linspace(-1, 1, y.numel()).reshape(y.shape) for y in outputs]
    return [*outputs, *torch.autograd.grad(outputs, leaves, cotangents)]
