"""The two passes of csrc/ over logits: statistics of each row's softmax, and its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from megafm.ops.cpp.storage import Target, empty_contiguous_like


@dataclass(frozen=True)
class SoftmaxKernels:
    """`cross_entropy.Kernels` of csrc/."""

    target: Target

    def stats(
        self, logits: torch.Tensor, columns: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.target.ops.softmax_stats(logits, columns)

    def gradient(
        self, logits: torch.Tensor, columns: torch.Tensor, *rows: torch.Tensor
    ) -> torch.Tensor:
        return self.target.ops.softmax_backward(logits, columns, *rows)

    def gradient_in_place(
        self,
        logits: torch.Tensor,
        columns: torch.Tensor,
        *rows: torch.Tensor,
        softcap: float | None,
    ) -> None:
        self.target.ops.softmax_backward_(logits, columns, *rows, softcap)


def register_formulas(namespace: str) -> None:
    """Give torch the output shapes of the ops in torch.ops.NAMESPACE."""
    library = torch.library
    library.register_fake(f"{namespace}::softmax_stats", _shape_stats)
    library.register_fake(f"{namespace}::softmax_backward", _shape_gradient)
    library.register_fake(f"{namespace}::softmax_backward_", _shape_in_place)


def _shape_stats(logits: torch.Tensor, columns: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(logits.new_empty(columns.shape, dtype=torch.float32) for _ in range(3))


def _shape_gradient(
    logits: torch.Tensor, columns: torch.Tensor, *rows: torch.Tensor
) -> torch.Tensor:
    return empty_contiguous_like(logits)


def _shape_in_place(*arguments: Any) -> None:
    return None
