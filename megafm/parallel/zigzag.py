"""Which tokens of a sequence a rank of `cp` holds, and what its queries see of another rank's keys.

Of 2n chunks of a sequence rank r of n holds r and 2n - 1 - r, so that under a causal mask all have
the same work in every step:

    n = 2      rank 0: chunks 0 3      rank 1: chunks 1 2       keys: 0 1 2 3
    step 0     0 sees 0, 3 sees 0 3    1 sees 1, 2 sees 1 2     queries 0  o
    step 1     3 sees 1 2              1 sees 0, 2 sees 0               1  x o
                                                                        2  x o o
                                                                        3  o x x o
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch


def chunks_of(rank: int, size: int) -> tuple[int, int]:
    """The two of 2 * size chunks of a sequence that a rank holds."""
    return rank, 2 * size - 1 - rank


def in_order(x: torch.Tensor, dim: int, size: int) -> torch.Tensor:
    """The parts of rank 0, 1, ... one after the other -> the whole sequence."""
    chunks = x.chunk(2 * size, dim)
    return torch.cat([*chunks[::2], *chunks[1::2][::-1]], dim)


def by_rank(x: torch.Tensor, dim: int, size: int) -> torch.Tensor:
    """The reverse of `in_order`."""
    chunks = x.chunk(2 * size, dim)
    return torch.cat([chunks[i] for rank in range(size) for i in chunks_of(rank, size)], dim)


@dataclass(frozen=True)
class Block:
    """Queries and keys of which the mask is one that `ops.attention` knows.

    Attributes:
        queries, keys: rows of the parts that two ranks hold.
        causal: the last query sees the last key; otherwise all see all.
        reverse: that holds when both are read from their ends.
        documents: where the documents inside start, and the end; None: one.
    """

    queries: slice
    keys: slice
    causal: bool = False
    reverse: bool = False
    window: int | None = None
    documents: tuple[int, ...] | None = None


def blocks(
    rank: int, source: int, size: int, length: int, window: int | None, ends: Sequence[int]
) -> Iterator[Block]:
    """What the queries of `rank` see of the keys of `source`, chunks of `length` tokens each.

    Args:
        ends: from 0, the ends of the documents in the whole sequence.
    """
    for i, chunk in enumerate(chunks_of(rank, size)):
        for j, other in enumerate(chunks_of(source, size)):
            if chunk == other:
                yield _diagonal(chunk, i, length, window, ends)
            elif chunk > other:
                yield from _before(chunk, i, other, j, length, window, ends)


def _diagonal(chunk: int, i: int, length: int, window: int | None, ends: Sequence[int]) -> Block:
    """A chunk, the i-th of its rank, and itself."""
    first = chunk * length
    inside = [end - first for end in ends if first < end < first + length]
    rows = slice(i * length, (i + 1) * length)
    documents = (0, *inside, length) if inside else None
    return Block(rows, rows, causal=True, window=window, documents=documents)


def _before(
    chunk: int,
    i: int,
    other: int,
    j: int,
    length: int,
    window: int | None,
    ends: Sequence[int],
) -> Iterator[Block]:
    """A chunk and an earlier one: of one document alone can both have tokens. A window cuts off
    the first keys, for the last queries more of them: seen from the ends a causal mask."""
    document = bisect.bisect_left(ends, (other + 1) * length)  # of the earlier one's last token
    first, end = chunk * length, min(ends[document], (chunk + 1) * length)
    first_key, end_key = max(ends[document - 1], other * length), (other + 1) * length
    if window is None:
        see_all = see_any = end
    else:
        see_all = min(max(first_key + window, first), end)
        see_any = min(end_key - 1 + window, end)
    to_row, to_key = (i - chunk) * length, (j - other) * length  # from positions

    def rows(start: int, end: int, shift: int) -> slice:
        return slice(start + shift, end + shift)

    if see_all > first:
        yield Block(rows(first, see_all, to_row), rows(first_key, end_key, to_key))
    if window is not None and see_any > see_all:
        keys = rows(see_all - window + 1, end_key, to_key)
        yield Block(rows(see_all, see_any, to_row), keys, causal=True, reverse=True)
