"""An interpolated byte n-gram with modified Kneser-Ney smoothing: the baseline of bits per byte.

Source: Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling",
Harvard TR-10-98 (1998), sections 2.7, 3.5 and equation 26. As usual an n-gram of order n predicts
one byte from the n - 1 bytes before it: order 5 sees 4 bytes of context.

Every n-gram is one uint64 of n symbols of 9 bits, the predicted byte lowest. The 257th symbol
stands before a document's first byte, n - 1 times, so no context reaches across documents and the
model knows, as a language model does after its end-of-document token, that a document begins.
Counting is sorting: 8 bytes a position and a chunk at a time, then 16 bytes a distinct n-gram.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

SYMBOL_BITS = 9
BEGIN = 256  # the symbol before a document's first byte
MAX_ORDER = 64 // SYMBOL_BITS
CHUNK_BYTES = 16 << 20
SMOOTHING = "interpolated modified Kneser-Ney"


@dataclass(frozen=True)
class NgramLevel:
    """The n-grams of one order and what they weigh.

    keys (N,) uint64 sorted, and their discounted counts (N,) float64; contexts (C,) uint64 sorted,
    with the sum of undiscounted counts and the mass left to the lower order, both (C,) float64.
    """

    keys: np.ndarray
    discounted: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray
    reserved: np.ndarray

    def interpolate(self, ngrams: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """Probabilities at this order of `ngrams` (Q,), given those of the order below (Q,)."""
        context, seen = _find(self.contexts, ngrams >> np.uint64(SYMBOL_BITS))
        index, present = _find(self.keys, ngrams)
        own = np.where(present, self.discounted[index], 0.0)
        mixed = (own + self.reserved[context] * lower) / self.totals[context]
        return np.where(seen, mixed, lower)


class ByteNgram:
    """p(byte | the order - 1 bytes before it), interpolated from order 1 up, uniform below."""

    def __init__(self, levels: list[NgramLevel]) -> None:
        self.levels = levels

    @property
    def order(self) -> int:
        return len(self.levels)

    @classmethod
    def train(cls, documents: Iterable[bytes], order: int = 5) -> ByteNgram:
        """Count `documents` and smooth. Raises ValueError when there is not one byte to count."""
        if not 1 <= order <= MAX_ORDER:
            raise ValueError(f"ngram_order={order}: must be 1 to {MAX_ORDER}; set ngram_order=5")
        keys, counts = count_ngrams(documents, order)
        if len(keys) == 0:
            raise ValueError("the training split has no text: the n-gram baseline needs some")
        levels = []
        for length in range(order, 0, -1):
            levels.append(_level(keys, counts))
            # Below the highest order a count is the number of distinct symbols on the left.
            keys, counts = _distinct(keys & _mask(length - 1), None)
        return cls(levels[::-1])

    def probabilities(self, ngrams: np.ndarray) -> np.ndarray:
        """p(last byte | bytes before it) of packed n-grams (Q,) uint64, as (Q,) float64."""
        result = np.full(len(ngrams), 1 / 256)
        for length, level in enumerate(self.levels, start=1):
            result = level.interpolate(ngrams & _mask(length), result)
        return result

    def bits(self, documents: Iterable[bytes]) -> float:
        """The code length in bits of all `documents`, each from an empty context."""
        ngrams, counts = count_ngrams(documents, self.order)
        return float(-(counts * np.log2(self.probabilities(ngrams))).sum())


def count_ngrams(documents: Iterable[bytes], order: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct packed n-grams (N,) uint64, sorted, and their counts (N,) int64."""
    keys, counts = np.empty(0, np.uint64), np.empty(0, np.int64)
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    for chunk in _chunks(documents):
        packed = pack(chunk, order)
        packed.sort()
        waiting.append(_distinct_sorted(packed, None))
        if sum(len(part) for part, _ in waiting) > CHUNK_BYTES:
            keys, counts = _merge([(keys, counts), *waiting])
            waiting = []
    return _merge([(keys, counts), *waiting])


def pack(documents: list[bytes], order: int) -> np.ndarray:
    """The n-gram that ends at each byte of each document, as uint64 in reading order."""
    begin = bytes(order - 1)
    symbols = np.frombuffer(begin + begin.join(documents), np.uint8).astype(np.uint16)
    lengths = np.array([len(document) for document in documents], dtype=np.int64)
    starts = np.cumsum(lengths + order - 1) - lengths - (order - 1)
    symbols[(starts[:, None] + np.arange(order - 1)).ravel()] = BEGIN
    positions = len(symbols) - (order - 1)
    packed = np.zeros(positions, np.uint64)
    for offset in range(order):
        packed <<= np.uint64(SYMBOL_BITS)
        packed |= symbols[offset : offset + positions]
    return packed[symbols[order - 1 :] != BEGIN]


def discounts(counts: np.ndarray) -> np.ndarray:
    """Modified Kneser-Ney discounts for counts 0, 1, 2 and >= 3, from the counts of counts.

    Where those do not allow it (a count of counts is zero, as on tiny data) half a count a step.
    """
    n1, n2, n3, n4 = (int((counts == times).sum()) for times in (1, 2, 3, 4))
    if min(n1, n2, n3, n4) > 0:
        y = n1 / (n1 + 2 * n2)
        found = np.array([0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
        if (found[1:] > 0).all():
            return found
    return np.array([0, 0.5, 1.0, 1.5])


def _level(keys: np.ndarray, counts: np.ndarray) -> NgramLevel:
    discount = discounts(counts)[np.minimum(counts, 3)]
    contexts = keys >> np.uint64(SYMBOL_BITS)  # sorted, because the keys are
    starts = _run_starts(contexts)
    return NgramLevel(
        keys=keys,
        discounted=counts - discount,
        contexts=contexts[starts],
        totals=np.add.reduceat(counts, starts).astype(np.float64),
        reserved=np.add.reduceat(discount, starts),
    )


def _chunks(documents: Iterable[bytes]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += len(document)
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _merge(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    keys = np.concatenate([keys for keys, _ in parts])
    counts = np.concatenate([counts for _, counts in parts])
    return _distinct(keys, counts)


def _distinct(keys: np.ndarray, counts: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Sort keys (N,) and add up the counts of equal ones (one each when None)."""
    if counts is None:
        return _distinct_sorted(np.sort(keys), None)
    order = np.argsort(keys)
    return _distinct_sorted(keys[order], counts[order])


def _distinct_sorted(keys: np.ndarray, counts: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    starts = _run_starts(keys)
    if len(keys) == 0:
        return keys, np.empty(0, np.int64)
    if counts is None:
        return keys[starts], np.diff(starts, append=len(keys))
    return keys[starts], np.add.reduceat(counts, starts)


def _run_starts(values: np.ndarray) -> np.ndarray:
    """Where each run of equal values of a sorted array (N,) begins."""
    first = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=first[1:])
    return np.flatnonzero(first)


def _find(values: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of each query in sorted values (some index if absent) and whether it is there."""
    index = np.minimum(np.searchsorted(values, queries), len(values) - 1)
    return index, values[index] == queries


def _mask(length: int) -> np.uint64:
    """The bits of the last `length` symbols."""
    return np.uint64((1 << (SYMBOL_BITS * length)) - 1)
