"""Corpus steps, where there are any: one unit compares all documents, then a unit per shard has
what is left. Memory: the corpus, and what a step says that it takes.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from megafm.data.document import Document, Drop
from megafm.data.lines import shard_path, to_line, write_shard
from megafm.data.stages.cleaning import Dropped, Left, Read, documents
from megafm.data.stages.exchange import PartWriter, read_part
from megafm.data.stages.stage import Stage, Unit, digest
from megafm.data.steps import describe


@dataclass(frozen=True)
class Compare(Stage):
    """What becomes of the documents that change or go: changes.parts, by shard."""

    read: Read
    name: ClassVar[str] = "compare"

    @property
    def rule(self) -> str:
        return digest("compare/2", *map(describe, self.read.pipeline.corpus))

    def names(self) -> list[str]:
        return ["all"]

    def steps(self) -> tuple[str, ...]:
        return tuple(step.version for step in self.read.pipeline.corpus)

    def whole(self) -> tuple[Stage, ...]:
        return (self.read,)

    def work(self, unit: str, out: Path) -> Counter[str]:
        places, before = [], []
        for shard, name in enumerate(self.read.names()):
            for line, document in documents(self.read, name):
                places.append((shard, line))
                before.append(document)
        counters: Counter[str] = Counter()
        left = self.read.pipeline.compare(before, Left(counters).add)
        with PartWriter(out / "changes.parts") as parts:
            for (shard, line), one, result in zip(places, before, left, strict=True):
                if result is not one:
                    parts.add(shard, to_line([line, dataclasses.asdict(result)]))
        return counters


@dataclass(frozen=True)
class Compared(Read):
    """Takes the place of `Read` for the stages after it."""

    compare: Compare
    name: ClassVar[str] = "compared"

    @property
    def rule(self) -> str:
        return "compared/2"

    def steps(self) -> tuple[str, ...]:
        return ()

    def units(self) -> list[Unit]:
        return Stage.units(self)

    def same(self) -> tuple[Stage, ...]:
        return (self.compare.read,)

    def whole(self) -> tuple[Stage, ...]:
        return (self.compare,)

    def work(self, unit: str, out: Path) -> Counter[str]:
        counters: Counter[str] = Counter()
        dropped = Dropped(counters)
        changes = self._changes(self.names().index(unit))
        with write_shard(shard_path(out, "documents")) as lines:
            for line, document in documents(self.compare.read, unit):
                result = changes.get(line, document)
                if isinstance(result, Drop):
                    dropped.add(result, document)
                    continue
                if result.text != document.text:
                    dropped.show("changed", document.id, document.text, result.text)
                lines.write(to_line(dataclasses.asdict(result)))
                counters["documents"] += 1
                counters["bytes"] += result.num_bytes
        dropped.write(out)
        return counters

    def _changes(self, shard: int) -> dict[int, Document | Drop]:
        pieces = read_part(self.compare.output("all").folder / "changes.parts", shard)
        rows = (json.loads(line) for piece in pieces for line in piece.splitlines())
        return {line: Drop(**one) if "reason" in one else Document(**one) for line, one in rows}
