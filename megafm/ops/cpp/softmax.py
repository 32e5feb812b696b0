"""The two passes of csrc/ over logits: statistics of each row's softmax, and its gradient."""

from __future__ import annotations

from typing import Any

import torch

from megafm.ops.cpp.storage import empty_contiguous_like


def stats(
    logits: torch.Tensor, columns: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.ops.megafm.softmax_stats(logits, columns)


def gradient(logits: torch.Tensor, columns: torch.Tensor, *rows: torch.Tensor) -> torch.Tensor:
    return torch.ops.megafm.softmax_backward(logits, columns, *rows)


def gradient_in_place(
    logits: torch.Tensor, columns: torch.Tensor, *rows: torch.Tensor, softcap: float | None
) -> None:
    torch.ops.megafm.softmax_backward_(logits, columns, *rows, softcap)


def register_formulas() -> None:
    """Give torch the output shapes of the ops; call once after loading."""
    library = torch.library
    library.register_fake("megafm::softmax_stats", _shape_stats)
    library.register_fake("megafm::softmax_backward", _shape_gradient)
    library.register_fake("megafm::softmax_backward_", _shape_in_place)


def _shape_stats(logits: torch.Tensor, columns: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(logits.new_empty(columns.shape, dtype=torch.float32) for _ in range(3))


def _shape_gradient(
    logits: torch.Tensor, columns: torch.Tensor, *rows: torch.Tensor
) -> torch.Tensor:
    return empty_contiguous_like(logits)


def _shape_in_place(*arguments: Any) -> None:
    return None
