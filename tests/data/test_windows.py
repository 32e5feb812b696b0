from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megafm.data import IndexedDatasetWriter, TokenWindows


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens 0, 1, 2 ... 1002 in documents of uneven length."""
    prefix = tmp_path_factory.mktemp("shard") / "train"
    with IndexedDatasetWriter(prefix, np.uint16) as writer:
        for ids in np.split(np.arange(1003), [1, 60, 61, 700]):
            writer.add_document(ids)
    return prefix


def test_windows_overlap_by_the_token_that_is_target_and_input(shard: Path) -> None:
    windows = TokenWindows(shard, seq_len=10, shuffle=False)
    assert windows.windows_per_epoch == 100
    batch = windows.batch(0, 100)
    assert batch.tokens.dtype == batch.targets.dtype == np.int64
    assert batch.tokens.shape == batch.targets.shape == (100, 10)
    assert (batch.targets.ravel() == np.arange(1, 1001)).all()
    assert (batch.tokens.ravel() == np.arange(1000)).all()
    assert batch.starts is None


def test_targets_can_be_masked_without_touching_the_tokens(shard: Path) -> None:
    batch = TokenWindows(shard, seq_len=10).batch(0, 1)
    assert not np.shares_memory(batch.tokens, batch.targets)


def test_an_epoch_sees_every_window_once_and_the_next_in_another_order(shard: Path) -> None:
    windows = TokenWindows(shard, seq_len=7, seed=3)
    n = windows.windows_per_epoch
    first, second = windows.batch(0, n).tokens, windows.batch(n, n).tokens
    assert sorted(first[:, 0]) == sorted(second[:, 0]) == list(range(0, 7 * n, 7))
    assert (first[:, 0] != second[:, 0]).mean() > 0.9


@settings(max_examples=60, deadline=None)
@given(first=st.integers(0, 10**9), cuts=st.lists(st.integers(0, 300), max_size=5))
def test_samples_do_not_depend_on_how_they_are_cut_into_batches(
    shard: Path, first: int, cuts: list[int]
) -> None:
    windows = TokenWindows(shard, seq_len=9, seed=1)
    edges = [0, *sorted(cuts), 300]
    parts = [windows.batch(first + a, b - a).tokens for a, b in pairwise(edges)]
    assert (np.concatenate(parts) == TokenWindows(shard, 9, 1).batch(first, 300).tokens).all()


def test_a_sequence_longer_than_the_data_names_a_value_that_works(shard: Path) -> None:
    message = "train.seq_len=1003: .*train.bin has 1003 tokens.*set train.seq_len=1002 or less"
    with pytest.raises(ValueError, match=message):
        TokenWindows(shard, seq_len=1003)
    assert TokenWindows(shard, seq_len=1002).batch(0, 2).tokens.shape == (2, 1002)


def test_a_shard_of_one_token_is_too_little(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "train", np.uint16) as writer:
        writer.add_document([1])
    with pytest.raises(ValueError, match="train.bin: 1 tokens, too few"):
        TokenWindows(tmp_path / "train", seq_len=1)
