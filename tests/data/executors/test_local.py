from __future__ import annotations

import os
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from megafm.data.config import Executor
from megafm.data.executors import local
from megafm.data.stages.stage import Stage


@dataclass(frozen=True)
class Flaky(Stage):
    """Units that do as they are called: fail for good, fail once, kill the process once."""

    units_of: tuple[str, ...]
    name: ClassVar[str] = "flaky"
    rule: ClassVar[str] = "flaky/1"  # type: ignore[assignment]

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
        if unit == "killed" and first:
            os.kill(os.getpid(), signal.SIGKILL)
        return Counter()


def tried(root: Path, unit: str) -> int:
    return len((root / unit).read_text().split())


@pytest.mark.parametrize("workers", [1, 2])
def test_what_fails_is_tried_again_and_then_named(tmp_path: Path, workers: int) -> None:
    stage = Flaky(tmp_path, ("broken", "once", "good", "wrong"))
    with pytest.raises(local.StageFailed) as failure:
        local.run([stage], Executor(workers=workers, retries=2))
    message = str(failure.value)
    assert message.startswith("stage flaky: 2 of 4 shards failed: ")
    assert "broken: OSError: [Errno 5] Input/output error: 'disk'" in message
    assert "wrong: ValueError: source.fields.text=body" in message
    assert [tried(tmp_path, unit) for unit in stage.names()] == [3, 2, 1, 1]
    assert [unit.name for unit in stage.pending()] == ["broken", "wrong"]


def test_a_killed_worker_costs_nobody_else(tmp_path: Path) -> None:
    stage = Flaky(tmp_path, ("a", "b", "killed", "c", "d"))
    local.run([stage], Executor(workers=2, retries=1))
    assert stage.pending() == []
    assert tried(tmp_path, "killed") == 2


def test_a_worker_that_dies_too_often_is_named(tmp_path: Path) -> None:
    stage = Flaky(tmp_path, ("killed", "a"))
    with pytest.raises(local.StageFailed, match="killed: a worker process was killed"):
        local.run([stage], Executor(workers=2, retries=0))
