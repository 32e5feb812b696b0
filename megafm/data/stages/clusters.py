"""clusters.json: the largest clusters of near-duplicates, for people to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from megafm.data.stages.cleaning import heads

FILE_NAME = "clusters.json"
SHOWN = 20
IDS_SHOWN = 10
TEXTS_SHOWN = 5  # clusters


def largest(
    ids: Sequence[str],
    cluster: np.ndarray,
    removed: np.ndarray,
    texts_of: Callable[[list[int]], dict[int, str]],
) -> list[dict[str, object]]:
    """How many documents, how many of them removed, the first ids; of the first clusters also, as
    texts, how the one that stays and the first that is removed differ.

    Args:
        cluster, removed: of each document the first of its cluster, and whether it goes.
        texts_of: gives the texts of documents.
    """
    names, sizes = np.unique(cluster, return_counts=True)
    order = np.lexsort((names, -sizes))[:SHOWN]
    members = [np.flatnonzero(cluster == name).tolist() for name in names[order].tolist()]
    pairs = {}
    for rows in members[:TEXTS_SHOWN]:
        gone = [row for row in rows if removed[row]]
        pairs.update({rows[0]: (rows[0], gone[0])} if gone else {})
    texts = texts_of([row for pair in pairs.values() for row in pair])
    shown: list[dict[str, object]] = []
    for rows in members:
        pair = [texts[row] for row in pairs.get(rows[0], ())]
        shown.append(
            {
                "size": len(rows),
                "removed": int(removed[rows].sum()),
                "ids": [ids[row] for row in rows[:IDS_SHOWN]],
                "texts": heads(*pair) if pair else (),
            }
        )
    return shown
