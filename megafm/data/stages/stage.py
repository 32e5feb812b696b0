"""The stages of the pipeline: what is done, to which units, and how a unit is committed.

The file system is all that processes share. A unit of a stage, a shard or a range of hashes, is a
folder ROOT/STAGE/UNIT that holds its output and `done.json`: the key that it was made under (a hash
of the settings and of what it was made from), the hash of each output file, and counters. It is
built under another name and renamed once it is whole, so that after `kill -9` a unit is there or it
is not; what is there under its present key is not made again. Which units a task takes is a
function of its rank alone, and no output depends on who made it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

DONE = "done.json"
PARTIAL = ".partial"


@dataclass(frozen=True)
class Unit:
    """What is committed as one; `key` names everything that its output is a function of."""

    name: str
    key: str


@dataclass(frozen=True)
class Output:
    """A unit that is done: its folder, the hash of what is in it, and its counters."""

    name: str
    folder: Path
    key: str
    files: dict[str, str]
    counters: Counter[str]

    @property
    def hash(self) -> str:
        return digest(*(f"{name} {value}" for name, value in sorted(self.files.items())))

    @classmethod
    def load(cls, folder: Path) -> Output | None:
        """None when nothing is committed there."""
        try:
            done = json.loads((folder / DONE).read_text(encoding="utf-8"))
            return cls(folder.name, folder, done["key"], done["files"], Counter(done["counters"]))
        except FileNotFoundError:
            return None


@dataclass(frozen=True)
class Stage(ABC):
    """One step of the pipeline over all units; `root` is the folder of all stages."""

    root: Path
    kind: ClassVar[str]

    @property
    def name(self) -> str:
        """Of its folder; of a kind that there may be several of, with a number."""
        return self.kind

    @abstractmethod
    def names(self) -> list[str]:
        """The names of all units."""

    @abstractmethod
    def work(self, unit: str, out: Path) -> Counter[str]:
        """Write the files of a unit into the empty folder `out`; returns what was counted."""

    @property
    @abstractmethod
    def rule(self) -> str:
        """The version of the stage and every setting that decides what it writes."""

    def steps(self) -> tuple[str, ...]:
        """What documents go through in it, in this order; it counts what that leaves or drops."""
        return ()

    def same(self) -> tuple[Stage, ...]:
        """The stages of which a unit reads the unit of its own name."""
        return ()

    def whole(self) -> tuple[Stage, ...]:
        """The stages of which a unit reads all units."""
        return ()

    def units(self) -> list[Unit]:
        """All units with their keys; `same` and `whole` must be done."""
        read = [f"{o.name} {o.hash}" for stage in self.whole() for o in stage.outputs()]
        base = digest(self.rule, *read)
        return [
            Unit(name, digest(base, *(stage.output(name).hash for stage in self.same())))
            for name in self.names()
        ]

    @property
    def folder(self) -> Path:
        return self.root / self.name

    def pending(self, rank: int = 0, world_size: int = 1) -> list[Unit]:
        """Of a task's share of the units those that are not done under their present key."""
        return [unit for unit in self.units()[rank::world_size] if not self.is_done(unit)]

    def is_done(self, unit: Unit) -> bool:
        done = Output.load(self.folder / unit.name)
        return done is not None and done.key == unit.key

    def run_unit(self, unit: Unit) -> None:
        """Do a unit unless it is done, and commit it by one rename."""
        if self.is_done(unit):
            return
        partial = self.folder / f"{unit.name}.{secrets.token_hex(4)}{PARTIAL}"
        try:
            partial.mkdir(parents=True)
            counters = self.work(unit.name, partial)
            files = {path.name: hash_file(path) for path in sorted(partial.iterdir())}
            done = {"key": unit.key, "files": files, "counters": dict(sorted(counters.items()))}
            (partial / DONE).write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
            for path in partial.iterdir():
                sync(path)
            self._commit(partial, unit)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def outputs(self) -> list[Output]:
        """What all units have left, in their order.

        Raises:
            ValueError: a unit is not done.
        """
        return [self.output(name) for name in self.names()]

    def output(self, unit: str) -> Output:
        done = Output.load(self.folder / unit)
        if done is None:
            raise ValueError(f"stage {self.name}: {unit} is not done; run the same job again")
        return done

    def _commit(self, partial: Path, unit: Unit) -> None:
        final = self.folder / unit.name
        while not self.is_done(unit):  # as it is when another task was given the same unit
            try:
                partial.rename(final)
            except OSError:
                if not final.exists():
                    raise
                shutil.rmtree(final, ignore_errors=True)  # made under another key


def stages_folder(data_dir: str | Path) -> Path:
    """The `root` of the stages that make a data folder."""
    return Path(data_dir) / "stages"


def clean_up(stages: Sequence[Stage]) -> None:
    """Remove what killed jobs left half done."""
    for stage in stages:
        for path in stage.folder.glob(f"*{PARTIAL}"):
            shutil.rmtree(path, ignore_errors=True)


def unfinished(stages: Sequence[Stage]) -> str | None:
    """The first stage that is not done, and its shards that are not; None: all are done."""
    for stage in stages:
        pending = [unit.name for unit in stage.pending()]
        if pending:
            return f"stage {stage.name}: {len(pending)} shards are not done: {', '.join(pending)}"
    return None


def check_done(stages: Sequence[Stage]) -> None:
    """
    Raises:
        ValueError: a unit is not done under its present key; names the stage and its units.
    """
    left = unfinished(stages)
    if left is not None:
        raise ValueError(f"{left}; run the same job again")


def digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def total(outputs: Iterable[Output]) -> Counter[str]:
    """The counters of all of them."""
    return sum((output.counters for output in outputs), Counter())
