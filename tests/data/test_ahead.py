from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

from megafm.data.ahead import Ahead
from megafm.data.samples import Batch


@dataclass
class Recorded:
    """Sample i is its number; says which batches were made, and in which thread."""

    seq_len: int = 1
    attended_len: float = 1
    made: list[tuple[int, int, bool]] = field(default_factory=list)

    def batch(self, first: int, count: int) -> Batch:
        here = threading.current_thread() is threading.main_thread()
        self.made.append((first, count, here))
        if first >= 1000:
            raise OSError("the disk is gone")
        tokens = np.arange(first, first + count)[:, None]
        return Batch(tokens, tokens + 1)

    def epochs(self, num_samples: int) -> str:
        return f"{num_samples}"


def test_batches_are_the_same_whatever_is_asked_for() -> None:
    samples = Ahead(Recorded())
    for first, count in [(0, 4), (16, 4), (32, 4), (48, 4), (7, 2), (3, 2), (0, 2), (900, 8)]:
        assert samples.batch(first, count).tokens.ravel().tolist() == [*range(first, first + count)]
    assert samples.epochs(3) == "3" and samples.seq_len == 1


def test_from_the_third_batch_on_another_thread_made_it_before() -> None:
    inner = Recorded()
    samples = Ahead(inner)
    for first in range(0, 160, 16):  # a share of 4 of global batches of 16
        samples.batch(first, 4)
    own = [first for first, _, here in inner.made if here]
    assert own == [0, 16]


def test_what_fails_ahead_fails_where_it_is_asked_for() -> None:
    samples = Ahead(Recorded())
    for first in (600, 800):
        samples.batch(first, 2)
    with pytest.raises(OSError, match="the disk is gone"):
        samples.batch(1000, 2)
