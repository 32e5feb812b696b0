"""Rotary position embedding (Su et al. 2021) and the stretched variants of its frequencies.

Pair i of a head's dimensions is rotated by position * frequency[i]. The pairs are (i, i + half)
as in Llama, or neighbours (2i, 2i + 1) with `interleaved`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from megafm.ops import _library, registry, triton
from megafm.ops.cpp import rope as cpp
from megafm.ops.cpp.storage import CPU, CUDA


@dataclass(frozen=True)
class RopeScaling:
    """How to stretch RoPE beyond the context it was trained with.

    linear: positions / factor (Chen et al. 2023).
    ntk: base * factor**(d / (d - 2)), high frequencies stay ("NTK-aware", bloc97 2023).
    yarn: interpolates low frequencies, keeps high ones, scales cos and sin (Peng et al. 2023).
    llama3: as in Llama 3.1, by wavelength with a smooth band between.

    Attributes:
        factor: context after / context before, >= 1.
        original_max_seq_len: context before; yarn and llama3 need it.
        beta_fast, beta_slow: yarn, rotations over the old context that bound the band.
        attention_factor: yarn, multiplies cos and sin; None: 0.1 ln(factor) + 1.
        low_freq_factor, high_freq_factor: llama3, the band in old contexts per wavelength.
    """

    kind: Literal["linear", "ntk", "yarn", "llama3"] = "linear"
    factor: float = 1.0
    original_max_seq_len: int | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    def __post_init__(self) -> None:
        if self.kind not in _SCALED:
            raise ValueError(f"rope_scaling.kind={self.kind}: set one of {', '.join(_SCALED)}")
        if self.factor < 1:
            raise ValueError(f"rope_scaling.factor={self.factor}: shrinks the context; set >= 1")
        if self.kind in ("yarn", "llama3") and self.original_max_seq_len is None:
            raise ValueError(
                f"rope_scaling.original_max_seq_len=None: {self.kind} needs the context the "
                "model was trained with; set e.g. 8192"
            )
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"rope_scaling.high_freq_factor={self.high_freq_factor}: set it above "
                f"low_freq_factor={self.low_freq_factor}"
            )


def rope_cache(
    seq_len: int,
    head_dim: int,
    *,
    base: float = 10000.0,
    scaling: RopeScaling | None = None,
    device: torch.device | str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of every position's angles.

    Returns:
        cos, sin: (seq_len, head_dim // 2) float32; angles are formed in fp32, as HF does.
    """
    if head_dim % 2:
        raise ValueError(f"head_dim={head_dim}: RoPE rotates pairs; set an even head_dim")
    frequencies, magnitude = rope_frequencies(head_dim, base, scaling)
    positions = torch.arange(seq_len, dtype=torch.float32, device=device)
    angles = torch.outer(positions, frequencies.to(positions.device))
    return angles.cos() * magnitude, angles.sin() * magnitude


def rope_frequencies(
    head_dim: int, base: float, scaling: RopeScaling | None
) -> tuple[torch.Tensor, float]:
    """Angular frequencies (head_dim // 2,) in radians per token, and the factor on cos and sin."""
    if scaling is None:
        return _plain(head_dim, base), 1.0
    return _SCALED[scaling.kind](head_dim, base, scaling)


def _plain(head_dim: int, base: float) -> torch.Tensor:
    return 1.0 / base ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)


def _linear(head_dim: int, base: float, scaling: RopeScaling) -> tuple[torch.Tensor, float]:
    return _plain(head_dim, base) / scaling.factor, 1.0


def _ntk(head_dim: int, base: float, scaling: RopeScaling) -> tuple[torch.Tensor, float]:
    if head_dim == 2:
        raise ValueError("head_dim=2: ntk scaling keeps the first pair as it is; set head_dim >= 4")
    return _plain(head_dim, base * scaling.factor ** (head_dim / (head_dim - 2))), 1.0


