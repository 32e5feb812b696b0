"""Corpus steps, each in three stages: pieces of documents meet those that are equal, in ranges.

    keys_N      a shard            the hash of each piece, to its range
    repeated_N  a range of hashes  the pieces to take out, to the shard of each
    compared_N  a shard            its documents without them, which the next step and stages read

Memory: a range, and the ids of the documents in it whose pieces repeat. A step that does not go by
equal hashes has all of them in one range.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from megafm.data.document import Drop
from megafm.data.lines import shard_path, to_line, write_shard
from megafm.data.stages.cleaning import Dropped, Left, Read, documents
from megafm.data.stages.exact import range_names
from megafm.data.stages.exchange import PartWriter, parts_of, read_records
from megafm.data.stages.stage import Stage, Unit, digest
from megafm.data.steps import describe
from megafm.data.steps.pipeline import repeated_pieces
from megafm.data.steps.step import CorpusStep

KEYS = np.dtype([("key", "<u8"), ("line", "<u4"), ("place", "<u4")])
CUTS = np.dtype([("line", "<u4"), ("place", "<u4")])
BATCH = 1 << 18  # pieces that are handed over together
PIECES = 8  # ranges of pieces to one of documents: a word has one, of 16 bytes


@dataclass(frozen=True)
class Keys(Stage):
    """keys.parts, by range; ids.bin and ids.npy: the ids, end to end, and where each begins."""

    read: Read
    number: int  # of the step, from 1
    num_ranges: int  # of documents

    @property
    def name(self) -> str:
        return f"keys_{self.number}"

    @property
    def step(self) -> CorpusStep:
        return self.read.pipeline.corpus[self.number - 1]

    @property
    def num_parts(self) -> int:
        return self.num_ranges * PIECES if self.step.by_equal_keys else 1

    @property
    def rule(self) -> str:
        return digest(f"keys/1 {self.num_parts}", describe(self.step))

    def names(self) -> list[str]:
        return self.read.names()

    def same(self) -> tuple[Stage, ...]:
        return (self.read,)

    def work(self, unit: str, out: Path) -> Counter[str]:
        ends = [0]
        with PartWriter(out / "keys.parts") as parts, (out / "ids.bin").open("wb") as ids:
            for records in self._records(unit, ids, ends):
                parts.add_records(parts_of(records["key"], self.num_parts), records)
        np.save(out / "ids.npy", np.array(ends))
        return Counter()

    def _records(self, unit: str, ids: BinaryIO, ends: list[int]) -> Iterator[np.ndarray]:
        batch, size = [np.zeros(0, KEYS)], 0
        for line, document in documents(self.read, unit):
            ends.append(ends[-1] + ids.write(document.id.encode("utf-8", "surrogatepass")))
            keys, places = self.step.pieces(document)
            records = np.empty(len(keys), KEYS)
            records["key"], records["line"], records["place"] = keys, line, places
            batch.append(records)
            size += len(records)
            if size >= BATCH:
                yield np.concatenate(batch)
                batch, size = [], 0
        if batch:
            yield np.concatenate(batch)


@dataclass(frozen=True)
class Repeated(Stage):
    """cuts.parts: the pieces to take out, by shard."""

    keys: Keys

    @property
    def name(self) -> str:
        return f"repeated_{self.keys.number}"

    @property
    def rule(self) -> str:
        return digest("repeated/1", describe(self.keys.step))

    def names(self) -> list[str]:
        return range_names(self.keys.num_parts)

    def whole(self) -> tuple[Stage, ...]:
        return (self.keys,)

    def work(self, unit: str, out: Path) -> Counter[str]:
        keys, rows, places = self._pieces(int(unit))
        count = len(keys)
        if self.keys.step.by_equal_keys:
            order = np.argsort(keys, kind="stable")
            equal = keys[order][1:] == keys[order][:-1]
            some = order[np.append(equal, False) | np.append(False, equal)]
            keys, rows, places = keys[some], rows[some], places[some]
        found, numbers = np.unique(rows, return_inverse=True)
        ranks = self._ranks(found)[numbers]
        cut = repeated_pieces(self.keys.step, keys, ranks, places)
        records = np.empty(len(cut), CUTS)
        records["line"], records["place"] = rows[cut] & 0xFFFFFFFF, places[cut]
        with PartWriter(out / "cuts.parts") as parts:
            parts.add_records(rows[cut] >> 32, records)
        return Counter({"pieces": count, "repeated": len(cut)})

    def _pieces(self, part: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The hashes of a range, their documents (shard << 32 | line) and their places in these."""
        found = []
        for shard, output in enumerate(self.keys.outputs()):
            own = read_records(output.folder / "keys.parts", part, KEYS)
            found.append((own["key"], shard << 32 | own["line"].astype(np.int64), own["place"]))
        keys, rows, places = (np.concatenate(column) for column in zip(*found, strict=True))
        return keys, rows, places

    def _ranks(self, rows: np.ndarray) -> np.ndarray:
        """The place of each of these documents in the order of their ids."""
        ids: list[bytes] = []  # UTF-8, which has the order of its characters
        for shard, output in enumerate(self.keys.outputs()):
            first, end = np.searchsorted(rows, [shard << 32, (shard + 1) << 32])
            if first < end:
                ends = np.load(output.folder / "ids.npy", mmap_mode="r")
                lines = rows[first:end] & 0xFFFFFFFF
                places = zip(ends[lines].tolist(), ends[lines + 1].tolist(), strict=True)
                with (output.folder / "ids.bin").open("rb", buffering=0) as text:
                    ids += [os.pread(text.fileno(), b - a, a) for a, b in places]
        ranks = np.empty(len(rows), np.int64)
        ranks[np.argsort(np.array(ids, object))] = np.arange(len(rows))
        return ranks


