"""Which near-duplicates go and what is held out for validation: one unit, over all similar pairs.

Pairs pass by, a range at a time. Memory: for each document that was compared with another 9 bytes,
for each that has a near-duplicate its id while these are sorted and then about 100 bytes, and 24
for each that may be held out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from megafm.data import near_duplicates
from megafm.data.config import Split
from megafm.data.document import Document
from megafm.data.split import VERSION, Batch, validation_rows
from megafm.data.stages import clusters
from megafm.data.stages.cleaning import DROPPED, DROPPED_BYTES, KEPT, documents_at
from megafm.data.stages.exact import LINES, unique_rows
from megafm.data.stages.exchange import PartWriter, read_records
from megafm.data.stages.near import Verify, as_columns, split_rows
from megafm.data.stages.stage import Stage
from megafm.files import write_text

REASON = "near_duplicate"
EDGES = np.dtype([("i", "<i8"), ("j", "<i8"), ("enough", "?")])


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
        rows = self._similar_rows()
        rank = self._ranks(rows)
        edges = Edges(out / "edges.parts", len(rows), len(self.verify.names()))
        edges.write(self._ranked(rows, rank), self.verify.config.remove_at)
        cluster = near_duplicates.clusters(len(rows), edges.batches())
        removed = near_duplicates.removals(len(rows), edges.batches(enough=True))
        edges.path.unlink()
        near = self._near(rows)
        own_removed, own_cluster = removed[rank], cluster[rank]
        kept = Batch(rows, -1 - own_cluster, near["bytes"], near["text_hash"])[~own_removed]
        held_out = validation_rows(lambda: self._pool(rows, kept), self.split)
        self._write(out / "removed.parts", rows[own_removed])
        self._write(out / "validation.parts", held_out)
        places = np.argsort(rank)
        shown = clusters.largest(cluster, removed, lambda of: self._documents(rows[places[of]]))
        write_text(out / clusters.FILE_NAME, json.dumps(shown, ensure_ascii=False))
        size = int(near["bytes"][own_removed].sum())
        return Counter({DROPPED + REASON: int(removed.sum()), DROPPED_BYTES + REASON: size})

    def _similar_rows(self) -> np.ndarray:
        """The documents that have a near-duplicate, ascending."""
        tables = [np.load(output.folder / "sets.npy") for output in self.verify.sets.outputs()]
        compared = [shard << 32 | of["line"].astype(np.int64) for shard, of in enumerate(tables)]
        rows = np.concatenate(compared)
        similar = np.zeros(len(rows), bool)
        for pairs in self._pairs():
            similar[np.searchsorted(rows, as_columns(pairs))] = True
        return rows[similar]

    def _pairs(self) -> Iterator[np.ndarray]:
        for output in self.verify.outputs():
            yield np.load(output.folder / "similar.npy")

    def _ranks(self, rows: np.ndarray) -> np.ndarray:
        """The place of each row in the order of ids, as of near-duplicates the smallest is kept."""
        shards, lines = split_rows(rows)
        ids: list[str] = []
        for shard, output in enumerate(self.verify.sets.outputs()):
            table = np.load(output.folder / "sets.npy")["line"]
            wanted = np.isin(table, lines[slice(*np.searchsorted(shards, [shard, shard + 1]))])
            with (output.folder / "ids.jsonl").open("rb") as found:
                ids += [json.loads(line) for line, take in zip(found, wanted, strict=True) if take]
        rank = np.empty(len(rows), np.int64)
        rank[np.argsort(np.array(ids, object))] = np.arange(len(rows))
        return rank

    def _ranked(
        self, rows: np.ndarray, rank: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The pairs of a range, by rank, the smaller first, and their similarities."""
        for pairs in self._pairs():
            yield np.sort(rank[np.searchsorted(rows, as_columns(pairs))]), pairs["similarity"]

    def _near(self, rows: np.ndarray) -> np.ndarray:
        """What `Decide` says of these rows."""
        near = [np.zeros(0, KEPT)]
        for own, kept in self._units():
            near.append(kept[np.isin(own, _within(rows, own))])
        return np.concatenate(near)

    def _units(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The rows of each unit's documents without exact duplicates, and what is said of them."""
        decide, exact = self.verify.decide, self.verify.exact
        for shard, name in enumerate(decide.names()):
            kept = unique_rows(decide, exact, name)
            yield shard << 32 | kept["line"].astype(np.int64), kept

    def _pool(self, rows: np.ndarray, near: Batch) -> Iterator[Batch]:
        """What there is to choose from: the documents without a near-duplicate, numbered as their
        rows, then those that stay of the others, whose clusters are numbered below zero."""
        for own, kept in self._units():
            alone = ~np.isin(own, _within(rows, own))
            yield Batch(own, own, kept["bytes"], kept["text_hash"])[alone]
        yield near

    def _documents(self, rows: np.ndarray) -> list[Document]:
        shards, lines = split_rows(rows)
        places = list(zip(shards.tolist(), lines.tolist(), strict=True))
        found = documents_at(self.verify.decide.read, places)
        return [found[place] for place in places]

    def _write(self, path: Path, rows: np.ndarray) -> None:
        with PartWriter(path) as parts:
            parts.add_records(*split_rows(np.sort(rows)))


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


def _within(rows: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Of ascending rows those from the first of `own` to its last."""
    first, last = (own[0], own[-1]) if len(own) else (0, -1)
    return rows[np.searchsorted(rows, first) : np.searchsorted(rows, last, "right")]


def read_lines(resolve: Resolve, name: str, shard: int) -> np.ndarray:
    """The lines of a shard that `removed` or `validation` names."""
    return read_records(resolve.output("all").folder / f"{name}.parts", shard, LINES)
