"""The decoder: config and counts, layers and cache, the way to and from Hugging Face."""

from megafm.model.cache import KVCache
from megafm.model.config import ModelConfig, MoeConfig, RopeScaling
from megafm.model.count import (
    flops_per_token,
    matmul_parameters,
    num_active_parameters,
    num_parameters,
)
from megafm.model.decoder import Decoder, build
from megafm.model.hf import from_hf, to_hf

__all__ = [
    "Decoder",
    "KVCache",
    "ModelConfig",
    "MoeConfig",
    "RopeScaling",
    "build",
    "flops_per_token",
    "from_hf",
    "matmul_parameters",
    "num_active_parameters",
    "num_parameters",
    "to_hf",
]
