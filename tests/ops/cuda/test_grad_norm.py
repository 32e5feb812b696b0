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


@pytest.mark.parametrize("name", LISTS)
def test_norm_of_all_elements(name: str, device: str) -> None:
    with ops.use(grad_norm="cuda"):
        assert_norm(random_lists(name, torch.device(device)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("size", EXTREMES)
def test_norm_of_extremes(size: float, dtype: torch.dtype, device: str) -> None:
    with ops.use(grad_norm="cuda"):
        assert_norm_of_extremes(size, dtype, torch.device(device))


def test_more_tensors_than_a_launch_takes(device: str) -> None:
    tensors = [torch.full((size,), 0.5, device=device) for size in [*range(149), 40_000]]
    with ops.use(grad_norm="cuda"):
        norm = ops.grad_norm(tensors).item()
    assert abs(norm - (0.25 * (149 * 74 + 40_000)) ** 0.5) < 1e-4


def test_addresses_that_no_vector_load_takes(device: str) -> None:
    buffer = torch.ones(3, 20_007, device=device, dtype=torch.bfloat16)
    with ops.use(grad_norm="cuda"):
        norm = ops.grad_norm([row[i + 1 : i + 20_001] for i, row in enumerate(buffer)]).item()
    assert abs(norm - 60_000**0.5) < 1e-4


def test_same_bits_on_every_run(device: str) -> None:
    tensors = random_lists("chunks", torch.device(device))
    with ops.use(grad_norm="cuda"):
        assert len({ops.grad_norm(tensors).item() for _ in range(10)}) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_shows(bad: float, device: str) -> None:
    with ops.use(grad_norm="cuda"):
        norm = ops.grad_norm([torch.ones(3, device=device), torch.tensor([1, bad], device=device)])
    assert str(norm.item()) == str(bad)


def test_float64_is_refused(device: str) -> None:
    tensors = [torch.ones(2, device=device), torch.ones(2, device=device, dtype=torch.float64)]
    with (
        ops.use(grad_norm="cuda"),
        pytest.raises(ValueError, match="ops.grad_norm=cuda: no kernel for torch.float64"),
    ):
        ops.grad_norm(tensors)