def _yarn(head_dim: int, base: float, scaling: RopeScaling) -> tuple[torch.Tensor, float]:
    assert scaling.original_max_seq_len is not None  # checked by RopeScaling
    context = scaling.original_max_seq_len

    def pair_that_turns(rotations: float) -> float:
        """The (fractional) pair that makes this many rotations over the old context."""
        return head_dim * math.log(context / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(pair_that_turns(scaling.beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(scaling.beta_slow)), head_dim - 1)
    ramp = torch.arange(head_dim // 2, dtype=torch.float32) - low
    stretched = (ramp / max(high - low, 0.001)).clamp(0, 1)
    plain = _plain(head_dim, base)
    frequencies = plain / scaling.factor * stretched + plain * (1 - stretched)
    magnitude = scaling.attention_factor
    return frequencies, 0.1 * math.log(scaling.factor) + 1 if magnitude is None else magnitude


def _llama3(head_dim: int, base: float, scaling: RopeScaling) -> tuple[torch.Tensor, float]:
    assert scaling.original_max_seq_len is not None  # checked by RopeScaling
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    plain = _plain(head_dim, base)
    turns = scaling.original_max_seq_len * plain / (2 * math.pi)  # over the old context
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return plain / scaling.factor * (1 - kept) + plain * kept, 1.0


_SCALED = {"linear": _linear, "ntk": _ntk, "yarn": _yarn, "llama3": _llama3}


def apply_rope(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    positions: torch.Tensor | None = None,
    interleaved: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate queries and keys to their positions.

    Args:
        q: (batch, seq, heads, head_dim); k: (batch, seq, kv_heads, head_dim).
        cos, sin: (max_seq_len, head_dim // 2) float32 from `rope_cache`.
        positions: (seq,) or (batch, seq) int64, rows of cos and sin; None: 0, 1, 2 ...
        interleaved: pairs are (2i, 2i + 1) instead of (i, i + head_dim // 2).

    Returns:
        q, k rotated, in their dtypes; computed in fp32 (fp64 for fp64 input).
    """
    registry.check_devices("apply_rope", q=q, k=k, cos=cos, sin=sin, positions=positions)
    if q.shape[:2] != k.shape[:2] or not q.shape[-1] == k.shape[-1] == 2 * cos.shape[-1]:
        shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)} and cos {tuple(cos.shape)}"
        raise ValueError(f"apply_rope: {shapes} do not fit together")
    if positions is not None and positions.shape not in (q.shape[:2], q.shape[1:2]):
        shapes = f"positions {tuple(positions.shape)} do not fit q {tuple(q.shape)}"
        raise ValueError(f"apply_rope: {shapes}; set (seq,) or (batch, seq)")
    if positions is None and q.shape[1] > cos.shape[0]:
        raise ValueError(f"apply_rope: seq {q.shape[1]} is longer than the cache {cos.shape[0]}")
    return registry.dispatch("rope", q.device, q, k, cos, sin, positions, interleaved)


def reference(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor | None,
    interleaved: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    if positions is None:
        cos, sin = cos[: q.shape[1]], sin[: q.shape[1]]
    else:
        cos, sin = cos[positions], sin[positions]
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)  # (..., seq, 1, head_dim // 2)
    return _rotate(q, cos, sin, interleaved), _rotate(k, cos, sin, interleaved)


def _rotate(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool
) -> torch.Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if interleaved:
        first, second = wide[..., 0::2], wide[..., 1::2]
    else:
        first, second = wide.chunk(2, dim=-1)
    rotated = (first * cos - second * sin, second * cos + first * sin)
    if interleaved:
        return torch.stack(rotated, dim=-1).flatten(-2).to(x.dtype)
    return torch.cat(rotated, dim=-1).to(x.dtype)


registry.register("rope", "reference", registry.Backend(reference))
registry.register("rope", "cpu", _library.backend(cpp.run, cpp.refuses, CPU))
registry.register("rope", "cuda", _library.backend(cpp.run, cpp.refuses, CUDA))
registry.register("rope", "triton", triton.backend("rope"))
