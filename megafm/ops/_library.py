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

CHECKOUT = Path(__file__).parents[2]
FIX = (
    "make setup"
    if (CHECKOUT / "csrc").is_dir()
    else "pip install --no-build-isolation --force-reinstall --no-deps SOURCE_OF_MEGAFM"
)


def backend(run: Callable[..., Any], refuses: Callable[..., str | None]) -> registry.Backend:
    """Functions over the library's ops as a backend."""
    return registry.Backend(run, library_missing, refuses, FIX)


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

        cpp.register_formulas()
    except (OSError, RuntimeError) as error:  # no library; or one of another version of megafm
        cause = error.__cause__ or error  # the linker's own words, such as an undefined symbol
        return f"{path.name} does not load: {str(cause).splitlines()[0]}"
    return None


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
