"""Forward and backward passes where one rank has all layers; `parallel.pipeline` has the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from megafm.parallel.data_parallel import set_gradient_sync
from megafm.parallel.pipeline import MicroBatch


class Accumulation:
    """One microbatch after the other, their gradients added up."""

    def __init__(self, loss: nn.Module) -> None:
        self.loss = loss

    def backward(
        self, micro_batches: Sequence[MicroBatch], num_valid: torch.Tensor
    ) -> torch.Tensor:
        """Gradients of the loss of a step, whose sum over `num_valid` tokens it returns."""
        total = torch.zeros((), device=num_valid.device)
        for i, micro_batch in enumerate(micro_batches):
            set_gradient_sync(self.loss, enabled=i == len(micro_batches) - 1)
            loss = self.loss(*micro_batch) / num_valid
            loss.backward()
            total = total + loss.detach()
        return total

    @torch.no_grad()
    def forward(self, *micro_batch: torch.Tensor | None) -> torch.Tensor:
        """The loss of a microbatch."""
        return self.loss(*micro_batch)

    def total(self, loss: torch.Tensor) -> torch.Tensor:
        """Sums of losses of microbatches, on every rank that works on them."""
        return loss
