"""Which near-duplicates go and what is held out for validation: one unit, over all similar pairs.

Pairs pass by, a range at a time, and documents, a shard at a time; what is known of each document
that has a near-duplicate lies on the disk, 41 bytes of it in columns that are read at any place.
Memory: a range, a shard or a cluster, and 24 bytes for each document that may be held out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import numpy as np

from megafm.data import near_duplicates
from megafm.data.config import Split
from megafm.data.document import Document
from megafm.data.permutation import mix
from megafm.data.split import VERSION, Batch, validation_rows
from megafm.data.stages import clusters
from megafm.data.stages.cleaning import DROPPED, DROPPED_BYTES, documents_at
from megafm.data.stages.columns import blocks, column, sorted_places
from megafm.data.stages.exact import LINES, unique_rows
from megafm.data.stages.exchange import PartWriter, parts_of, read_records
from megafm.data.stages.near import Verify, as_columns, split_rows
from megafm.data.stages.stage import Stage
from megafm.files import write_text

REASON = "near_duplicate"
EDGES = np.dtype([("i", "<i8"), ("j", "<i8"), ("enough", "?")])
STAYS = np.dtype([("row", "<i8"), ("cluster", "<i8"), ("bytes", "<i8"), ("text_hash", "<u8")])


@dataclass(frozen=True)
class Resolve(Stage):
    """removed.parts and validation.parts: lines, by shard; clusters.json: the largest."""

    verify: Verify
    split: Split
    kind: ClassVar[str] = "resolve"

    @property
    def rule(self) -> str:
        return f"resolve/3 {self.verify.config.remove_at} {VERSION} {self.split}"

    def names(self) -> list[str]:
        return ["all"]

    def steps(self) -> tuple[str, ...]:
        return (REASON,)

    def whole(self) -> tuple[Stage, ...]:
        verify = self.verify
        return (verify, verify.sets, verify.exact, verify.decide)

    def work(self, unit: str, out: Path) -> Counter[str]:
        with TemporaryDirectory(dir=out) as folder:
            near = Near.of(self.verify, Path(folder))
            edges = Edges(Path(folder) / "edges.parts", len(near), near.num_ranges)
            edges.write(near.ranked(pairs_of(self.verify)), self.verify.config.remove_at)
            near.settle(edges)
            held = Path(folder) / "held.parts"
            counters = self._remove(near, out / "removed.parts", held)
            held_out = validation_rows(lambda: self._pool(near, held), self.split)
            with PartWriter(out / "validation.parts") as parts:
                parts.add_records(*split_rows(np.sort(held_out)))
            shown = clusters.largest(
                near.cluster,
                near.sizes,
                near.removed,
                lambda of: self._documents(near.rows[near.places[of]]),
            )
        write_text(out / clusters.FILE_NAME, json.dumps(shown, ensure_ascii=False))
        return counters

    def _remove(self, near: Near, removed: Path, held: Path) -> Counter[str]:
        """Write the lines that go, by shard, and what stays of clusters, by hashes of these."""
        counters = Counter({DROPPED + REASON: 0, DROPPED_BYTES + REASON: 0})
        with PartWriter(removed) as gone, PartWriter(held) as staying:
            for shard, (rows, kept) in enumerate(self._units()):
                own = near.of_shard(shard)
                kept, rank = kept[np.isin(rows, near.rows[own])], near.rank[own]
                goes = near.removed[rank]
                gone.add_records(*split_rows(near.rows[own][goes]))
                counters[DROPPED + REASON] += int(goes.sum())
                counters[DROPPED_BYTES + REASON] += int(kept["bytes"][goes].sum())
                stays = np.empty(int((~goes).sum()), STAYS)
                stays["row"], stays["cluster"] = near.rows[own][~goes], near.cluster[rank][~goes]
                stays["bytes"], stays["text_hash"] = (
                    kept[name][~goes] for name in ("bytes", "text_hash")
                )
                ranges = parts_of(mix(stays["cluster"].astype(np.uint64)), near.num_ranges)
                staying.add_records(ranges, stays)
        return counters

    def _units(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The rows of each unit's documents without exact duplicates, and what `Decide` says."""
        decide, exact = self.verify.decide, self.verify.exact
        for shard, name in enumerate(decide.names()):
            kept = unique_rows(decide, exact, name)
            yield shard << 32 | kept["line"].astype(np.int64), kept

    def _pool(self, near: Near, held: Path) -> Iterator[Batch]:
        """What there is to choose from: the documents without a near-duplicate, numbered as their
        rows, then those that stay of the others, whose clusters are numbered below zero."""
        for shard, (rows, kept) in enumerate(self._units()):
            alone = ~np.isin(rows, near.rows[near.of_shard(shard)])
            yield Batch(rows, rows, kept["bytes"], kept["text_hash"])[alone]
        for part in range(near.num_ranges):
            stays = read_records(held, part, STAYS)
            yield Batch(stays["row"], -1 - stays["cluster"], stays["bytes"], stays["text_hash"])

    def _documents(self, rows: np.ndarray) -> list[Document]:
        shards, lines = split_rows(rows)
        places = list(zip(shards.tolist(), lines.tolist(), strict=True))
        found = documents_at(self.verify.decide.read, places)
        return [found[place] for place in places]


