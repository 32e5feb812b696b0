"""Near-duplicates: MinHash signatures of shingles and locality-sensitive hashing.

Two minima agree with the probability of the Jaccard similarity s of the two sets of shingles.
`num_bands` bands of `band_rows` rows propose a pair with probability 1 - (1 - s**rows)**bands: 32
of 4 rows 0.87 at 0.5 and above 0.9999 at 0.8; 14 of 8 rows 0.56 at 0.7 and 0.92 at 0.8 (Leskovec,
Rajaraman, Ullman, Mining of Massive Datasets, chapter 3). Proposed pairs are then compared exactly,
by their sets: an estimate from 128 minima is off by 0.035 at 0.8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from megafm.data.config import NearDuplicates
from megafm.data.index import native
from megafm.device import num_cpus

VERSION = "near_duplicates/2"
MAX_BUCKET = 64  # of a larger bucket (boilerplate), the rest is compared with its first 64


def permutations(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The factors (odd) and terms of `count` permutations, uint32: the same on every machine."""
    digests = (hashlib.sha256(f"permutation {i}".encode()).digest()[:8] for i in range(count))
    codes = np.frombuffer(b"".join(digests), "<u4").astype(np.uint32).reshape(count, 2)
    return codes[:, 0] | np.uint32(1), np.ascontiguousarray(codes[:, 1])


def shingles(texts: Sequence[bytes], config: NearDuplicates) -> tuple[np.ndarray, np.ndarray]:
    """The sets of shingles and their offsets, see `index_reference.shingles`."""
    rule = config.unit, config.width, config.lowercase
    return native().shingles(texts, *rule, num_cpus())


def signatures(texts: Sequence[bytes], config: NearDuplicates) -> np.ndarray:
    """MinHash signatures, uint32 (texts, num_bands * band_rows)."""
    a, b = permutations(config.num_bands * config.band_rows)
    return native().minhash(texts, a, b, config.unit, config.width, config.lowercase, num_cpus())


def similar_pairs(texts: Sequence[bytes], config: NearDuplicates) -> dict[tuple[int, int], float]:
    """Pairs (i, j), i < j, whose Jaccard similarity reaches `config.cluster_at`, with it."""
    index, threads = native(), num_cpus()
    pairs = index.candidates(signatures(texts, config), config.num_bands, MAX_BUCKET, threads)
    rows, places = np.unique(pairs, return_inverse=True)  # of all texts, those in a pair
    sets, offsets = shingles([texts[row] for row in rows], config)
    places = np.ascontiguousarray(places.reshape(-1, 2))
    common = index.overlaps(sets, offsets, places, threads)
    sizes = np.diff(offsets)[places].sum(axis=1)
    similarity = common / (sizes - common)
    reached = similarity >= config.cluster_at
    keys = map(tuple, pairs[reached].tolist())
    return dict(zip(keys, similarity[reached].tolist(), strict=True))


def removals(count: int, pairs: dict[tuple[int, int], float], at_least: float) -> set[int]:
    """Rows to remove so that each is similar to a kept one before it."""
    earlier: dict[int, list[int]] = {}
    for (i, j), similarity in pairs.items():
        if similarity >= at_least:
            earlier.setdefault(j, []).append(i)
    removed: set[int] = set()
    for row in range(count):
        if any(other not in removed for other in earlier.get(row, ())):
            removed.add(row)
    return removed


def clusters(count: int, pairs: dict[tuple[int, int], float]) -> list[int]:
    """For each row the smallest row that it is connected to by similar pairs."""
    rows = np.array(list(pairs), np.int64).reshape(-1, 2)
    return native().clusters(count, rows).tolist()
