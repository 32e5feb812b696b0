from __future__ import annotations

import pytest
import torch

from megafm import ops
from megafm.ops.adamw import Update, adamw_step
from tests.ops.adamw_cases import assert_steps_hold_the_error_rule

pytest.importorskip("triton")

# The interpreter's bfloat16 is wrong: bfloat16 runs on a GPU alone.
HALVES = [torch.float16, torch.bfloat16] if torch.cuda.is_available() else [torch.float16]


@pytest.mark.parametrize(
    ("dtype", "master"),
    [(torch.float32, False), *((dtype, master) for dtype in HALVES for master in (False, True))],
)
def test_steps_hold_the_error_rule(dtype: torch.dtype, master: bool, device: torch.device) -> None:
    with ops.use(adamw="triton"):
        assert_steps_hold_the_error_rule(dtype, master, device, num_steps=5)


def test_addresses_that_no_vector_load_takes(device: torch.device) -> None:
    """Views that start at an odd element, as gradients in a bucket do."""
    update = Update(1, 1e-2, 0.9, 0.95, 1e-8, 0.1)
    start = torch.randn(2, 20_001, generator=torch.Generator().manual_seed(0)).to(device)

    def stepped(offset: int) -> torch.Tensor:
        buffer = torch.zeros(4, 20_001 + 4, device=device)
        rows = [row[offset : offset + 20_001] for row in buffer]
        rows[0].copy_(start[0])
        rows[1].copy_(start[1])
        with ops.use(adamw="triton"):
            adamw_step(*([row] for row in rows), None, update)
        return rows[0]

    assert torch.equal(stepped(0), stepped(1))


def test_nothing_but_empty_tensors(device: torch.device) -> None:
    empty = [torch.zeros(0, device=device)]
    with ops.use(adamw="triton"):
        adamw_step(empty, empty, empty, empty, None, Update(1, 1e-2, 0.9, 0.95, 1e-8, 0.1))


def test_a_gradient_of_another_dtype_and_one_that_is_not_finite(device: torch.device) -> None:
    lists = [[torch.ones(40, device=device)] for _ in range(4)]
    lists[1] = [torch.ones(40, device=device, dtype=torch.float16)]
    lists[1][0][7] = float("nan")
    with ops.use(adamw="triton"):
        adamw_step(*lists, None, Update(1, 1e-2, 0.9, 0.95, 1e-8, 0.1))
    assert lists[0][0].isnan().nonzero().tolist() == [[7]]


def test_float64_is_refused(device: torch.device) -> None:
    x = [torch.ones(2, dtype=torch.float64, device=device)]
    update = Update(1, 1e-2, 0.9, 0.95, 1e-8, 0.1)
    with (
        ops.use(adamw="triton"),
        pytest.raises(ValueError, match="ops.adamw=triton: it computes in float32"),
    ):
        adamw_step(x, x, x, x, None, update)
