"""Near-duplicates of any number of pairs, in the memory of a range of them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from megafm.data import near_duplicates
from megafm.data.stages import exchange
from megafm.data.stages.resolve import Edges

REMOVE_AT = 0.8
RANKS, RANGES, BATCHES, PAIRS = 5000, 64, 100, 10_000


def found() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A million pairs of five thousand documents."""
    for seed in range(BATCHES):
        rng = np.random.default_rng(seed)
        pairs = np.sort(rng.integers(0, RANKS, (PAIRS, 2)) // 40 * 40 + rng.integers(0, 3, 2))
        pairs = pairs[pairs[:, 0] < pairs[:, 1]]
        yield pairs, rng.random(len(pairs))


def test_pairs_come_back_by_the_larger_rank_a_range_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "BUFFER_BYTES", 1 << 16)
    everything = np.concatenate([pairs for pairs, _ in found()])
    enough = np.concatenate([similarity for _, similarity in found()]) >= REMOVE_AT
    order = np.lexsort((everything[:, 0], everything[:, 1]))
    expected = everything[order], everything[order][enough[order]]
    size = everything.nbytes

    tracemalloc.start()
    edges = Edges(tmp_path / "edges", RANKS, RANGES)
    edges.write(found(), REMOVE_AT)
    cluster = near_duplicates.clusters(RANKS, edges.batches())
    removed = near_duplicates.removals(RANKS, edges.batches(enough=True))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size / 4
    assert max(map(len, edges.batches())) < len(everything) / 10
    assert np.array_equal(np.concatenate(list(edges.batches())), expected[0])
    assert np.array_equal(np.concatenate(list(edges.batches(enough=True))), expected[1])
    assert np.array_equal(cluster, near_duplicates.clusters(RANKS, [expected[0]]))
    assert np.array_equal(removed, near_duplicates.removals(RANKS, [expected[1]]))
    assert 0 < removed.sum() < RANKS


def test_no_pairs_are_no_batches_of_any(tmp_path: Path) -> None:
    edges = Edges(tmp_path / "edges", 0, 4)
    edges.write(iter(()), REMOVE_AT)
    assert [batch.shape for batch in edges.batches()] == [(0, 2)] * 4
