"""Rows of a tensor in another order. The gradient is looked up too, and summed in a fixed order,
where torch's own would scatter."""

from __future__ import annotations

from typing import Any, cast

import torch


def sorting(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The permutation that sorts keys (n,), equal ones in the order they have, and its inverse."""
    source = keys.argsort(stable=True)
    target = torch.empty_like(source)
    target[source] = torch.arange(len(source), device=keys.device)
    return source, target


def take_rows(
    x: torch.Tensor, source: torch.Tensor, target: torch.Tensor, copies: int = 1
) -> torch.Tensor:
    """Rows `source` of x (n, dim), each of which counts as `copies` rows, one after the other.

    Args:
        source, target: (n * copies,) int64, a permutation and its inverse.

    Returns:
        (n * copies, dim)
    """
    return cast(torch.Tensor, _TakeRows.apply(x, source, target, copies))


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, source: torch.Tensor, target: torch.Tensor, copies: int
    ) -> torch.Tensor:
        ctx.copies = copies
        ctx.save_for_backward(target)
        return x[source // copies]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (target,) = ctx.saved_tensors
        return grads[0][target].unflatten(0, (-1, ctx.copies)).sum(1), None, None, None
