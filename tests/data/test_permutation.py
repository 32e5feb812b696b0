from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megafm.data.permutation import permute


def order(size: int, seed: int, epoch: int) -> np.ndarray:
    return permute(np.arange(size), size, seed, np.full(size, epoch))


@settings(max_examples=150, deadline=None)
@given(size=st.integers(1, 5000), seed=st.integers(0, 2**63), epoch=st.integers(0, 10**6))
def test_every_epoch_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    assert sorted(order(size, seed, epoch)) == list(range(size))


def test_seeds_and_epochs_give_unrelated_orders() -> None:
    size = 4096
    base = order(size, 1, 0)
    for other in (order(size, 2, 0), order(size, 1, 1), np.arange(size)):
        assert (base == other).sum() < 12  # one is expected of two random orders
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.08


@pytest.mark.parametrize("size", [1000, 4096, 70_000])
def test_neighbours_are_scattered(size: int) -> None:
    steps = np.abs(np.diff(order(size, 7, 3)))
    assert abs(steps.mean() / size - 1 / 3) < 0.03  # the mean distance of two random points


def test_the_order_is_the_same_on_every_machine_and_in_every_release() -> None:
    assert order(10, 1234, 0).tolist() == [1, 0, 2, 7, 3, 8, 5, 4, 9, 6]


def test_a_range_beyond_32_bits() -> None:
    size = 3 * 2**40
    index = np.arange(size - 1000, size)
    result = permute(index, size, 1, np.zeros_like(index))
    assert ((result >= 0) & (result < size)).all()
    assert len(np.unique(result)) == 1000