@dataclass(frozen=True)
class Compared(Read):
    """Takes the place of `Read` for the stages after it."""

    repeated: Repeated

    @property
    def name(self) -> str:
        return f"compared_{self.repeated.keys.number}"

    @property
    def rule(self) -> str:
        return digest("compared/3", describe(self.repeated.keys.step))

    def steps(self) -> tuple[str, ...]:
        return (self.repeated.keys.step.version,)

    def units(self) -> list[Unit]:
        return Stage.units(self)

    def same(self) -> tuple[Stage, ...]:
        return (self.repeated.keys.read,)

    def whole(self) -> tuple[Stage, ...]:
        return (self.repeated,)

    def work(self, unit: str, out: Path) -> Counter[str]:
        counters: Counter[str] = Counter()
        dropped, left = Dropped(counters), Left(counters)
        step, read = self.repeated.keys.step, self.repeated.keys.read
        cuts = self._cuts(self.names().index(unit))
        with write_shard(shard_path(out, "documents")) as lines:
            for line, document in documents(read, unit):
                places = cuts.get(line)
                result = document if places is None else step.without(document, places)
                if isinstance(result, Drop):
                    dropped.add(result, document)
                    continue
                if result.text != document.text:
                    dropped.show("changed", document.id, document.text, result.text)
                left.add(step.version, result)
                lines.write(to_line(dataclasses.asdict(result)))
                counters["documents"] += 1
                counters["bytes"] += result.num_bytes
        dropped.write(out)
        return counters

    def _cuts(self, shard: int) -> dict[int, np.ndarray]:
        """The pieces to take out of each line that has such, ascending."""
        paths = [output.folder / "cuts.parts" for output in self.repeated.outputs()]
        cuts = np.sort(np.concatenate([read_records(path, shard, CUTS) for path in paths]))
        lines, starts = np.unique(cuts["line"], return_index=True)
        places = np.split(cuts["place"].astype(np.int64), starts[1:])
        return dict(zip(lines.tolist(), places, strict=False))
