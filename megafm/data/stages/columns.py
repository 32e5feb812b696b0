"""A number for each of very many documents: on the disk, in order, or sorted by their ids.

What of a file is in memory is the page cache's, which gives it back when others need it.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path

import numpy as np

BLOCK = 1 << 20  # rows that are taken together
RUN = 1 << 18  # strings that are sorted in memory


def column(path: Path, dtype: type[np.generic], count: int) -> np.ndarray:
    """Zeros, (count,), in a file at `path`, which may be removed while they are used."""
    if count == 0:  # which no file maps
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, "w+", shape=(count,))


def blocks(count: int) -> Iterator[slice]:
    """Of so many rows a number that fits into memory at a time."""
    return (slice(begin, min(begin + BLOCK, count)) for begin in range(0, count, BLOCK))


def sorted_places(strings: Iterable[str], folder: Path) -> Iterator[np.ndarray]:
    """The places of strings, int64, in the order of the strings; of equal ones in their own.

    Memory: RUN strings, and a buffer for each run, which is an open file: a thousand of them hold
    260 million strings. They lie in `folder` without a name, and the last of them in memory.
    """
    numbered = ((string, place) for place, string in enumerate(strings))
    with ExitStack() as opened:
        runs: list[Iterator[tuple[str, int]]] = []
        run = sorted(islice(numbered, RUN))
        while len(run) == RUN:
            file = opened.enter_context((folder / f"run_{len(runs)}").open("w+", encoding="ascii"))
            Path(file.name).unlink()
            file.writelines(json.dumps(pair) + "\n" for pair in run)
            file.seek(0)
            runs.append(map(tuple, map(json.loads, file)))
            run.clear()  # before the next is read
            run = sorted(islice(numbered, RUN))
        runs.append(iter(run))
        places = (place for _, place in heapq.merge(*runs))
        for place in places:
            rest = islice(places, BLOCK - 1)
            yield np.fromiter(chain([place], rest), np.int64)
