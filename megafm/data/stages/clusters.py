"""clusters.json: the largest clusters of near-duplicates, for people to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from megafm.data.document import Document
from megafm.data.stages.cleaning import heads

FILE_NAME = "clusters.json"
SHOWN = 20
IDS_SHOWN = 10
TEXTS_SHOWN = 5  # clusters


def largest(
    cluster: np.ndarray,
    removed: np.ndarray,
    documents: Callable[[list[int]], Sequence[Document]],
) -> list[dict[str, object]]:
    """How many documents, how many of them removed, the first ids; of the first clusters also, as
    texts, how the one that stays and the first that is removed differ.

    Args:
        cluster, removed: of each document the first of its cluster, and whether it goes.
    """
    names, sizes = np.unique(cluster, return_counts=True)
    shown: list[dict[str, object]] = []
    for place in np.lexsort((names, -sizes))[:SHOWN].tolist():
        rows = np.flatnonzero(cluster == names[place])
        gone = rows[removed[rows]]
        first = documents(rows[:IDS_SHOWN].tolist())
        pair = len(shown) < TEXTS_SHOWN and len(gone) > 0
        texts = heads(first[0].text, documents(gone[:1].tolist())[0].text) if pair else ()
        row = {"size": len(rows), "removed": len(gone), "ids": [one.id for one in first]}
        shown.append(row | {"texts": texts})
    return shown
