"""torch's own checks of every op's registration: schema, shapes for tracing, derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

Case = Callable[[Any, str], tuple[Any, tuple[Any, ...]]]


def normal(*shape: int, device: str) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)


def rms_norm(ops: Any, device: str) -> tuple[Any, tuple[Any, ...]]:
    x, weight = (normal(*shape, device=device).requires_grad_() for shape in ((3, 64), (64,)))
    return ops.rms_norm, (x, weight, 1e-6)


def rope(ops: Any, device: str) -> tuple[Any, tuple[Any, ...]]:
    q = normal(1, 5, 2, 16, device=device).requires_grad_()
    angles = normal(5, 8, device=device)
    return ops.rope, (q, q, angles.cos(), angles.sin(), None, False, False)


def swiglu(ops: Any, device: str) -> tuple[Any, tuple[Any, ...]]:
    gate = normal(3, 64, device=device).requires_grad_()
    return ops.swiglu, (gate, gate)


def softmax(ops: Any, device: str) -> tuple[Any, tuple[Any, ...]]:
    columns = torch.zeros(3, dtype=torch.int64, device=device)
    return ops.softmax_stats, (normal(3, 64, device=device), columns)


def softmax_in_place(ops: Any, device: str) -> tuple[Any, tuple[Any, ...]]:
    columns = torch.zeros(3, dtype=torch.int64, device=device)
    rows = [normal(3, device=device) for _ in range(4)]
    return ops.softmax_backward_, (normal(3, 64, device=device), columns, *rows, None)


def attention(ops: Any, device: str) -> tuple[Any, tuple[Any, ...]]:
    q = normal(1, 8, 2, 64, device=device).bfloat16().requires_grad_()
    return ops.attention, (q, q, q, None, None, None, True, 0.125, None, None, False)


def adamw(ops: Any, device: str) -> tuple[Any, tuple[Any, ...]]:
    lists = [[torch.ones(5, device=device)] for _ in range(4)]
    return ops.adamw_, (*lists, [], 1, 1e-3, 0.9, 0.95, 1e-8, 0.1)


def adamw_with_masters(ops: Any, device: str) -> tuple[Any, tuple[Any, ...]]:
    halves = [[torch.ones(5, device=device).half()] for _ in range(2)]
    wide = [[torch.ones(5, device=device)] for _ in range(3)]
    return ops.adamw_, (*halves, *wide, 1, 1e-3, 0.9, 0.95, 1e-8, 0.1)


def square_sums(ops: Any, device: str) -> tuple[Any, tuple[Any, ...]]:
    return ops.square_sums, ([normal(20_000, device=device), normal(0, device=device)],)


CASES: tuple[Case, ...] = (
    rms_norm,
    rope,
    swiglu,
    softmax,
    softmax_in_place,
    attention,
    adamw,
    adamw_with_masters,
    square_sums,
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_registration(case: Case, device: str) -> None:
    namespace = "megafm" if device == "cuda" else "megafm_emulated"
    op, arguments = case(getattr(torch.ops, namespace), device)
    torch.library.opcheck(op.default, arguments)
