"""The compiled op library, `megafm/_ops*.so`: found, loaded once, or the reason why not.

It is a plain shared library on torch's stable ABI; loading it registers `torch.ops.megafm.*`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from megafm.ops import registry
from megafm.ops.cpp.storage import Target

CHECKOUT = Path(__file__).parents[2]
FIX = (
    "make setup"
    if (CHECKOUT / "csrc").is_dir()
    else "pip install --no-build-isolation --force-reinstall --no-deps SOURCE_OF_MEGAFM"
)

OLDEST_CAPABILITY = (8, 0)


def backend(
    run: Callable[..., Any], refuses: Callable[..., str | None], target: Target
) -> registry.Backend:
    """Functions over the library's ops, which take the target first, as a backend."""

    def launch(*args: Any) -> Any:
        return run(target, *args)

    def why_not(*args: Any) -> str | None:
        return refuses(target, *args)

    if target.device == "cuda":
        return registry.Backend(launch, cuda_missing, why_not, cuda_fix())
    return registry.Backend(launch, library_missing, why_not, FIX)


def cuda_fix() -> str | None:
    """What to run for CUDA kernels, where there is a GPU to run them on."""
    return f"{FIX} (nvcc on the PATH)" if torch.cuda.is_available() else None


def library_path() -> Path | None:
    """Where the built library lies, or None."""
    path = Path(__file__).parent.parent / "_ops.so"
    return path if path.exists() else None


_loading = threading.Lock()


def library_missing() -> str | None:
    """Load the library; why it cannot be used, in one line, or None when it is loaded."""
    with _loading:
        return _load()


@functools.cache
def _load() -> str | None:
    path = library_path()
    if path is None:
        return "the C++ extension is not built"
    try:
        torch.ops.load_library(path)
        from megafm.ops import cpp

        cpp.register_formulas("megafm")
    except (OSError, RuntimeError) as error:  # no library; or one of another version of megafm
        cause = error.__cause__ or error  # the linker's own words, such as an undefined symbol
        return f"{path.name} does not load: {str(cause).splitlines()[0]}"
    return None


def cuda_missing() -> str | None:
    """Why the CUDA kernels cannot be used, in one line, or None when they can."""
    reason = library_missing()
    if reason is not None:
        return reason
    if not has_cuda_kernels():
        return "the C++ extension was built without CUDA kernels"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    devices = range(torch.cuda.device_count())
    oldest = min(torch.cuda.get_device_capability(device) for device in devices)
    if oldest < OLDEST_CAPABILITY:
        return f"no kernel for sm_{oldest[0]}{oldest[1]}, only for sm_80 and later"
    return None


def has_cuda_kernels() -> bool:
    """Whether the library that is loaded was built with them."""
    return torch._C._dispatch_has_kernel_for_dispatch_key("megafm::rms_norm", "CUDA")


def is_stale() -> bool:
    """Whether, in a checkout, a C++ source is newer than the library."""
    path = library_path()
    if path is None:
        return False
    built = path.stat().st_mtime
    return any(source.stat().st_mtime > built for source in (CHECKOUT / "csrc").rglob("*.[ch]*"))


def instruction_sets() -> tuple[str, list[str]]:
    """The instruction set that the CPU kernels run on here, and all that were compiled in."""
    return torch.ops.megafm.cpu_isa(), torch.ops.megafm.cpu_isas().split(",")
