"""The dense feed-forward of a block."""

from __future__ import annotations

import torch
from torch import nn

from megafm import ops
from megafm.model.layers import Layers


class FeedForward(nn.Module):
    """SwiGLU (arXiv:2002.05202): down(silu(gate(x)) * up(x))."""

    def __init__(self, dim: int, ffn_dim: int, layers: Layers) -> None:
        super().__init__()
        self.layers = layers
        self.w_gate = layers.column_linear(dim, ffn_dim)
        self.w_up = layers.column_linear(dim, ffn_dim)
        self.w_down = layers.row_linear(ffn_dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.layers.project(x, self.w_gate, self.w_up)
        return self.w_down(ops.swiglu(gate, up))
