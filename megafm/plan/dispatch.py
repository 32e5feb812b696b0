"""What the modes that watch torch's dispatcher share."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.utils._python_dispatch import (
    is_traceable_wrapper_subclass,
    is_traceable_wrapper_subclass_type,
)


def takes_wrapped(types: Iterable[type]) -> bool:
    """Whether an op is on DTensors, or on results of collectives that run: its own ops, on the
    tensors inside, come next."""
    return any(is_traceable_wrapper_subclass_type(each) for each in types)


def unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor inside, which has the memory."""
    while is_traceable_wrapper_subclass(tensor):
        tensor = getattr(tensor, tensor.__tensor_flatten__()[0][0])
    return tensor
