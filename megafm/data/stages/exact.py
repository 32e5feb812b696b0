"""Exact duplicates: a unit per range of text hashes finds which documents repeat one another."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np

from megafm.data.stages.cleaning import (
    DROPPED,
    DROPPED_BYTES,
    EXAMPLES,
    Decide,
    Dropped,
    documents_at,
)
from megafm.data.stages.exchange import PartWriter, read_part, read_records
from megafm.data.stages.stage import Stage, Unit

LINES = np.dtype("<u4")
REASON = "exact_duplicate"
Row = tuple[str, str, int, int, int]  # the hash of the text, id, line, bytes, shard


@dataclass(frozen=True)
class Exact(Stage):
    """Of documents of one text all but the one of the smallest id: duplicates.parts, by shard; the
    first of them, in dropped.jsonl."""

    decide: Decide
    kind: ClassVar[str] = "exact"

    @property
    def rule(self) -> str:
        return "exact/2"

    def names(self) -> list[str]:
        return range_names(self.decide.num_ranges)

    def steps(self) -> tuple[str, ...]:
        return (REASON,)

    def whole(self) -> tuple[Stage, ...]:
        return (self.decide,)

    def units(self) -> list[Unit]:
        """
        Raises:
            ValueError: no document is left.
        """
        self.decide.check_not_empty()
        return super().units()

    def work(self, unit: str, out: Path) -> Counter[str]:
        rows: list[Row] = []
        for shard, output in enumerate(self.decide.outputs()):
            for piece in read_part(output.folder / "texts.parts", int(unit)):
                rows += [(*json.loads(line), shard) for line in piece.splitlines()]
        rows.sort()
        repeats = [row for before, row in pairwise(rows) if before[0] == row[0]]
        with PartWriter(out / "duplicates.parts") as parts:
            for *_, line, _, shard in repeats:
                parts.add(shard, LINES.type(line).tobytes())
        self._examples(rows, repeats[:EXAMPLES], out)
        return Counter(
            {DROPPED + REASON: len(repeats), DROPPED_BYTES + REASON: sum(r[3] for r in repeats)}
        )

    def _examples(self, rows: list[Row], repeats: list[Row], out: Path) -> None:
        dropped = Dropped(Counter())
        places = [(shard, line) for *_, line, _, shard in repeats]
        found = documents_at(self.decide.read, places)
        for text_hash, name, line, _, shard in repeats:
            kept = next(row[1] for row in rows if row[0] == text_hash)
            dropped.show(REASON, f"{name}: as {kept}", found[shard, line].text)
        dropped.write(out)


def unique_rows(decide: Decide, exact: Exact, unit: str) -> np.ndarray:
    """What `Decide` kept of a shard, without the exact duplicates."""
    kept = np.load(decide.output(unit).folder / "kept.npy")
    shard = decide.names().index(unit)
    repeats = [
        read_records(output.folder / "duplicates.parts", shard, LINES) for output in exact.outputs()
    ]
    return kept[~np.isin(kept["line"], np.concatenate(repeats))]


def range_names(count: int) -> list[str]:
    return [f"{part:05}" for part in range(count)]
