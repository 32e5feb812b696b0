from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from megafm.data.stages.stage import Output, Stage, clean_up, total


@dataclass(frozen=True)
class Upper(Stage):
    """Writes names in upper case; what it was asked to do is in the file `calls`."""

    version: int = 1
    count: int = 5
    kind: ClassVar[str] = "upper"

    @property
    def rule(self) -> str:
        return f"upper/{self.version}"

    def names(self) -> list[str]:
        return [f"unit{i}" for i in range(self.count)]

    def work(self, unit: str, out: Path) -> Counter[str]:
        with (self.root / "calls").open("a") as calls:
            calls.write(f"{unit}\n")
        (out / "text").write_text(unit.upper())
        return Counter(units=1)


@dataclass(frozen=True)
class Join(Stage):
    upper: Upper
    kind: ClassVar[str] = "join"
    rule: ClassVar[str] = "join/1"  # type: ignore[assignment]

    def names(self) -> list[str]:
        return ["all"]

    def whole(self) -> tuple[Stage, ...]:
        return (self.upper,)

    def work(self, unit: str, out: Path) -> Counter[str]:
        texts = [(output.folder / "text").read_text() for output in self.upper.outputs()]
        (out / "text").write_text(" ".join(texts))
        return Counter()


def do(stage: Stage, rank: int = 0, world_size: int = 1) -> None:
    for unit in stage.pending(rank, world_size):
        stage.run_unit(unit)


def calls(root: Path) -> list[str]:
    found = (root / "calls").read_text().split()
    (root / "calls").unlink()
    return found


@pytest.mark.parametrize("world_size", [1, 2, 7])
def test_tasks_of_any_number_share_the_units(tmp_path: Path, world_size: int) -> None:
    stage = Upper(tmp_path)
    for rank in range(world_size):
        do(stage, rank, world_size)
    assert sorted(calls(tmp_path)) == stage.names()
    assert total(stage.outputs()) == {"units": 5}
    assert stage.pending() == []
    do(stage)  # another number of tasks
    assert not (tmp_path / "calls").exists()


def test_a_unit_is_made_again_when_what_it_was_made_from_changes(tmp_path: Path) -> None:
    upper = Upper(tmp_path)
    join = Join(tmp_path, upper)
    do(upper)
    do(join)
    assert join.pending() == []
    assert len(Upper(tmp_path, version=2).pending()) == 5
    do(Upper(tmp_path, version=2))
    assert join.pending() == []  # the same output: nothing to do for those after it
    (more,) = Join(tmp_path, Upper(tmp_path, 2, count=6)).upper.pending()
    Upper(tmp_path, 2, count=6).run_unit(more)
    assert len(Join(tmp_path, Upper(tmp_path, 2, count=6)).pending()) == 1


def test_what_is_not_done_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stage upper: unit0 is not done; run"):
        Join(tmp_path, Upper(tmp_path)).pending()


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "full")

    stage = Upper(tmp_path)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="full"):
        do(stage)
    assert list(stage.folder.iterdir()) == []


def test_a_killed_task_repeats_its_own_unit_only(tmp_path: Path) -> None:
    """kill -9 between the work and the commit of the third unit."""
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.data.stages.test_stage import Upper, do\n"
        "class Killed(Upper):\n"
        "    def _commit(self, partial, unit):\n"
        "        if unit.name == 'unit2': os.kill(os.getpid(), signal.SIGKILL)\n"
        "        super()._commit(partial, unit)\n"
        "do(Killed(Path(sys.argv[1])))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=os.environ)
    assert done.returncode == -9
    assert calls(tmp_path) == ["unit0", "unit1", "unit2"]
    stage = Upper(tmp_path)
    clean_up([stage])
    assert sorted(path.name for path in stage.folder.iterdir()) == ["unit0", "unit1"]
    do(stage)
    assert calls(tmp_path) == ["unit2", "unit3", "unit4"]


def test_two_tasks_may_be_given_the_same_unit(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Overtaken(Upper):
        def work(self, unit: str, out: Path) -> Counter[str]:
            Upper(self.root).run_unit(self.units()[0])
            return super().work(unit, out)

    (unit, *_) = Upper(tmp_path).units()
    Overtaken(tmp_path).run_unit(unit)
    output = Output.load(tmp_path / "upper" / "unit0")
    assert output is not None and output.key == unit.key
    assert [path.name for path in (tmp_path / "upper").iterdir()] == ["unit0"]
