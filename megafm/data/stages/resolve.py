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
from megafm.data.stages.cleaning import KEPT
from megafm.data.stages.exact import LINES, unique_rows
from megafm.data.stages.exchange import PartWriter, read_records
from megafm.data.stages.near import Verify, as_columns, split_rows
from megafm.data.stages.stage import Stage

CLUSTERS = "clusters.json"
CLUSTERS_SHOWN = 20
IDS_SHOWN = 10


@dataclass(frozen=True)
class Resolve(Stage):
    """removed.parts and validation.parts: lines, by shard; clusters.json: the largest."""

    verify: Verify
    split: Split
    name: ClassVar[str] = "resolve"

    @property
    def rule(self) -> str:
        return f"resolve/1 {self.verify.config.remove_at} {VERSION} {self.split}"

    def names(self) -> list[str]:
        return ["all"]

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
        held_out = validation_rows(lambda: self._pool(rows, cluster, removed), self.split)
        self._write(out / "removed.parts", rows[removed])
        self._write(out / "validation.parts", held_out)
        (out / CLUSTERS).write_text(json.dumps(_largest(ids, cluster, removed)))
        return Counter({"dropped.near_duplicate": int(removed.sum())})

    def _ids(self, rows: np.ndarray) -> list[str]:
        shards, lines = split_rows(rows)
        ids: list[str] = []
        for shard, output in enumerate(self.verify.sets.outputs()):
            table = np.load(output.folder / "sets.npy")["line"]
            wanted = np.isin(table, lines[shards == shard])
            with (output.folder / "ids.jsonl").open("rb") as found:
                ids += [json.loads(line) for line, take in zip(found, wanted, strict=True) if take]
        return ids

    def _pool(self, rows: np.ndarray, cluster: np.ndarray, removed: np.ndarray) -> Iterator[Batch]:
        """What there is to choose from: the documents without a near-duplicate, then the rest."""
        decide, exact = self.verify.decide, self.verify.exact
        near = [np.zeros(0, KEPT)]
        for shard, name in enumerate(decide.names()):
            kept = unique_rows(decide, exact, name)
            own = shard << 32 | kept["line"].astype(np.int64)
            alone = ~np.isin(own, rows)
            near.append(kept[~alone])  # in the order of the rows
            kept, own = kept[alone], own[alone]
            yield Batch(own, own, kept["bytes"], kept["text_hash"])
        kept, at = np.concatenate(near), np.argsort(rows)
        kept, at = kept[~removed[at]], at[~removed[at]]
        # Below zero: the others are numbered as their rows.
        yield Batch(rows[at], -1 - cluster[at], kept["bytes"], kept["text_hash"])

    def _write(self, path: Path, rows: np.ndarray) -> None:
        with PartWriter(path) as parts:
            parts.add_records(*split_rows(np.sort(rows)))


def read_lines(resolve: Resolve, name: str, shard: int) -> np.ndarray:
    """The lines of a shard that `removed` or `validation` names."""
    return read_records(resolve.output("all").folder / f"{name}.parts", shard, LINES)


def _largest(ids: list[str], cluster: np.ndarray, removed: np.ndarray) -> list[dict[str, object]]:
    """The largest clusters: how many documents, how many of them removed, the first ids."""
    names, sizes = np.unique(cluster, return_counts=True)
    shown = []
    for place in np.lexsort((names, -sizes))[:CLUSTERS_SHOWN].tolist():
        rows = np.flatnonzero(cluster == names[place])
        first = [ids[row] for row in rows[:IDS_SHOWN].tolist()]
        shown.append({"size": len(rows), "removed": int(removed[rows].sum()), "ids": first})
    return shown
