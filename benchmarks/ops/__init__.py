"""Fused ops against torch and other libraries, side by side in one run.

    megafm bench suite=ops only=[rms_norm]

Each op has a file here with its shapes, inputs, peers and cost. `run` asks measuring processes
(`worker`) for one round after the other, `report` and `figure` show what came of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.ops.op import Op

OPS = (
    "linear",
    "rms_norm",
    "rope",
    "swiglu",
    "cross_entropy",
    "linear_cross_entropy",
    "attention",
    "adamw",
)


def load(name: str) -> Op:
    """The definition of an op's benchmark, `OP` in its file."""
    return importlib.import_module(f"benchmarks.ops.{name}").OP
