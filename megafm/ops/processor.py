"""What this machine's CPU multiplies well, as far as the choice of a backend depends on it."""

from __future__ import annotations

import functools
from pathlib import Path

import torch


@torch.compiler.assume_constant_result
def has_bf16_units() -> bool:
    """Whether it has bf16 matrix instructions (AVX-512 BF16 or AMX)."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@functools.cache
def mkl_leaves_avx512_idle() -> bool:
    """Whether it has AVX-512 and another vendor than Intel: MKL then runs its AVX2 code."""
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "GenuineIntel" not in described and "avx512f" in described
