from __future__ import annotations

import pytest
import torch

from megafm import ops
from megafm.ops import rope
from tests.ops.cuda.test_rms_norm import DTYPES
from tests.ops.error_rule import assert_error_rule
from tests.ops.triton.on_device import on_device
from tests.ops.triton.test_rope import plain

INTERLEAVED = pytest.mark.parametrize("interleaved", [False, True], ids=["half", "interleaved"])


def turning(interleaved: bool, positions: torch.Tensor | None, head_dim: int, device: str):
    cos, sin = (table.to(device) for table in ops.rope_cache(40, head_dim))
    places = None if positions is None else positions.to(device)

    def turn(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if q.dtype == torch.float64:
            return rope.reference(q, k, cos.double(), sin.double(), places, interleaved)
        return ops.apply_rope(q, k, cos, sin, positions=places, interleaved=interleaved)

    return on_device(turn, torch.device(device), rope="cuda")


@DTYPES
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("head_dim", [2, 6, 16, 128])
@INTERLEAVED
def test_error_rule(
    interleaved: bool, head_dim: int, batched: bool, dtype: torch.dtype, device: str
) -> None:
    torch.manual_seed(0)
    positions = torch.randint(0, 40, (2, 7)) if batched else None
    q, k = torch.randn(2, 7, 9, head_dim), torch.randn(2, 7, 2, head_dim)
    ours = turning(interleaved, positions, head_dim, device)
    expected = plain(interleaved, positions, 7, head_dim)
    assert_error_rule(ours, expected, (q, k), dtype, exact=ours)


@INTERLEAVED
@pytest.mark.parametrize("head_dim", [6, 32])
def test_parts_of_a_fused_projection(interleaved: bool, head_dim: int, device: str) -> None:
    torch.manual_seed(0)
    fused = torch.randn(2, 7, 3 + 2, head_dim, device=device)
    q, k = fused[:, :, :3], fused[:, :, 3:].transpose(2, 3).contiguous().transpose(2, 3)
    cos, sin = (table.to(device) for table in ops.rope_cache(7, head_dim))
    found = []
    for backend in ("reference", "cuda"):
        leaves = q.detach().requires_grad_(), k.detach().requires_grad_()
        with ops.use(rope=backend):
            turned = ops.apply_rope(*leaves, cos, sin, interleaved=interleaved)
        slopes = fused.flip(1).split((3, 2), 2)
        found.append((*turned, *torch.autograd.grad(turned, leaves, slopes)))
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("seq_len", [0, 1])
def test_few_tokens(seq_len: int, device: str) -> None:
    q = torch.randn(1, seq_len, 3, 16)
    ours = turning(False, None, 16, device)
    assert_error_rule(ours, plain(False, None, seq_len, 16), (q, q), torch.float32, exact=ours)


def test_a_position_outside_the_cache_gives_nan_and_reads_nothing(device: str) -> None:
    q = torch.ones(1, 3, 1, 16, device=device)
    cos, sin = (table.to(device) for table in ops.rope_cache(8, 16))
    with ops.use(rope="cuda"):
        positions = torch.tensor([7, 8, -1], device=device)
        turned, _ = ops.apply_rope(q, q, cos, sin, positions=positions)
    assert turned[0, 0].isfinite().all() and turned[0, 1:].isnan().all()
