"""Stand-ins for libraries that need a GPU: modules with their signatures, in plain torch."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest


def put_module(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    """Make `import name` give a module of `members`; its parents must be put first."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__path__ = []
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, module)