@dataclass(frozen=True)
class Near:
    """The documents that have a near-duplicate, in columns on the disk, int64 but for `removed`.

    Attributes:
        num_ranges: that ranks, and clusters, are taken by.
        starts: of the documents of each shard, and their number.
        rows: of all of them, ascending.
        places: those of the documents in the order of ids, of which the smallest is kept.
        rank: of each in that order.
        cluster, sizes, removed: by rank, the first of its cluster, of that the size, and whether it
            goes; filled in by `settle`.
    """

    num_ranges: int
    starts: np.ndarray
    rows: np.ndarray
    places: np.ndarray
    rank: np.ndarray
    cluster: np.ndarray
    sizes: np.ndarray
    removed: np.ndarray

    @classmethod
    def of(cls, verify: Verify, folder: Path) -> Near:
        starts, rows = similar_rows(verify, folder)
        names = ("places", "rank", "cluster", "sizes")
        columns = {name: column(folder / name, np.int64, len(rows)) for name in names}
        removed = column(folder / "removed", np.bool_, len(rows))
        near = cls(len(verify.names()), starts, rows, **columns, removed=removed)
        end = 0
        for found in sorted_places(near._ids(verify), folder):
            begin, end = end, end + len(found)
            near.places[begin:end] = found
            near.rank[found] = np.arange(begin, end)
        return near

    def __len__(self) -> int:
        return len(self.rows)

    def of_shard(self, shard: int) -> slice:
        return slice(*self.starts[shard : shard + 2].tolist())

    def ranked(self, found: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The pairs of a range, by rank, the smaller first, and their similarities."""
        for pairs in found:
            ranks = self.rank[np.searchsorted(self.rows, as_columns(pairs))]
            yield np.sort(ranks), pairs["similarity"]

    def settle(self, edges: Edges) -> None:
        near_duplicates.clusters(len(self), edges.batches(), out=self.cluster)
        near_duplicates.removals(len(self), edges.batches(enough=True), out=self.removed)
        for block in blocks(len(self)):
            np.add.at(self.sizes, self.cluster[block], 1)

    def _ids(self, verify: Verify) -> Iterator[str]:
        for shard, output in enumerate(verify.sets.outputs()):
            lines = split_rows(self.rows[self.of_shard(shard)])[1]
            wanted = np.isin(np.load(output.folder / "sets.npy")["line"], lines)
            with (output.folder / "ids.jsonl").open("rb") as found:
                for line, take in zip(found, wanted.tolist(), strict=True):
                    if take:
                        yield json.loads(line)


def similar_rows(verify: Verify, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The documents that have a near-duplicate, ascending, and where those of each shard begin."""
    with PartWriter(folder / "similar.parts") as parts:
        for pairs in pairs_of(verify):
            parts.add_records(*split_rows(np.unique(as_columns(pairs))))
    ends = [0]
    with (folder / "rows").open("wb") as file:
        for shard in range(len(verify.decide.names())):
            lines = np.unique(read_records(folder / "similar.parts", shard, LINES))
            file.write((shard << 32 | lines.astype("<i8")).tobytes())
            ends.append(ends[-1] + len(lines))
    rows = np.memmap(folder / "rows", "<i8", "r") if ends[-1] else np.zeros(0, np.int64)
    return np.array(ends), rows


def pairs_of(verify: Verify) -> Iterator[np.ndarray]:
    for output in verify.outputs():
        yield np.load(output.folder / "similar.npy")


class Edges:
    """Pairs of ranks on the disk, by ranges of the larger: what the smaller ones of a range stand
    in is known when it is read, and no more than a range is in memory."""

    def __init__(self, path: Path, count: int, num_ranges: int) -> None:
        self.path = path
        self._ranks = -(-count // num_ranges)  # in a range
        self._num_ranges = num_ranges

    def write(self, found: Iterable[tuple[np.ndarray, np.ndarray]], remove_at: float) -> None:
        with PartWriter(self.path) as parts:
            for pairs, similarity in found:
                records = np.empty(len(pairs), EDGES)
                records["i"], records["j"] = pairs[:, 0], pairs[:, 1]
                records["enough"] = similarity >= remove_at
                parts.add_records(pairs[:, 1] // max(self._ranks, 1), records)

    def batches(self, enough: bool = False) -> Iterator[np.ndarray]:
        """Of each range the pairs, or those to remove one of, by the larger and the smaller."""
        for part in range(self._num_ranges):
            records = read_records(self.path, part, EDGES)
            records = records[records["enough"]] if enough else records
            yield as_columns(records[np.lexsort((records["i"], records["j"]))])


def read_lines(resolve: Resolve, name: str, shard: int) -> np.ndarray:
    """The lines of a shard that `removed` or `validation` names."""
    return read_records(resolve.output("all").folder / f"{name}.parts", shard, LINES)
