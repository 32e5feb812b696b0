"""What the modes that watch torch's dispatcher share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    is_traceable_wrapper_subclass,
    is_traceable_wrapper_subclass_type,
)

from megafm.parallel import ring_attention

# Ops of ours that call collectives inside, where no mode looks: what they do.
BODIES = {torch.ops.megafm.ring_attention.default: ring_attention.forward}


class Opened(TorchDispatchMode):
    """Context manager, inside others: they see what the ops of BODIES do."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return BODIES.get(func, func)(*args, **(kwargs or {}))


def takes_wrapped(types: Iterable[type]) -> bool:
    """Whether an op is on DTensors, or on results of collectives that run: its own ops, on the
    tensors inside, come next."""
    return any(is_traceable_wrapper_subclass_type(each) for each in types)


def unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor inside, which has the memory."""
    while is_traceable_wrapper_subclass(tensor):
        tensor = getattr(tensor, tensor.__tensor_flatten__()[0][0])
    return tensor
