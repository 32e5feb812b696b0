"""A mixture of experts (arXiv:1701.06538): each token is computed by k of many feed-forwards.

No token is dropped and no expert has a capacity: rows are sorted by expert, and one grouped product
takes as many as there are. The sort is stable and every sum has a fixed order, so the result is the
same on every run.

Shapes: n tokens of this rank, k experts per token, D dim, F ffn_dim of an expert.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from megafm import ops
from megafm.model.config import MoeConfig
from megafm.model.feed_forward import FeedForward
from megafm.model.layers import Layers
from megafm.model.router import Router
from megafm.ops.autocast import autocast_dtype


class MixtureOfExperts(nn.Module):
    """x (B, T, D) -> sum of weight * expert(x) over the k experts of a token, + shared(x)."""

    def __init__(self, dim: int, moe: MoeConfig, layers: Layers) -> None:
        super().__init__()
        self.router = Router(dim, moe, layers)
        self.experts = Experts(dim, moe, layers)
        shared_dim = moe.num_shared_experts * moe.ffn_dim
        self.shared = FeedForward(dim, shared_dim, layers) if shared_dim else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(0, -2)  # (n, D)
        weights, experts, counts = self.router(tokens)  # (n, k)
        num_choices = experts.shape[1]
        # from a place in the order of experts to the choice there, and back: (n k)
        choice = experts.flatten().argsort(stable=True)
        place = torch.empty_like(choice).scatter_(
            0, choice, torch.arange(len(choice), device=x.device)
        )
        rows = take(tokens.to(autocast_dtype(x) or x.dtype), choice, place, num_choices)
        rows = self.experts(rows, counts)  # (n k, D)
        outputs = take(rows, place, choice).unflatten(0, (-1, num_choices))  # (n, k, D)
        out = (outputs * weights.unsqueeze(-1).to(outputs.dtype)).sum(1).view_as(x)
        return out if self.shared is None else out + self.shared(x)


class Experts(nn.Module):
    """rows (rows, D), sorted by expert, counts (num_experts,) -> each through its expert."""

    def __init__(self, dim: int, moe: MoeConfig, layers: Layers) -> None:
        super().__init__()
        self.w_gate = layers.grouped_linear(moe.num_experts, dim, moe.ffn_dim)
        self.w_up = layers.grouped_linear(moe.num_experts, dim, moe.ffn_dim)
        self.w_down = layers.grouped_linear(moe.num_experts, moe.ffn_dim, dim)

    def forward(self, rows: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        hidden = ops.swiglu(self.w_gate(rows, counts), self.w_up(rows, counts))  # (rows, F)
        return self.w_down(hidden, counts)


def take(
    x: torch.Tensor, source: torch.Tensor, target: torch.Tensor, copies: int = 1
) -> torch.Tensor:
    """Rows `source` of x (n, D), of which each stands `copies` times one after the other.

    Args:
        source, target: (n copies,), a permutation and its inverse.
    """
    return _Take.apply(x, source, target, copies)


class _Take(torch.autograd.Function):
    """The backward pass looks up too, and sums in a fixed order; torch's own would scatter."""

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
