"""Which backend `auto` tries first, by device, dtype and class of shape: a table of measurements.

The CPU rows were measured (benchmarks/results/ops); tests/benchmarks/test_results.py fails where a
rule is newer than its measurement. The CUDA rows are not measured yet: they name torch's own
kernels, and behind them Triton's attention, since the reference needs seq_q x seq_k memory. Kernels
of csrc/cuda have to be asked for (ops.rms_norm=cuda) until they have run and won on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from megafm.ops.processor import mkl_leaves_avx512_idle

DEVICES = ("cpu", "cuda")
DTYPES = (torch.float32, torch.bfloat16)  # that models train and infer in


@dataclass(frozen=True)
class Rule:
    """Backends in the order to try, for what the other fields describe; the reference ends it.

    Attributes:
        dtypes: of the op's first argument; empty: any.
        shapes: classes of shape, see SHAPE_CLASSES; empty: any.
        machine: asks whether it counts on this machine; None: it does on all.
    """

    device: str
    order: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...] = ()
    shapes: tuple[str, ...] = ()
    machine: Callable[[], bool] | None = None

    def holds(self, device: str, dtype: torch.dtype, shape: str) -> bool:
        if device != self.device or (self.machine is not None and not self.machine()):
            return False
        dtype_fits = not self.dtypes or dtype in self.dtypes
        return dtype_fits and (not self.shapes or shape in self.shapes)


# op -> its rules; the first that holds counts.
AUTO: dict[str, tuple[Rule, ...]] = {
    "attention": (
        Rule("cpu", ("cpu", "sdpa")),
        Rule("cuda", ("sdpa", "triton")),
    ),
    "attention_backward": (Rule("cpu", ("cpu",)), Rule("cuda", ("triton",))),
    "rms_norm": (
        Rule("cpu", ("cpu", "torch")),
        Rule("cuda", ("torch",)),
    ),
    "linear": (Rule("cpu", ("onednn",), (torch.float32,), ("large",), mkl_leaves_avx512_idle),),
    "grouped_linear": (Rule("cuda", ("torch",), (torch.bfloat16,)),),
    "rope": (Rule("cpu", ("cpu",)),),
    "swiglu": (Rule("cpu", ("cpu",)),),
    "cross_entropy": (Rule("cpu", ("cpu",)),),
    "linear_cross_entropy": (
        Rule("cpu", ("cpu", "torch")),
        Rule("cuda", ("torch",)),
    ),
    "adamw": (
        Rule("cpu", ("torch",)),
        Rule("cuda", ("torch",)),
    ),
    "grad_norm": (
        Rule("cpu", ("torch",)),
        Rule("cuda", ("torch",)),
    ),
}


def _linear_shape(x: torch.Tensor, weight: torch.Tensor) -> str:
    return "large" if x.numel() * weight.shape[0] >= 1 << 23 else "small"


# op -> its classes of shape and the function of the op's arguments that names one.
SHAPE_CLASSES: dict[str, tuple[tuple[str, ...], Callable[..., str]]] = {
    "linear": (("large", "small"), _linear_shape),
}


def shape_class(op: str, *args: Any, **kwargs: Any) -> str:
    """The class of shape of an op's arguments; "" for an op that has one class only."""
    return SHAPE_CLASSES[op][1](*args, **kwargs) if op in SHAPE_CLASSES else ""


def order(op: str, device: str, dtype: torch.dtype, shape: str) -> tuple[str, ...]:
    """The backends to try, best first; may be empty."""
    rules = AUTO[op]
    return next((rule.order for rule in rules if rule.holds(device, dtype, shape)), ())


def described(op: str, device: str) -> list[str]:
    """The rules of an op on a device, one line each, as results of measurements record them."""
    lines = []
    for rule in AUTO[op]:
        if rule.device == device:
            dtypes = ", ".join(str(dtype).removeprefix("torch.") for dtype in rule.dtypes)
            machine = rule.machine and f"if {rule.machine.__name__}"
            when = " ".join(filter(None, (dtypes, ", ".join(rule.shapes), machine))) or "always"
            lines.append(f"{when}: {', '.join(rule.order)}")
    return lines


def cases(op: str) -> list[tuple[torch.dtype, str]]:
    """Every dtype and class of shape that the table tells apart."""
    shapes = SHAPE_CLASSES[op][0] if op in SHAPE_CLASSES else ("",)
    return [(dtype, shape) for dtype in DTYPES for shape in shapes]
