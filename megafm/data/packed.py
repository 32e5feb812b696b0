"""Whole documents packed into rows as training samples: no document is cut that fits in one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megafm.data.index import native
from megafm.data.samples import Batch, rows_of_epochs
from megafm.data.token_formats import Headerless, open_tokens


class PackedDocuments:
    """The documents of a shard, packed into rows of seq_len tokens by best-fit-decreasing.

    A document of n tokens has n - 1 of them with a target, the token after it. Longer ones are cut
    into pieces of seq_len, which share no target. Tokens see those of their own piece alone; what
    is left of a row is padding. Sample i is a pure function of (seed, i), as of `TokenWindows`.
    Source: Ding et al., Fewer Truncations Improve Language Modeling (2024), section 3.

    Memory: about 40 bytes a document.

    Attributes:
        waste: the share of padding.

    Raises:
        ValueError: no document has a token with a target.
    """

    def __init__(
        self,
        prefix: str | Path,
        seq_len: int,
        seed: int = 0,
        headerless: Headerless | None = None,
    ) -> None:
        self.dataset = open_tokens(prefix, headerless)
        self.seq_len = seq_len
        self.seed = seed
        edges = self.dataset.document_edges
        starts, lengths = cut(edges[:-1], np.diff(edges) - 1, seq_len)
        if len(starts) == 0:
            raise ValueError(
                f"{self.dataset.path}: no document of two tokens or more to pack; add "
                "documents, or set data.packing=stream"
            )
        order, self._ends = native().pack(lengths, seq_len)
        self._starts, self._lengths = starts[order], lengths[order]
        self.rows_per_epoch = len(self._ends) - 1
        places = self.rows_per_epoch * seq_len
        num_tokens = int(lengths.sum())
        self.waste = (places - num_tokens) / places
        self.attended_len = float(np.square(lengths, dtype=np.float64).sum()) / num_tokens

    def batch(self, first: int, count: int) -> Batch:
        rows = rows_of_epochs(first, count, self.rows_per_epoch, self.seed)
        begins, counts = self._ends[rows], self._ends[rows + 1] - self._ends[rows]
        ends = np.concatenate(([0], np.cumsum(counts)))
        pieces = np.arange(ends[-1]) + np.repeat(begins - ends[:-1], counts)
        lengths = self._lengths[pieces]
        tokens, starts = self.dataset.gather(self._starts[pieces], lengths + 1)
        return Batch(*native().gather_rows(tokens, starts, lengths, ends, self.seq_len))

    def epochs(self, num_samples: int) -> str:
        return f"{num_samples / self.rows_per_epoch:.2f} epochs, {self.waste:.2%} padding"


def cut(starts: np.ndarray, lengths: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts and lengths (int64) of pieces of at most `most`; those without length are left out."""
    num_pieces = -(-np.maximum(lengths, 0) // most)
    document = np.repeat(np.arange(len(lengths)), num_pieces)
    number = np.arange(len(document)) - np.repeat(np.cumsum(num_pieces) - num_pieces, num_pieces)
    pieces = np.minimum(lengths[document] - number * most, most)
    return starts[document] + number * most, pieces
