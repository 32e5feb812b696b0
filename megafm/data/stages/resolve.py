"""Which near-duplicates go and what is held out for validation: one unit, over all similar pairs.

Memory: about 60 bytes and its id for each document that has a near-duplicate, and 24 bytes for each
that may be held out; the others pass by.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from megafm.data import near_duplicates
from megafm.data.config import Split
from megafm.data.split import VERSION, Batch, validation_rows
from megafm.data.stages import clusters
from megafm.data.stages.cleaning import DROPPED, DROPPED_BYTES, KEPT, texts_at
from megafm.data.stages.exact import LINES, unique_rows
from megafm.data.stages.exchange import PartWriter, read_records
from megafm.data.stages.near import Verify, as_columns, split_rows
from megafm.data.stages.stage import Stage
from megafm.files import write_text

REASON = "near_duplicate"


@dataclass(frozen=True)
class Resolve(Stage):
    """removed.parts and validation.parts: lines, by shard; clusters.json: the largest."""

    verify: Verify
    split: Split
    name: ClassVar[str] = "resolve"

    @property
    def rule(self) -> str:
        return f"resolve/2 {self.verify.config.remove_at} {VERSION} {self.split}"

    def names(self) -> list[str]:
        return ["all"]

    def steps(self) -> tuple[str, ...]:
        return (REASON,)

    def whole(self) -> tuple[Stage, ...]:
        verify = self.verify
        return (verify, verify.sets, verify.exact, verify.decide)

    def work(self, unit: str, out: Path) -> Counter[str]:
        pairs = np.concatenate([np.load(o.folder / "similar.npy") for o in self.verify.outputs()])
        rows, places = np.unique(as_columns(pairs), return_inverse=True)
        ids = self._ids(rows)
        # Rows by their ids from here on, so that the smallest is kept.
        order = np.array(sorted(range(len(rows)), key=ids.__getitem__), np.int64)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        rows, ids = rows[order], [ids[row] for row in order.tolist()]
        edges = np.sort(rank[places.reshape(-1, 2)], axis=1)
        cluster = near_duplicates.clusters(len(rows), [edges])
        enough = pairs["similarity"] >= self.verify.config.remove_at
        removed = near_duplicates.removals(len(rows), edges[enough])
        near = self._kept(rows)
        held_out = validation_rows(lambda: self._pool(near, rows, cluster, removed), self.split)
        self._write(out / "removed.parts", rows[removed])
        self._write(out / "validation.parts", held_out)
        shown = clusters.largest(ids, cluster, removed, lambda of: self._texts(rows, of))
        write_text(out / clusters.FILE_NAME, json.dumps(shown, ensure_ascii=False))
        size = int(near["bytes"][removed[np.argsort(rows)]].sum())
        return Counter({DROPPED + REASON: int(removed.sum()), DROPPED_BYTES + REASON: size})

    def _ids(self, rows: np.ndarray) -> list[str]:
        shards, lines = split_rows(rows)
        ids: list[str] = []
        for shard, output in enumerate(self.verify.sets.outputs()):
            table = np.load(output.folder / "sets.npy")["line"]
            wanted = np.isin(table, lines[shards == shard])
            with (output.folder / "ids.jsonl").open("rb") as found:
                ids += [json.loads(line) for line, take in zip(found, wanted, strict=True) if take]
        return ids

    def _kept(self, rows: np.ndarray) -> np.ndarray:
        """What `Decide` says of these documents, in ascending order of their rows."""
        near = [np.zeros(0, KEPT)]
        for own, kept in self._units():
            near.append(kept[np.isin(own, rows)])
        return np.concatenate(near)

    def _units(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The rows of each unit's documents without exact duplicates, and what is said of them."""
        decide, exact = self.verify.decide, self.verify.exact
        for shard, name in enumerate(decide.names()):
            kept = unique_rows(decide, exact, name)
            yield shard << 32 | kept["line"].astype(np.int64), kept

    def _pool(
        self, near: np.ndarray, rows: np.ndarray, cluster: np.ndarray, removed: np.ndarray
    ) -> Iterator[Batch]:
        """What there is to choose from: the documents without a near-duplicate, then the rest."""
        for own, kept in self._units():
            alone = ~np.isin(own, rows)
            own, kept = own[alone], kept[alone]
            yield Batch(own, own, kept["bytes"], kept["text_hash"])
        at = np.argsort(rows)
        kept, at = near[~removed[at]], at[~removed[at]]
        # Below zero: the others are numbered as their rows.
        yield Batch(rows[at], -1 - cluster[at], kept["bytes"], kept["text_hash"])

    def _texts(self, rows: np.ndarray, places: list[int]) -> dict[int, str]:
        """The texts of the rows at some places."""
        shards, lines = split_rows(rows[places])
        at = list(zip(shards.tolist(), lines.tolist(), strict=True))
        found = texts_at(self.verify.decide.read, at)
        return dict(zip(places, (found[one] for one in at), strict=True))

    def _write(self, path: Path, rows: np.ndarray) -> None:
        with PartWriter(path) as parts:
            parts.add_records(*split_rows(np.sort(rows)))


def read_lines(resolve: Resolve, name: str, shard: int) -> np.ndarray:
    """The lines of a shard that `removed` or `validation` names."""
    return read_records(resolve.output("all").folder / f"{name}.parts", shard, LINES)
