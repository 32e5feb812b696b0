"""The loss as a module."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from megafm.model import Decoder
from megafm.parallel.stages import Stage


class Loss(nn.Module):
    """`model.loss` as a forward pass, which is what data-parallel wrappers hook into.

    Args:
        precision: of the matmuls; bf16 is by autocast.
    """

    def __init__(self, model: nn.Module, precision: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.precision = precision

    def forward(
        self,
        tokens: torch.Tensor,
        targets: torch.Tensor,
        cu_seqlens: torch.Tensor | None = None,
        *,
        stage: Stage | None = None,
        x: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """tokens and targets (batch, seq) int64 -> the sum of the per-token losses, a scalar.

        Args:
            cu_seqlens: of documents packed in one row, see `Decoder.forward`.
            stage, x: of a pipeline, see `Decoder.stage`.
        """
        model, in_bf16 = cast(Decoder, self.model), self.precision == torch.bfloat16
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=in_bf16):
            if stage is not None:
                return model.stage(stage, x, tokens, targets, cu_seqlens)
            return model.loss(tokens, targets, cu_seqlens=cu_seqlens)
