"""The decoder: its config and counts (no torch), its layers, and the way to and from Hugging Face."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from megafm.model.config import ModelConfig, RopeScaling
from megafm.model.count import flops_per_token, matmul_parameters, num_parameters

if TYPE_CHECKING:
    from megafm.model.cache import KVCache
    from megafm.model.decoder import Decoder, build
    from megafm.model.hf import from_hf, to_hf

__all__ = [
    "Decoder",
    "KVCache",
    "ModelConfig",
    "RopeScaling",
    "build",
    "flops_per_token",
    "from_hf",
    "matmul_parameters",
    "num_parameters",
    "to_hf",
]

# What needs torch is imported when it is first asked for.
_NEEDS_TORCH = {
    "Decoder": "decoder",
    "KVCache": "cache",
    "build": "decoder",
    "from_hf": "hf",
    "to_hf": "hf",
}


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_NEEDS_TORCH[name]}"), name)
