"""The kept documents in an order that is a function of their ids and a seed alone.

`scatter` hands each document to a range of the hashes of ids, `gather` sorts a range in memory;
the ranges of a split, one after the other, are the shuffled split.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from megafm.data.document import SPLITS, Document
from megafm.data.lines import shard_path, write_shard
from megafm.data.permutation import mix
from megafm.data.stages.cleaning import document_lines
from megafm.data.stages.exact import unique_rows
from megafm.data.stages.exchange import PartWriter, part_of, read_part
from megafm.data.stages.resolve import Resolve, read_lines
from megafm.data.stages.stage import Stage
from megafm.data.stages.summary import Summariser

VERSION = "shuffle/1"
_HEADER = struct.Struct("<QI")  # of a record: the place in the order, the length of the line


@dataclass(frozen=True)
class Scatter(Stage):
    """documents.parts: the parts of train, then those of validation."""

    resolve: Resolve
    seed: int
    kind: ClassVar[str] = "scatter"

    @property
    def rule(self) -> str:
        return f"{VERSION} {self.seed}"

    def names(self) -> list[str]:
        return self.resolve.verify.decide.names()

    def same(self) -> tuple[Stage, ...]:
        decide = self.resolve.verify.decide
        return (decide.read, decide)

    def whole(self) -> tuple[Stage, ...]:
        return (self.resolve.verify.exact, self.resolve)

    @property
    def num_ranges(self) -> int:
        return self.resolve.verify.decide.num_ranges

    def work(self, unit: str, out: Path) -> Counter[str]:
        decide = self.resolve.verify.decide
        shard = self.names().index(unit)
        rows = unique_rows(decide, self.resolve.verify.exact, unit)
        rows = rows[~np.isin(rows["line"], read_lines(self.resolve, "removed", shard))]
        held_out = np.isin(rows["line"], read_lines(self.resolve, "validation", shard))
        order = mix(rows["id_hash"] ^ mix(np.array([self.seed % 2**64], np.uint64)))
        lines = document_lines(decide.read, unit, rows["line"].tolist())
        with PartWriter(out / "documents.parts") as parts:
            for (_, line), key, out_of in zip(
                lines, order.tolist(), held_out.tolist(), strict=True
            ):
                part = out_of * self.num_ranges + part_of(key, self.num_ranges)
                parts.add(part, _HEADER.pack(key, len(line)) + line)
        return Counter({"documents": len(rows)})


@dataclass(frozen=True)
class Gather(Stage):
    """documents.jsonl, in order, and summary.json of a range."""

    scatter: Scatter
    kind: ClassVar[str] = "gather"

    @property
    def rule(self) -> str:
        return "gather/1"

    def names(self) -> list[str]:
        parts = range(self.scatter.num_ranges)
        return [f"{split}-{part:05}" for split in SPLITS for part in parts]

    def whole(self) -> tuple[Stage, ...]:
        return (self.scatter,)

    def work(self, unit: str, out: Path) -> Counter[str]:
        split = unit.partition("-")[0]
        records: list[tuple[int, bytes]] = []
        for output in self.scatter.outputs():
            for piece in read_part(output.folder / "documents.parts", self.names().index(unit)):
                records += _records(piece)
        records.sort()  # of equal keys by line, which begins with the id
        summary = Summariser(split)
        with write_shard(shard_path(out, "documents")) as lines:
            for _, line in records:
                lines.write(line)
                summary.add(Document(**json.loads(line)), line)
        summary.summary.save(out)
        return Counter({"documents": len(records), "bytes": summary.summary.num_bytes})


def _records(piece: bytes) -> list[tuple[int, bytes]]:
    records, at = [], 0
    while at < len(piece):
        key, length = _HEADER.unpack_from(piece, at)
        at += _HEADER.size
        records.append((key, piece[at : at + length]))
        at += length
    return records
