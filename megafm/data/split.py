"""Train or validation, by cluster of near-duplicates: a function of contents and seed alone."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from megafm.data.config import Split
from megafm.data.document import Document

VERSION = "split/1"


def validation_rows(
    documents: Sequence[Document], cluster: Sequence[int], config: Split
) -> set[int]:
    """The rows that go to validation.

    A cluster is a candidate when the hash of the seed and its smallest content hash falls under
    the fraction, whatever else the corpus holds. Candidates are taken in hash order while they
    fit under the limit of bytes.

    Raises:
        ValueError: all documents are near-duplicates of each other.
    """
    if config.validation_fraction == 0:
        return set()
    members: dict[int, list[int]] = defaultdict(list)
    for row, name in enumerate(cluster):
        members[name].append(row)
    if len(members) < 2:
        raise ValueError(
            f"split.validation_fraction={config.validation_fraction}: the corpus is one cluster of "
            "near-duplicates and cannot be split; add documents or set split.validation_fraction=0"
        )
    total = sum(document.num_bytes for document in documents)
    room = min(config.max_validation_bytes, config.validation_fraction * total)
    size = {name: sum(documents[row].num_bytes for row in rows) for name, rows in members.items()}
    position = {name: _position(documents, rows, config.seed) for name, rows in members.items()}
    chosen: list[int] = []
    for name in sorted(members, key=lambda name: position[name]):
        if position[name] < config.validation_fraction and size[name] <= room:
            chosen.append(name)
            room -= size[name]
    if not chosen:  # a small corpus: the cluster that is nearest to the wanted size
        chosen = [min(members, key=lambda name: (abs(size[name] - room), position[name]))]
    return {row for name in chosen for row in members[name]}


def _position(documents: Sequence[Document], rows: list[int], seed: int) -> float:
    smallest = min(documents[row].sha256 for row in rows)
    digest = hashlib.sha256(f"{seed}:{smallest}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
