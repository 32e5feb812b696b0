"""Blends: shares exact to a sample at any index, and each source in its own order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megafm.data import Batch, TrainingData, training_samples
from megafm.data.blend import MAX_PARTS, Blend, parts
from megafm.data.config import BlendPart
from megafm.data.packed import PackedDocuments
from megafm.data.windows import TokenWindows
from tests.data.test_packed import write


@dataclass
class Numbered:
    """Sample i of source s is the tokens s, i."""

    number: int
    seq_len: int = 2
    attended_len: float = 2

    def batch(self, first: int, count: int) -> Batch:
        sample = np.arange(first, first + count)
        tokens = np.stack([np.full(count, self.number), sample], axis=1)
        return Batch(tokens, tokens + 1)

    def epochs(self, num_samples: int) -> str:
        return f"{num_samples} samples"


def blend_of(weights: list[float]) -> Blend:
    return Blend([Numbered(i) for i in range(len(weights))], weights)


WEIGHTS = st.lists(st.integers(1, 60).map(lambda n: n / 100), min_size=2, max_size=6)


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, st.integers(0, 2**50))
def test_each_source_has_its_share_before_every_sample(weights: list[float], first: int) -> None:
    blend = blend_of(weights)
    source, sample = blend.places(first, 500)
    whole = parts(weights)
    for number, weight in enumerate(whole):
        own = source == number
        index = first + np.flatnonzero(own)  # of the blend; `sample` of the source came before it
        for i, count in zip(index.tolist(), sample[own].tolist(), strict=True):
            assert abs(count * sum(whole) - i * weight) < sum(whole)
        assert (np.diff(sample[own]) == 1).all()


def test_counts_are_exact_where_32_bit_floats_lose_one() -> None:
    blend = blend_of([0.45, 0.35, 0.2])
    for total in (400_000_000, 2**24 + 20, 10**13):
        source, sample = blend.places(total - 20, 20)
        ends = {number: int(sample[source == number].max()) + 1 for number in range(3)}
        shares = [total * part / 20 for part in (9, 7, 4)]
        assert all(abs(ends[n] - share) < 1 for n, share in enumerate(shares))
        assert sum(ends.values()) == total


def test_the_rows_of_a_batch_are_those_of_the_sources() -> None:
    blend = blend_of([0.5, 0.3, 0.2])
    source, sample = blend.places(7, 100)
    batch = blend.batch(7, 100)
    assert (batch.tokens == np.stack([source, sample], axis=1)).all()
    assert (batch.targets == batch.tokens + 1).all()
    assert batch.starts is None
    parted = [blend.batch(first, 10).tokens for first in range(7, 107, 10)]
    assert (np.concatenate(parted) == batch.tokens).all()
    assert blend.epochs(100) == "50.00% of samples, 50 samples; 30.00% of samples, 30 samples; " + (
        "20.00% of samples, 20 samples"
    )


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([0.1, 0.2], [1, 2]), ([45, 20, 10], [9, 4, 2]), ([1e-6, 0.999999], [1, 999_999]), ([3], [1])],
)
def test_weights_are_taken_as_the_decimals_they_show(weights, expected) -> None:
    assert parts(weights) == expected


def test_weights_of_too_many_digits_are_refused() -> None:
    with pytest.raises(ValueError, match=f"parts, more than {MAX_PARTS}; set shares of 1"):
        parts([1 / 3, 0.5])
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"data.blend: weight={weight} of web: must be"):
            BlendPart("web", weight)


def test_training_samples_are_of_the_kind_and_blend_that_is_set(tmp_path: Path) -> None:
    for name in ("web", "code"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "train", [40, 9, 17])
    web, code = str(tmp_path / "web"), str(tmp_path / "code")
    assert isinstance(training_samples(TrainingData(web), 8, 1), TokenWindows)
    packed = training_samples(TrainingData(web, packing="best_fit"), 8, 1)
    assert isinstance(packed, PackedDocuments)
    data = TrainingData(web, (BlendPart(web, 3), BlendPart(code, 1)), packing="best_fit")
    blend = training_samples(data, 8, 1)
    assert isinstance(blend, Blend)
    batch, source = blend.batch(0, 8), blend.places(0, 8)[0]
    assert (batch.tokens[source == 0] == packed.batch(0, 6).tokens).all()
    assert (batch.starts[source == 0] == packed.batch(0, 6).starts).all()
