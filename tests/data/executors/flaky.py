"""A stage whose units fail as they are called."""

from __future__ import annotations

import os
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from megafm.data.stages.stage import Stage


@dataclass(frozen=True)
class Flaky(Stage):
    """broken, wrong and deadly fail for good, once and killed at the first attempt."""

    units_of: tuple[str, ...]
    kind: ClassVar[str] = "flaky"
    rule: ClassVar[str] = "flaky/1"

    def names(self) -> list[str]:
        return list(self.units_of)

    def work(self, unit: str, out: Path) -> Counter[str]:
        tried = self.root / unit
        first = not tried.exists()
        with tried.open("a") as lines:
            lines.write("tried\n")
        if unit == "broken":
            raise OSError(5, "Input/output error", "disk")
        if unit == "wrong":
            raise ValueError("source.fields.text=body: no such column")
        if unit == "once" and first:
            raise OSError(5, "Input/output error")
        if unit == "deadly" or (unit == "killed" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        return Counter()


def tried(root: Path, unit: str) -> int:
    return len((root / unit).read_text().split())
