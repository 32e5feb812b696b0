"""Which kernels of csrc/ are meant, and what they can read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Target:
    """The kernels of one library for one type of device.

    Attributes:
        namespace: of torch.ops, where the library defines its ops.
        device: type of the tensors that the kernels take.
        dtypes: in which those tensors may be stored.
    """

    namespace: str
    device: str
    dtypes: tuple[torch.dtype, ...]

    @property
    def ops(self) -> Any:
        return getattr(torch.ops, self.namespace)

    def unreadable(self, x: torch.Tensor, *rest: Any) -> str | None:
        """Why no kernel can read `x`, in one line; None if one can."""
        if x.device.type != self.device:
            return f"no kernel for {x.device.type} tensors"
        if x.dtype not in self.dtypes:
            return f"no kernel for {x.dtype}"
        return None


CPU = Target("megafm", "cpu", (torch.float32, torch.bfloat16))
CUDA = Target("megafm", "cuda", (torch.float32, torch.bfloat16, torch.float16))


def empty_contiguous_like(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
