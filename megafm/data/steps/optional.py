"""Libraries that only some steps need."""

from __future__ import annotations

import importlib
from types import ModuleType


def extra(module: str, name: str, version: str) -> ModuleType:
    """Import what an extra of megafm brings.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        message = f"{version}: needs {module.partition('.')[0]}; pip install 'megafm[{name}]'"
        raise ValueError(f"{message}, or leave the step out") from error
