"""Near-duplicates: MinHash signatures of shingles and locality-sensitive hashing.

Two minima agree with the probability of the Jaccard similarity s of the two sets of shingles.
`num_bands` bands of `band_rows` rows propose a pair with probability 1 - (1 - s**rows)**bands: 32
of 4 rows 0.87 at 0.5 and above 0.9999 at 0.8; 14 of 8 rows 0.56 at 0.7 and 0.92 at 0.8 (Leskovec,
Rajaraman, Ullman, Mining of Massive Datasets, chapter 3). Proposed pairs are then compared exactly,
by their sets: an estimate from 128 minima is off by 0.035 at 0.8.

The functions work on as much as fits into memory and run on one thread: `stages.near` brings
together what belongs together, and many units run at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from megafm.data.config import NearDuplicates
from megafm.data.index import native
from megafm.data.permutation import mix

VERSION = "near_duplicates/4"
BLOCK = 1 << 20  # rows that are taken together
MAX_BUCKET = 64  # of a larger bucket (boilerplate), the rest is compared with its first 64


def permutations(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The factors (odd) and terms of `count` permutations, uint32: the same on every machine."""
    digests = (hashlib.sha256(f"permutation {i}".encode()).digest()[:8] for i in range(count))
    codes = np.frombuffer(b"".join(digests), "<u4").astype(np.uint32).reshape(count, 2)
    return codes[:, 0] | np.uint32(1), np.ascontiguousarray(codes[:, 1])


def shingles(texts: Sequence[bytes], config: NearDuplicates) -> tuple[np.ndarray, np.ndarray]:
    """The sets of shingles and their offsets, see `index_reference.shingles`."""
    return native().shingles(texts, config.unit, config.width, config.lowercase, 1)


def signatures(texts: Sequence[bytes], config: NearDuplicates) -> np.ndarray:
    """MinHash signatures, uint32 (texts, num_bands * band_rows)."""
    a, b = permutations(config.num_bands * config.band_rows)
    return native().minhash(texts, a, b, config.unit, config.width, config.lowercase, 1)


def band_keys(signatures: np.ndarray, config: NearDuplicates) -> np.ndarray:
    """A hash of each band of each signature, uint64 (texts, num_bands): equal where all rows of
    the band are, and different from band to band."""
    values = signatures.reshape(-1, config.num_bands, config.band_rows).astype(np.uint64)
    keys = mix(np.broadcast_to(np.arange(config.num_bands, dtype=np.uint64), values.shape[:2]))
    for row in range(config.band_rows):
        keys = mix(keys ^ values[:, :, row])
    return keys


def candidates(keys: np.ndarray) -> np.ndarray:
    """Pairs i < j of equal keys, int64 (pairs, 2); see MAX_BUCKET."""
    halves = np.ascontiguousarray(keys).view(np.uint32).reshape(-1, 2)  # a signature of one band
    return native().candidates(halves, 1, MAX_BUCKET, 1)


def jaccard(sets: np.ndarray, offsets: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The similarity of each pair of sets, float64 (pairs,)."""
    common = native().overlaps(sets, offsets, pairs, 1)
    sizes = np.diff(offsets)[pairs].sum(axis=1)
    return common / (sizes - common)


def removals(
    count: int, batches: Iterable[np.ndarray], out: np.ndarray | None = None
) -> np.ndarray:
    """Which rows to remove, bool (count,), so that each is similar to a kept one before it.

    Args:
        batches: pairs i < j of rows that are similar enough, int64 (pairs, 2), by j and then i from
            the first of the first batch to the last of the last.
        out: zeros, to be filled in and returned.
    """
    removed = np.zeros(count, bool) if out is None else out
    for pairs in batches:
        native().remove_similar(removed, pairs)
    return removed


def clusters(
    count: int, batches: Iterable[np.ndarray], out: np.ndarray | None = None
) -> np.ndarray:
    """For each row the smallest row that it is connected to by pairs of any batch, int64 (count,).

    Memory: a batch, and 8 bytes a row without `out`, which is filled in and returned.
    """
    parent = np.empty(count, np.int64) if out is None else out
    ranges = [slice(begin, min(begin + BLOCK, count)) for begin in range(0, count, BLOCK)]
    for own in ranges:
        parent[own] = np.arange(own.start, own.stop)
    for pairs in batches:
        native().unite(parent, pairs)
    for own in ranges:  # a parent is a smaller row: those of the ranges before are their smallest
        while (parent[own] != (above := parent[parent[own]])).any():
            parent[own] = above
    return parent
