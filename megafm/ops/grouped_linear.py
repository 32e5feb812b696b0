"""Matrix products of groups of rows, each with a weight of its own: the experts of a mixture.

FLOPs: 2 * rows * in_features * out_features forward, twice that backward, however they are grouped.
"""

from __future__ import annotations

from typing import Any, cast

import torch

from megafm.ops import registry
from megafm.ops.autocast import autocast_dtype
from megafm.ops.linear import linear


def grouped_linear(x: torch.Tensor, weight: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """x[group] @ weight[group].T for each group of rows.

    Args:
        x: (rows, in_features), sorted by group, in the dtype of `weight` (autocast's inside
            autocast).
        weight: (groups, out_features, in_features).
        counts: (groups,) int64, the rows of each group, which sum to rows; 0 is allowed.

    Returns:
        (rows, out_features) in the dtype of the product.
    """
    if x.dim() != 2 or weight.dim() != 3 or x.shape[1] != weight.shape[2]:
        raise ValueError(
            f"grouped_linear: weight {tuple(weight.shape)} does not fit x {tuple(x.shape)}"
        )
    if counts.shape != weight.shape[:1]:
        raise ValueError(
            f"grouped_linear: counts {tuple(counts.shape)} for {len(weight)} groups; give one each"
        )
    registry.check_devices("grouped_linear", x=x, weight=weight, counts=counts)
    dtype = autocast_dtype(x)
    if dtype is not None:
        x, weight = x.to(dtype), weight.to(dtype)
    return registry.dispatch("grouped_linear", x.device, x, weight, counts)


def reference(x: torch.Tensor, weight: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """One product after the other; on a GPU it waits for `counts`."""
    groups = zip(x.split(counts.tolist()), weight.unbind(), strict=True)
    return torch.cat([linear(rows, matrix) for rows, matrix in groups])


def _torch(x: torch.Tensor, weight: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    return cast(torch.Tensor, _GroupedMm.apply(x, weight, counts.cumsum(0).int()))


class _GroupedMm(torch.autograd.Function):
    """One launch for all groups, which no rank waits for. torch's own derivative of it refuses a
    gradient that is expanded."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, ends)
        return torch._grouped_mm(x, weight.mT, ends)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, ends = ctx.saved_tensors
        d_y = grads[0].contiguous()
        return torch._grouped_mm(d_y, weight, ends), torch._grouped_mm(d_y.T, x, ends), None


def _torch_unavailable() -> str | None:
    return None if hasattr(torch, "_grouped_mm") else "this torch has no grouped_mm"


def _torch_refuses(x: torch.Tensor, weight: torch.Tensor, counts: torch.Tensor) -> str | None:
    if x.dtype != torch.bfloat16:
        return f"it is for bfloat16, and x is {x.dtype}"
    if weight.shape[1] % 8 or weight.shape[2] % 8:
        return f"its rows lie at multiples of 16 bytes, and weight is {tuple(weight.shape)}"
    return None


registry.register("grouped_linear", "reference", registry.Backend(reference))
registry.register(
    "grouped_linear",
    "torch",
    registry.Backend(_torch, _torch_unavailable, _torch_refuses, transforms=True),
)
