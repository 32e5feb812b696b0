"""What tools/gate_triton.py compiles: each kernel file yields its cases from `compile_cases()`.

A case calls the launcher itself, on tensors of the meta device: the gate sees the very kernels and
configurations that run, compiled for a chip that is not there. To add one:

    def compile_cases() -> Iterator[Case]:
        x = torch.empty(4096, 1024, dtype=torch.bfloat16, device="meta")
        yield Case("bf16 1024", forward, (x, weight))  # a launcher and its arguments
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Case:
    """A call that launches kernels.

    Attributes:
        name: of the shapes, dtypes and options, for the table.
        launch: the launcher; it must ask `megafm.ops.triton.architecture()` for the chip.
        arguments: of the launcher.
        matrix: names of the kernels that must use the chip's matrix instructions.
    """

    name: str
    launch: Callable[..., Any]
    arguments: tuple[Any, ...]
    matrix: tuple[str, ...] = ()


def forward_and_backward(run: Callable[..., Any], *arguments: Any) -> None:
    """Launch what training launches: `run`, and the backward of all that it returns."""
    outputs = run(*arguments)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    wanted = [x for x in arguments if isinstance(x, torch.Tensor) and x.requires_grad]
    torch.autograd.grad(outputs, wanted, [torch.empty_like(y) for y in outputs])
