"""clusters.json: the largest clusters of near-duplicates, for people to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from megafm.data.document import Document
from megafm.data.stages.cleaning import heads
from megafm.data.stages.columns import blocks

FILE_NAME = "clusters.json"
SHOWN = 20
IDS_SHOWN = 10
TEXTS_SHOWN = 5  # clusters


def largest(
    cluster: np.ndarray,
    sizes: np.ndarray,
    removed: np.ndarray,
    documents: Callable[[list[int]], Sequence[Document]],
) -> list[dict[str, object]]:
    """How many documents, how many of them removed, the first ids; of the first clusters also, as
    texts, how the one that stays and the first that is removed differ.

    Args:
        cluster, removed: of each document the first of its cluster, and whether it goes.
        sizes: of the cluster that begins with this document; 0 elsewhere.
    """
    shown: list[dict[str, object]] = []
    for name in _first(sizes):
        rows, gone, num_gone = _members(cluster, removed, name)
        first = documents(rows)
        pair = len(shown) < TEXTS_SHOWN and num_gone > 0
        texts = heads(first[0].text, documents(gone)[0].text) if pair else ()
        row = {"size": int(sizes[name]), "removed": num_gone, "ids": [one.id for one in first]}
        shown.append(row | {"texts": texts})
    return shown


def _first(sizes: np.ndarray) -> list[int]:
    """The names of the largest clusters, of equal ones the first."""
    names = np.zeros(0, np.int64)
    for block in blocks(len(sizes)):
        names = np.concatenate([names, block.start + np.flatnonzero(sizes[block])])
        names = names[np.argsort(-sizes[names], kind="stable")[:SHOWN]]
    return names.tolist()


def _members(
    cluster: np.ndarray, removed: np.ndarray, name: int
) -> tuple[list[int], list[int], int]:
    """The first documents of a cluster, the first that is removed, and how many are."""
    first: list[int] = []
    gone: list[int] = []
    num_gone = 0
    for block in blocks(len(cluster)):
        rows = block.start + np.flatnonzero(cluster[block] == name)
        goes = rows[removed[rows]]
        first += rows[: IDS_SHOWN - len(first)].tolist()
        gone += goes[: 1 - len(gone)].tolist()
        num_gone += len(goes)
    return first, gone, num_gone
