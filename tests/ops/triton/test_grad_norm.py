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

pytest.importorskip("triton")


@pytest.mark.parametrize("name", LISTS)
def test_norm_of_all_elements(name: str, device: torch.device) -> None:
    tensors = random_lists(name, device)
    if device.type == "cpu":  # the interpreter's bfloat16 is wrong
        tensors = [x.half() if x.dtype == torch.bfloat16 else x for x in tensors]
    with ops.use(grad_norm="triton"):
        assert_norm(tensors)


@pytest.mark.parametrize("size", EXTREMES)
def test_norm_of_extremes(size: float, device: torch.device) -> None:
    with ops.use(grad_norm="triton"):
        assert_norm_of_extremes(size, torch.float32, device)


def test_same_bits_on_every_run(device: torch.device) -> None:
    tensors = random_lists("chunks", device)
    with ops.use(grad_norm="triton"):
        assert len({ops.grad_norm(tensors).item() for _ in range(30)}) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_shows(bad: float, device: torch.device) -> None:
    with ops.use(grad_norm="triton"):
        norm = ops.grad_norm([torch.ones(3, device=device), torch.tensor([1, bad], device=device)])
    assert str(norm.item()) == str(bad)
