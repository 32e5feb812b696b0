"""What the ops are to reach on a CPU: how many times faster than the best peer, by op."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.ops.op import BOTH

NOT_SLOWER = 0.97  # than torch eager, at every shape; three percent are this measurement's noise
MEMORY_BAR = 1 / 8  # of the unfused output layer and loss


@dataclass(frozen=True)
class Bar:
    """
    Attributes:
        ratio: the best peer's time over ours, at least.
        shapes: where it has to hold; others are shown only. A prefix, "" is every shape.
    """

    op: str
    dtype: str
    mode: str
    ratio: float
    shapes: str = ""


BARS = (
    Bar("rms_norm", "fp32", BOTH, 2.0),
    Bar("rope", "fp32", BOTH, 2.5, shapes="B8"),
    Bar("swiglu", "fp32", BOTH, 1.2),
    Bar("cross_entropy", "fp32", BOTH, 3.0),
    Bar("linear_cross_entropy", "fp32", BOTH, 1.4),
    Bar("attention", "fp32", BOTH, 1.6, shapes="T"),
    Bar("attention", "bf16", BOTH, 2.5, shapes="T"),
    Bar("adamw", "fp32", "step", NOT_SLOWER),
)


def bar_of(op: str, dtype: str, mode: str, shape: str) -> float | None:
    """The ratio asked for in one case, or None."""
    for bar in BARS:
        if (bar.op, bar.dtype, bar.mode) == (op, dtype, mode) and shape.startswith(bar.shapes):
            return bar.ratio
    return None
