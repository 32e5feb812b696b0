"""The L2 norm of many tensors together, for gradient clipping (Pascanu et al. 2013).

One pass that reads every element once; the same bits on every run.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from megafm.ops import _library, registry, triton
from megafm.ops.adapters import apex, transformer_engine
from megafm.ops.cpp import grad_norm as cpp
from megafm.ops.cpp.storage import CUDA

# torch's CPU kernel adds one element after the other in each of its few lanes, so that many of them
# lose digits in float32; for float64 it widens a tensor as a whole, and these stay in caches.
PIECE = 65536  # elements
# The squares of smaller elements than such a norm's are lost where they do not count; of larger
# ones none is infinite.
SMALLEST, LARGEST = 2.0**-40, 2.0**63


def grad_norm(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """sqrt(sum of the squares of all elements).

    Args:
        tensors: of one device, any shapes and floating dtypes; empty ones count nothing.

    Returns:
        A float32 scalar on their device, NaN or inf where an element is; float64 if a tensor is.

    Raises:
        ValueError: there is no tensor, so no device to answer on; or there are several devices.
    """
    tensors = list(tensors)
    if not tensors:
        raise ValueError("grad_norm: no tensors; call it only when there are gradients")
    registry.check_devices("grad_norm", **{f"tensor {i}": x for i, x in enumerate(tensors)})
    return registry.dispatch("grad_norm", tensors[0].device, tensors)


def reference(tensors: list[torch.Tensor]) -> torch.Tensor:
    total = torch.stack([x.double().square().sum() for x in tensors]).sum()
    return total.sqrt().to(_dtype(tensors))


def _torch(tensors: list[torch.Tensor]) -> torch.Tensor:
    """In float64: float32 has no square of 1e-25 or 3e19. On a CPU float32 is five times as fast
    for float32, and is taken for the pieces whose norm shows that no such element counts."""
    dtype = _dtype(tensors)
    if tensors[0].device.type == "cpu":
        tensors = [piece for x in tensors for piece in x.reshape(-1).split(PIECE)]
        if all(x.dtype == torch.float32 for x in tensors):
            return torch.linalg.vector_norm(_norms_of_float32(tensors)).to(dtype)
    norms = torch._foreach_norm(tensors, 2, dtype=torch.float64)
    return torch.linalg.vector_norm(torch.stack(norms)).to(dtype)


def _norms_of_float32(pieces: list[torch.Tensor]) -> torch.Tensor:
    norms = torch.stack(torch._foreach_norm(pieces)).double()
    outside = ~((norms > SMALLEST) & (norms < LARGEST))
    if outside.any():
        chosen = [piece for piece, again in zip(pieces, outside.tolist(), strict=True) if again]
        norms[outside] = torch.stack(torch._foreach_norm(chosen, 2, dtype=torch.float64))
    return norms


def _dtype(tensors: list[torch.Tensor]) -> torch.dtype:
    wide = any(x.dtype == torch.float64 for x in tensors)
    return torch.float64 if wide else torch.float32


registry.register("grad_norm", "reference", registry.Backend(reference))
registry.register("grad_norm", "torch", registry.Backend(_torch))
registry.register("grad_norm", "cuda", _library.backend(cpp.run, cpp.refuses, CUDA))
registry.register("grad_norm", "triton", triton.backend("grad_norm"))
registry.register("grad_norm", "transformer_engine", transformer_engine.GRAD_NORM)
registry.register("grad_norm", "apex", apex.GRAD_NORM)
