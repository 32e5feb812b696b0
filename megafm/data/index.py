"""The loops over documents and samples: megafm._index, in C++, or its definition in Python.

`native()` is the one or the other; both have the functions of `index_reference` and give the same
results, bit for bit.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from pathlib import Path
from types import ModuleType

from megafm.data import index_reference

PACKAGE = Path(__file__).parents[1]
FIX = (
    "make setup"
    if (PACKAGE.parent / "csrc").is_dir()
    else "apt-get install g++ python3-dev, "
    "then pip install --force-reinstall --no-deps SOURCE_OF_MEGAFM"
)


@functools.cache
def native() -> ModuleType:
    """megafm._index, or `index_reference` with one warning where it is not built."""
    reason = missing()
    if reason is None:
        return importlib.import_module("megafm._index")
    warnings.warn(f"{reason}: the same in Python, far slower; run: {FIX}", stacklevel=2)
    return index_reference


def missing() -> str | None:
    """Why megafm._index cannot be used, in one line, or None."""
    if not list(PACKAGE.glob("_index.*")):
        return "the C++ module megafm._index is not built"
    try:
        module = importlib.import_module("megafm._index")
    except ImportError as error:  # of another Python, or cut off
        return f"megafm._index does not load: {str(error).splitlines()[0]}"
    lacking = [name for name in index_reference.__all__ if not hasattr(module, name)]
    return f"megafm._index is older than megafm: no {', '.join(lacking)}" if lacking else None
