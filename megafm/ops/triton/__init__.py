"""The Triton kernels, one file per op; nothing here imports triton until a kernel is wanted.

They run on CUDA tensors, and on CPU tensors under Triton's interpreter (TRITON_INTERPRET=1 in the
environment before the first kernel is used), which is how their numerics are tested without a GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch

from megafm.ops import registry

FIX = None if importlib.util.find_spec("triton") else "pip install 'megafm[triton]'"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


_imported: dict[str, ModuleType] = {}


def backend(module: str, run: str = "run", refuses: str = "refuses") -> registry.Backend:
    """Functions of `megafm.ops.triton.MODULE` as a backend, imported when it is first wanted.

    They launch on the device of their input, whichever is current.
    """

    def unavailable() -> str | None:
        reason = missing()
        if reason is None:
            _imported[module] = importlib.import_module(f"{__name__}.{module}")
        return reason

    def launch(*args: Any) -> Any:
        with launching_on(registry.first_tensor(args[0])):
            return getattr(_imported[module], run)(*args)

    def why_not(*args: Any) -> str | None:
        reason = wrong_device(registry.first_tensor(args[0]))
        return reason or getattr(_imported[module], refuses)(*args)

    return registry.Backend(launch, unavailable, why_not, FIX)


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def missing() -> str | None:
    """Why Triton kernels cannot run here, in one line; None if they can."""
    if FIX is not None:
        return "triton is not installed"
    if not torch.cuda.is_available() and not interpreting():
        return "torch sees no CUDA device (TRITON_INTERPRET=1 runs Triton kernels slowly on a CPU)"
    return None


def wrong_device(x: torch.Tensor) -> str | None:
    """Why a kernel cannot read `x` where it is; None if it can."""
    if x.device.type == "cuda" or interpreting():
        return None
    return f"Triton kernels run on CUDA tensors, not on {x.device.type}"


def wrong_dtype(**tensors: torch.Tensor | None) -> str | None:
    """Which tensor (None is skipped) has a dtype without a kernel; None if all have one."""
    for name, x in tensors.items():
        if x is not None and x.dtype not in DTYPES:
            return f"no Triton kernel for {name} {x.dtype}"
    return None


def architecture() -> int:
    """Of the chip that kernels are compiled for, such as 90 for sm_90; 0 under the interpreter."""
    if interpreting():
        return 0
    from triton.runtime import driver

    return int(driver.active.get_current_target().arch)


def launching_on(x: torch.Tensor) -> AbstractContextManager[object]:
    """Kernels launched in the block run on the device of `x`, whichever is current."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()
