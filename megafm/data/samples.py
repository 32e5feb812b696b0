"""Training samples: what every order of them gives to the loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from megafm.data.permutation import permute

NO_TARGET = -100  # what model.loss passes over


@dataclass(frozen=True)
class Batch:
    """Samples, a row each.

    Attributes:
        tokens, targets: int64 (count, seq_len); the targets of padding are NO_TARGET.
        starts: bool (count, seq_len), where a document starts whose tokens see each other alone;
            None where a token sees all that stand before it in its row.
    """

    tokens: np.ndarray
    targets: np.ndarray
    starts: np.ndarray | None = None

    def rows(self, order: np.ndarray) -> Batch:
        """Those that int64 `order` names."""
        starts = None if self.starts is None else self.starts[order]
        return Batch(self.tokens[order], self.targets[order], starts)


def concatenate(batches: Sequence[Batch]) -> Batch:
    """The rows of all, of one kind."""
    starts = [one.starts for one in batches if one.starts is not None]
    return Batch(
        np.concatenate([one.tokens for one in batches]),
        np.concatenate([one.targets for one in batches]),
        np.concatenate(starts) if starts else None,
    )


class Samples(Protocol):
    """An endless sequence of samples, each a pure function of a seed and its index.

    Attributes:
        attended_len: of the sequence that a token's attention is kept to, the mean over tokens.
    """

    seq_len: int
    attended_len: float

    def batch(self, first: int, count: int) -> Batch:
        """Samples first .. first + count - 1."""

    def epochs(self, num_samples: int) -> str:
        """How often the first `num_samples` go through the data, for people."""


def rows_of_epochs(first: int, count: int, num_rows: int, seed: int) -> np.ndarray:
    """The rows of samples first .. first + count - 1, int64 (count,): each epoch goes through all
    rows in an order of its own."""
    epoch, row = np.divmod(np.arange(first, first + count, dtype=np.int64), num_rows)
    return permute(row, num_rows, seed, epoch)
