"""Train or validation, by cluster of near-duplicates: a function of contents and seed alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from megafm.data.config import Split
from megafm.data.permutation import mix

VERSION = "split/2"


@dataclass(frozen=True)
class Batch:
    """Documents, with all others of their clusters.

    Attributes:
        rows, clusters: numbers of each document and of its cluster, int64.
        sizes: bytes, int64.
        text_hashes: uint64.
    """

    rows: np.ndarray
    clusters: np.ndarray
    sizes: np.ndarray
    text_hashes: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> Batch:
        """Some of them, as an array is indexed."""
        columns = (self.rows, self.clusters, self.sizes, self.text_hashes)
        return Batch(*(column[chosen] for column in columns))


def validation_rows(batches: Callable[[], Iterable[Batch]], config: Split) -> np.ndarray:
    """The rows that go to validation, int64.

    A cluster is a candidate when the hash of the seed and its smallest text hash falls under the
    fraction, whatever else the corpus holds. Candidates are taken in hash order while they fit
    under the limit of bytes. Memory: the candidates.

    Args:
        batches: gives all documents, as often as it is called.

    Raises:
        ValueError: all documents are near-duplicates of each other.
    """
    if config.validation_fraction == 0:
        return np.zeros(0, np.int64)
    total, num_clusters, candidates = 0, 0, []
    limit = np.uint64(config.validation_fraction * 2**64)
    for batch in batches():
        found = _clusters(batch, config.seed)
        total += int(batch.sizes.sum())
        num_clusters += len(found)
        candidates.append(found[found["position"] < limit])
    if num_clusters < 2:
        raise ValueError(
            f"split.validation_fraction={config.validation_fraction}: the corpus is one cluster of "
            "near-duplicates and cannot be split; add documents or set split.validation_fraction=0"
        )
    room = min(config.max_validation_bytes, config.validation_fraction * total)
    chosen = _fitting(np.concatenate(candidates), room)
    if not chosen:  # a small corpus: the cluster that is nearest to the wanted size
        found = np.concatenate([_clusters(batch, config.seed) for batch in batches()])
        distance = np.abs(found["size"] - room)
        chosen = [int(found["cluster"][np.lexsort((found["position"], distance))[0]])]
    return np.concatenate([batch.rows[np.isin(batch.clusters, chosen)] for batch in batches()])


def _clusters(batch: Batch, seed: int) -> np.ndarray:
    """The clusters of a batch: number, size, and place in hash order."""
    names, places = np.unique(batch.clusters, return_inverse=True)
    found = np.zeros(len(names), [("position", "u8"), ("size", "i8"), ("cluster", "i8")])
    smallest = np.full(len(names), 2**64 - 1, np.uint64)
    np.minimum.at(smallest, places, batch.text_hashes)
    np.add.at(found["size"], places, batch.sizes)
    found["position"] = mix(smallest ^ mix(np.array([seed % 2**64], np.uint64)))
    found["cluster"] = names
    return found


def _fitting(candidates: np.ndarray, room: float) -> list[int]:
    chosen = []
    candidates.sort(order=["position", "cluster"])
    for size, cluster in candidates[["size", "cluster"]].tolist():
        if size <= room:
            chosen.append(cluster)
            room -= size
    return chosen
