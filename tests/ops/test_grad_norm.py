from __future__ import annotations

import pytest
import torch

from megafm import ops
from tests.ops.grad_norm_cases import (
    EXTREMES,
    LISTS,
    assert_norm,
    assert_norm_of_extremes,
    random_lists,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("name", LISTS)
def test_norm_of_all_elements(backend: str, name: str) -> None:
    with ops.use(grad_norm=backend):
        assert_norm(random_lists(name, CPU))


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("size", EXTREMES)
def test_norm_of_extremes(backend: str, size: float) -> None:
    with ops.use(grad_norm=backend):
        assert_norm_of_extremes(size, torch.float32, CPU)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_float64_stays_float64(backend: str) -> None:
    with ops.use(grad_norm=backend):
        norm = ops.grad_norm([torch.full((4,), 1e-3, dtype=torch.float64), torch.zeros(2)])
    assert norm.dtype == torch.float64 and abs(norm.item() - 2e-3) < 1e-17


def test_many_elements_cost_no_digits() -> None:
    x = torch.randn(3_000_000, generator=torch.Generator().manual_seed(0))
    right = x.double().norm()
    assert abs(ops.grad_norm([x]).double() / right - 1) < 1e-6


def test_same_bits_on_every_run() -> None:
    tensors = random_lists("mixed", CPU)
    assert len({ops.grad_norm(tensors).item() for _ in range(30)}) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_what_is_not_finite_shows(backend: str, bad: float) -> None:
    with ops.use(grad_norm=backend):
        norm = ops.grad_norm([torch.ones(3), torch.tensor([1.0, bad])])
    assert str(norm.item()) == str(bad)


def test_no_tensor_and_two_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="grad_norm: no tensors"):
        ops.grad_norm([])
    with pytest.raises(ValueError, match="tensor 0 is on cpu, tensor 1 is on meta"):
        ops.grad_norm([torch.zeros(2), torch.zeros(2, device="meta")])
