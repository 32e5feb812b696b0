"""Kernels on their device, tested with tensors of the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from megafm import ops


def on_device(
    function: Callable[..., Any], device: torch.device, **requests: str
) -> Callable[..., Any]:
    """`function` with its tensors moved to `device` and back, its ops on the backends asked for."""

    def moved(*tensors: torch.Tensor) -> Any:
        with ops.use(**requests):
            outputs = function(*(x.to(device) for x in tensors))
        if isinstance(outputs, tuple):
            return tuple(y.cpu() for y in outputs)
        return outputs.cpu()

    return moved
