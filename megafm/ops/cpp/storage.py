"""What the kernels of csrc/ can read."""

from __future__ import annotations

from typing import Any

import torch

STORAGE = (torch.float32, torch.bfloat16)


def unreadable(x: torch.Tensor, *rest: Any) -> str | None:
    """Why no kernel can read `x`, in one line; None if one can."""
    if x.device.type != "cpu":
        return f"no kernel for {x.device.type} tensors"
    if x.dtype not in STORAGE:
        return f"no kernel for {x.dtype}"
    return None


def empty_contiguous_like(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
