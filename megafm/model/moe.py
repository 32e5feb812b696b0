"""A mixture of experts (arXiv:1701.06538): each token is computed by k of many feed-forwards.

No token is dropped and no expert has a capacity: rows are sorted by expert, and one grouped product
takes as many as there are. The sort is stable and every sum has a fixed order, so the result is the
same on every run.

Shapes: n tokens of this rank, k experts per token, D dim, F ffn_dim of an expert.
"""

from __future__ import annotations

import torch
from torch import nn

from megafm import ops
from megafm.model.config import MoeConfig
from megafm.model.feed_forward import FeedForward
from megafm.model.layers import Layers
from megafm.model.router import Router
from megafm.ops.autocast import autocast_dtype
from megafm.ops.take_rows import sorting, take_rows


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
        choice, place = sorting(experts.flatten())  # (n k)
        rows = take_rows(tokens.to(autocast_dtype(x) or x.dtype), choice, place, num_choices)
        rows = self.experts(rows, counts)  # (n k, D)
        outputs = take_rows(rows, place, choice).unflatten(0, (-1, num_choices))  # (n, k, D)
        out = (outputs * weights.unsqueeze(-1).to(outputs.dtype)).sum(1).view_as(x)
        return out if self.shared is None else out + self.shared(x)


class Experts(nn.Module):
    """rows (rows, D), sorted by expert, counts (num_experts,) -> each through its expert."""

    def __init__(self, dim: int, moe: MoeConfig, layers: Layers) -> None:
        super().__init__()
        self.layers = layers
        self.w_gate = layers.grouped_linear(moe.num_experts, dim, moe.ffn_dim)
        self.w_up = layers.grouped_linear(moe.num_experts, dim, moe.ffn_dim)
        self.w_down = layers.grouped_linear(moe.num_experts, moe.ffn_dim, dim)

    def forward(self, rows: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        return self.layers.at_experts(self._compute, rows, counts)

    def _compute(self, rows: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        hidden = ops.swiglu(self.w_gate(rows, counts), self.w_up(rows, counts))  # (rows, F)
        return self.w_down(hidden, counts)
