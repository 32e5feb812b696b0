"""Libraries that only some steps need."""

from __future__ import annotations

import importlib
from types import ModuleType


def library(module: str, install: str, version: str) -> ModuleType:
    """Import a library that the step `version` needs, and that `install` brings.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        message = f"{version}: needs {module.partition('.')[0]}; pip install '{install}'"
        raise ValueError(f"{message}, or leave the step out") from error
