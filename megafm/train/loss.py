"""The loss as a module."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from megafm.model import Decoder


class Loss(nn.Module):
    """`model.loss` as a forward pass, which is what data-parallel wrappers hook into."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens: torch.Tensor, targets: torch.Tensor, cu_seqlens: torch.Tensor | None = None
    ) -> torch.Tensor:
        """tokens and targets (batch, seq) int64 -> the sum of the per-token losses, a scalar.

        Args:
            cu_seqlens: of documents packed in one row, see `Decoder.forward`.
        """
        return cast(Decoder, self.model).loss(tokens, targets, cu_seqlens=cu_seqlens)
