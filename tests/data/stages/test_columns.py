"""What is known of very many documents, in memory that does not grow with them."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from megafm.data import near_duplicates
from megafm.data.stages import clusters, columns


@pytest.mark.parametrize("count", [0, 1, 4, 5, 23])
def test_runs_are_merged_in_the_order_of_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(columns, "RUN", 4)
    monkeypatch.setattr(columns, "BLOCK", 5)
    alphabet = ["a", "B", "\n", "\u00e9", "\ud800", "\uffee", "\U0001f600"]
    rng = random.Random(count)
    strings = ["".join(rng.choices(alphabet, k=rng.randint(0, 3))) for _ in range(count)]
    found = list(columns.sorted_places(strings, tmp_path))
    assert max(map(len, found), default=0) <= 5
    places = [place for block in found for place in block.tolist()]
    assert places == sorted(range(count), key=lambda place: (strings[place], place))
    assert not list(tmp_path.iterdir())


def test_three_times_the_strings_are_sorted_in_the_same_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "RUN", 5000)
    monkeypatch.setattr(columns, "BLOCK", 2000)
    peaks = []
    for count in (20_000, 60_000):
        order = columns.column(tmp_path / str(count), np.int64, count)
        names = (f"{number * 7919 % count:06} of a source" for number in range(count))
        tracemalloc.start()
        end = 0
        for places in columns.sorted_places(names, tmp_path):
            order[end : end + len(places)] = places
            end += len(places)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (order * 7919 % count == np.arange(count)).all()
    assert peaks[1] < 1.5 * peaks[0]  # a buffer for each run


def test_chains_over_many_blocks_end_at_their_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_duplicates, "BLOCK", 7)
    parent = columns.column(tmp_path / "parent", np.int64, 40)
    pairs = np.array([[i, i + 3] for i in range(37)])
    found = near_duplicates.clusters(40, [pairs[::-1].copy(), pairs[:5]], out=parent)
    assert found is parent and found.tolist() == [i % 3 for i in range(40)]


def test_the_largest_clusters_are_found_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "BLOCK", 11)
    rng = np.random.default_rng(3)
    count = 400
    parent = near_duplicates.clusters(count, [np.sort(rng.integers(0, count, (260, 2)))])
    removed = (parent != np.arange(count)) & (rng.random(count) < 0.7)
    sizes = np.bincount(parent, minlength=count)
    shown = clusters.largest(parent, sizes, removed, lambda of: [Numbered(i) for i in of])
    names = np.lexsort((np.arange(count), -sizes))[: clusters.SHOWN].tolist()
    assert [row["size"] for row in shown] == sizes[names].tolist()
    for name, row in zip(names, shown, strict=True):
        rows = np.flatnonzero(parent == name)
        assert row["ids"] == [str(i) for i in rows[:10].tolist()]
        assert row["removed"] == removed[rows].sum()


class Numbered:
    def __init__(self, number: int) -> None:
        self.id, self.text = str(number), f"text {number}"
