from __future__ import annotations

import pytest
import torch

from megafm import ops
from megafm.ops.adamw import Update, adamw_step
from tests.ops.adamw_cases import assert_steps_hold_the_error_rule

HALVES = [torch.bfloat16, torch.float16]
UPDATE = Update(1, 1e-2, 0.9, 0.95, 1e-8, 0.1)


def step(*lists: list[torch.Tensor], masters: list[torch.Tensor] | None = None) -> None:
    with ops.use(adamw="cuda"):
        adamw_step(*lists, masters, UPDATE)


@pytest.mark.parametrize(
    ("dtype", "master"),
    [(torch.float32, False), *((dtype, master) for dtype in HALVES for master in (False, True))],
)
def test_steps_hold_the_error_rule(dtype: torch.dtype, master: bool, device: str) -> None:
    with ops.use(adamw="cuda"):
        assert_steps_hold_the_error_rule(dtype, master, torch.device(device), num_steps=5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_addresses_that_no_vector_load_takes(dtype: torch.dtype, device: str) -> None:
    """Views that start at an odd element, as gradients in a bucket do; a tail of any length."""
    start = torch.randn(2, 4101, generator=torch.Generator().manual_seed(0)).to(device, dtype)

    def stepped(offset: int, size: int) -> torch.Tensor:
        buffer = torch.zeros(4, 4104, device=device, dtype=dtype)
        rows = [row[offset : offset + size] for row in buffer]
        rows[0].copy_(start[0, :size])
        rows[1].copy_(start[1, :size])
        step(*([row] for row in rows))
        outside = [buffer[:, :offset], buffer[:, offset + size :]]
        assert not any(part.any() for part in outside)
        return rows[0]

    aligned = stepped(0, 4096)
    assert torch.equal(aligned, stepped(1, 4096)) and torch.equal(aligned, stepped(3, 4096))
    assert torch.equal(stepped(0, 4101)[:4096], aligned)


def test_more_tensors_than_a_launch_takes(device: str) -> None:
    """64 a launch: 150 are three, among them empty ones and one of several chunks."""
    sizes = [(7 * i) % 31 for i in range(149)] + [5000]
    lists = [[torch.full((size,), float(n), device=device) for size in sizes] for n in (1, 2, 0, 0)]
    step(*lists)
    expected = 1 - UPDATE.lr * UPDATE.weight_decay - UPDATE.lr
    assert all(torch.allclose(x, torch.full_like(x, expected), rtol=1e-6) for x in lists[0])
    assert all(x.eq(2).all() for x in lists[1])


def test_nothing_but_empty_tensors(device: str) -> None:
    empty = [torch.zeros(0, device=device)]
    step(empty, empty, empty, empty)


def test_what_is_not_finite_stays_in_its_element(device: str) -> None:
    lists = [[torch.ones(40, device=device)] for _ in range(4)]
    lists[1][0][7] = float("nan")
    step(*lists)
    assert lists[0][0].isnan().nonzero().tolist() == [[7]]


def test_other_dtypes_are_refused(device: str) -> None:
    wide = [torch.ones(2, dtype=torch.float64, device=device)]
    with pytest.raises(ValueError, match="ops.adamw=cuda: no kernel for torch.float64"):
        step(wide, wide, wide, wide)
    ones, halves = [torch.ones(2, device=device)], [torch.ones(2, device=device).half()]
    with pytest.raises(ValueError, match=r"parameters are torch.float32, gradients torch.float16"):
        step(ones, halves, ones, ones)
