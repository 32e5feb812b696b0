"""Every step, signal and rule by its version, which is its name in configs."""

from __future__ import annotations

from megafm.data.steps.code import Generated
from megafm.data.steps.limits import Empty, LongLine, Size, Table
from megafm.data.steps.step import Rule, Signal, Step

_STEPS: tuple[type[Step], ...] = (Size, Empty, LongLine, Table, Generated)
_SIGNALS: tuple[type[Signal], ...] = ()
_RULES: tuple[type[Rule], ...] = ()

STEPS = {one.version: one for one in _STEPS}
SIGNALS = {one.version: one for one in _SIGNALS}
RULES = {one.version: one for one in _RULES}
