"""The layers a decoder is made of.

Weights are left as allocated: the decoder fills them by name and seed (`Decoder.init_weights`),
so that building on the meta device and materialising later gives the same model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import nn

from megafm import ops
from megafm.model.config import ModelConfig


class Linear(nn.Linear):
    """y = x W^T, no bias; weight (out_features, in_features)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        pass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ops.linear(x, self.weight)


class Embedding(nn.Embedding):
    """Rows of weight (vocab_size, dim) by token."""

    def reset_parameters(self) -> None:
        pass


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension (arXiv:1910.07467)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, ops.rms_norm(x, self.weight, self.eps))

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(norm(x + residual), x + residual) in one pass over memory."""
        both = ops.rms_norm(x, self.weight, self.eps, residual=residual)
        return cast(tuple[torch.Tensor, torch.Tensor], both)


class RotaryTables(nn.Module):
    """cos and sin of every position, float32; a function of the config, so not saved.

    They are made anew on whatever device the model moves to (also after `to_empty`), and keep
    float32 when the model is cast.
    """

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self._fill(torch.get_default_device())

    def forward(self, start: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows of positions start ... start + length - 1."""
        end = start + length
        if end > self.config.max_seq_len:
            raise ValueError(
                f"model.max_seq_len={self.config.max_seq_len}: the sequence has {end} tokens; "
                f"set model.max_seq_len={end}"
            )
        return self.cos[start:end], self.sin[start:end]

    def _fill(self, device: torch.device) -> None:
        config = self.config
        tables = ops.rope_cache(
            config.max_seq_len,
            config.head_dim,
            base=config.rope_base,
            scaling=config.rope_scaling,
            device=device,
        )
        for name, table in zip(("cos", "sin"), tables, strict=True):
            self.register_buffer(name, table, persistent=False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
        # `to` cannot copy a meta tensor, so ask where it would put a real one
        probe = torch.empty(0, device="cpu") if self.cos.is_meta else self.cos[:0]
        device = fn(probe).device
        if device != self.cos.device:
            self._fill(device)
        return self
