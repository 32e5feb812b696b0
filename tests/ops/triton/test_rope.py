from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megafm import ops
from megafm.ops import rope
from tests.ops.error_rule import assert_error_rule
from tests.ops.triton.on_device import on_device

pytest.importorskip("triton")
INTERLEAVED = pytest.mark.parametrize("interleaved", [False, True], ids=["half", "interleaved"])


def plain(interleaved: bool, positions: torch.Tensor | None, seq_len: int, head_dim: int):
    """Rotation written with tensors of the working precision throughout."""
    tables = ops.rope_cache(40, head_dim)
    rows = slice(0, seq_len) if positions is None else positions
    cos, sin = (table[rows].unsqueeze(-2) for table in tables)

    def turn(x: torch.Tensor) -> torch.Tensor:
        c, s = cos.to(x.dtype), sin.to(x.dtype)
        a, b = (x[..., ::2], x[..., 1::2]) if interleaved else x.chunk(2, -1)
        turned = a * c - b * s, b * c + a * s
        return torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)

    return lambda q, k: (turn(q), turn(k))


def ours(interleaved: bool, positions: torch.Tensor | None, head_dim: int, device: torch.device):
    cos, sin = (table.to(device) for table in ops.rope_cache(40, head_dim))
    places = None if positions is None else positions.to(device)

    def turn(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if q.dtype == torch.float64:
            return rope.reference(q, k, cos.double(), sin.double(), places, interleaved)
        return ops.apply_rope(q, k, cos, sin, positions=places, interleaved=interleaved)

    return on_device(turn, device, rope="triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("seq_len", [0, 1, 17])
@pytest.mark.parametrize("head_dim", [2, 6, 64])
@INTERLEAVED
def test_error_rule(
    interleaved: bool, head_dim: int, seq_len: int, dtype: torch.dtype, device: torch.device
) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, seq_len, 5, head_dim), torch.randn(2, seq_len, 2, head_dim)
    assert_error_rule(
        ours(interleaved, None, head_dim, device),
        plain(interleaved, None, seq_len, head_dim),
        (q, k),
        dtype,
        exact=ours(interleaved, None, head_dim, device),
    )


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    seq_len=st.integers(1, 9),
    heads=st.integers(1, 9),
    kv_heads=st.integers(1, 3),
    half=st.integers(1, 40),
    interleaved=st.booleans(),
    batched=st.booleans(),
)
def test_positions_of_any_size(
    seq_len: int, heads: int, kv_heads: int, half: int, interleaved: bool, batched: bool
) -> None:
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    positions = torch.randint(0, 40, (3, seq_len) if batched else (seq_len,))
    q, k = torch.randn(3, seq_len, heads, 2 * half), torch.randn(3, seq_len, kv_heads, 2 * half)
    assert_error_rule(
        ours(interleaved, positions, 2 * half, device),
        plain(interleaved, positions, seq_len, 2 * half),
        (q, k),
        torch.float32,
        exact=ours(interleaved, positions, 2 * half, device),
    )


@INTERLEAVED
def test_parts_of_a_fused_projection_and_other_strides(
    interleaved: bool, device: torch.device
) -> None:
    torch.manual_seed(0)
    fused = torch.randn(2, 7, 3 + 2, 16, device=device)
    q, k = fused[:, :, :3], fused[:, :, 3:].transpose(2, 3).contiguous().transpose(2, 3)
    cos, sin = (table.to(device) for table in ops.rope_cache(7, 16))
    found = []
    for backend in ("reference", "triton"):
        leaves = q.detach().requires_grad_(), k.detach().requires_grad_()
        with ops.use(rope=backend):
            turned = ops.apply_rope(*leaves, cos, sin, interleaved=interleaved)
        slopes = fused.transpose(0, 1).reshape(7, 2, 5, 16).transpose(0, 1).split((3, 2), 2)
        found.append((*turned, *torch.autograd.grad(turned, leaves, slopes)))
    torch.testing.assert_close(found[1], found[0])


def test_more_heads_than_a_tile(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    from megafm.ops.triton import rope as kernels

    monkeypatch.setattr(kernels, "TILE", 32)
    assert kernels.tile_heads(num_heads=5, head_dim=16) == 2
    q, k = torch.randn(1, 3, 5, 16), torch.randn(1, 3, 3, 16)
    assert_error_rule(
        ours(False, None, 16, device),
        plain(False, None, 3, 16),
        (q, k),
        torch.float32,
        exact=ours(False, None, 16, device),
    )


def test_a_position_outside_the_cache_gives_nan_and_reads_nothing(device: torch.device) -> None:
    q = torch.ones(1, 3, 1, 4, device=device)
    cos, sin = (table.to(device) for table in ops.rope_cache(8, 4))
    with ops.use(rope="triton"):
        positions = torch.tensor([7, 8, -1], device=device)
        turned, _ = ops.apply_rope(q, q, cos, sin, positions=positions)
    assert turned[0, 0].isfinite().all() and turned[0, 1:].isnan().all()


def test_what_it_cannot_do_is_refused(device: torch.device) -> None:
    q = torch.randn(1, 3, 1, 4, device=device, requires_grad=True)
    cos, sin = (table.to(device) for table in ops.rope_cache(3, 4))
    with ops.use(rope="triton"):
        turned, _ = ops.apply_rope(q, q, cos, sin)
        with pytest.raises(ValueError, match=r"cos and sin get no gradient"):
            ops.apply_rope(q, q, cos.requires_grad_(), sin)
        with pytest.raises(ValueError, match=r"no Triton kernel for q torch.float64"):
            ops.apply_rope(q.double(), q.double(), cos.detach(), sin)
    with pytest.raises(NotImplementedError, match=r"set ops.rope=reference"):
        torch.autograd.grad(turned.sum(), q, create_graph=True)
