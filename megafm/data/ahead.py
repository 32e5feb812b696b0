"""The next batch is made while this one is in use, so that a step does not wait for its data."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from megafm.data.samples import Batch, Samples


class Ahead:
    """Samples of another kind, one batch ahead.

    Samples are a pure function of their index, so that what is made ahead is only a guess of what
    is asked for next: as far from this batch as this one from the last. A wrong guess costs time,
    never a sample. Memory: one batch more.
    """

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.seq_len = samples.seq_len
        self.attended_len = samples.attended_len
        self._pool: ThreadPoolExecutor | None = None  # a thread lives from the first batch on
        self._last: int | None = None
        self._guess: tuple[int, int, Future[Batch]] | None = None

    def batch(self, first: int, count: int) -> Batch:
        if self._guess is not None and self._guess[:2] == (first, count):
            batch = self._guess[2].result()
        else:
            batch = self.samples.batch(first, count)
        stride = count if self._last is None else first - self._last
        self._last = first
        self._pool = self._pool or ThreadPoolExecutor(1, "megafm-data")
        after = max(0, first + stride)
        self._guess = after, count, self._pool.submit(self.samples.batch, after, count)
        return batch

    def epochs(self, num_samples: int) -> str:
        return self.samples.epochs(num_samples)
