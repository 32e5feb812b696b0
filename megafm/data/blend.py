"""Several sources of samples in given proportions, exact to a sample at every point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from megafm.data.index import native
from megafm.data.samples import Batch, Samples, concatenate

MAX_PARTS = 2**24  # a table of eight bytes each


class Blend:
    """Samples of several sources: of the first n, each source gives its share of n to within one.

    The order repeats after as many samples as the weights have parts (0.45, 0.35 and 0.2 have 20),
    so that sample i is found without those before it. A source gives its samples in its own order.

    Args:
        sources: of one kind, and one seq_len.
        weights: positive, of any sum; as decimal numbers they are taken exactly.
        before: how many samples of each source others have taken; none by default.

    Raises:
        ValueError: the weights have more than MAX_PARTS parts.
    """

    def __init__(
        self,
        sources: Sequence[Samples],
        weights: Sequence[float],
        before: Sequence[int] | None = None,
    ) -> None:
        self.sources = sources
        self._before = np.array(before or [0] * len(sources), np.int64)
        self.seq_len = sources[0].seq_len
        self.parts = parts(weights)
        lengths = [source.attended_len for source in sources]
        self.attended_len = float(np.average(lengths, weights=self.parts))
        self._source = native().blend(self.parts)
        self._number = np.empty(len(self._source), np.int32)  # of those of its source
        for number, count in enumerate(self.parts):
            self._number[self._source == number] = np.arange(count)

    def places(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """For samples first .. first + count - 1 the source, and which of its samples: int64."""
        cycle, place = np.divmod(np.arange(first, first + count, dtype=np.int64), len(self._source))
        source = self._source[place].astype(np.int64)
        sample = cycle * np.array(self.parts, np.int64)[source] + self._number[place]
        return source, self._before[source] + sample

    def counts(self, num_samples: int) -> list[int]:
        """How many of the first `num_samples` each source gives."""
        cycles, rest = divmod(num_samples, len(self._source))
        of_rest = np.bincount(self._source[:rest], minlength=len(self.parts))
        return [cycles * part + int(n) for part, n in zip(self.parts, of_rest, strict=True)]

    def batch(self, first: int, count: int) -> Batch:
        source, sample = self.places(first, count)
        rows = [np.flatnonzero(source == number) for number in range(len(self.sources))]
        # The samples of a source follow each other.
        batches = [
            one.batch(int(sample[where[0]]), len(where))
            for one, where in zip(self.sources, rows, strict=True)
            if len(where)
        ]
        order = np.argsort(np.concatenate(rows))
        return concatenate(batches).rows(order)

    def epochs(self, num_samples: int) -> str:
        each = (
            f"{part / sum(self.parts):.2%} of samples, {source.epochs(count)}"
            for source, part, count in zip(
                self.sources, self.parts, self.counts(num_samples), strict=True
            )
        )
        return "; ".join(each)


def parts(weights: Sequence[float]) -> list[int]:
    """The smallest integers in the proportions of the weights, taken as the decimals they show."""
    exact = [Fraction(str(weight)) for weight in weights]
    scale = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * scale) for weight in exact]
    divisor = math.gcd(*whole)
    if sum(whole) // divisor > MAX_PARTS:
        raise ValueError(
            f"data.blend: weights {list(weights)} have {sum(whole) // divisor} parts, more than "
            f"{MAX_PARTS}; set shares of 1 with at most six decimals"
        )
    return [weight // divisor for weight in whole]
