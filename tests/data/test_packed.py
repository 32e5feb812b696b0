"""Packed rows: every token with a target once an epoch, no document beside another."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megafm.data import NO_TARGET, IndexedDatasetWriter
from megafm.data.packed import PackedDocuments, cut


def write(prefix: Path, lengths: list[int]) -> list[list[int]]:
    """Documents of ids 1, 2, 3 ... through all of them."""
    ends = np.cumsum([0, *lengths])
    documents = [list(range(a + 1, b + 1)) for a, b in pairwise(ends)]
    with IndexedDatasetWriter(prefix, np.int32) as writer:
        for ids in documents:
            writer.add_document(ids)
    return documents


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 24))
def test_an_epoch_has_every_pair_of_neighbours_of_a_document_once(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], seq_len: int
) -> None:
    prefix = tmp_path_factory.mktemp("shard") / "train"
    documents = write(prefix, lengths)
    pairs = [pair for ids in documents for pair in pairwise(ids)]
    if not pairs:
        with pytest.raises(ValueError, match=r"train.bin: no document .* set data.packing=stream"):
            PackedDocuments(prefix, seq_len)
        return
    packed = PackedDocuments(prefix, seq_len, seed=1)
    batch = packed.batch(3 * packed.rows_per_epoch, packed.rows_per_epoch)
    assert batch.tokens.shape == batch.targets.shape == batch.starts.shape
    valid = batch.targets != NO_TARGET
    found = zip(batch.tokens[valid].tolist(), batch.targets[valid].tolist(), strict=True)
    assert sorted(found) == pairs
    assert packed.waste == pytest.approx(1 - valid.mean())
    check_starts(batch, documents)


def check_starts(batch, documents: list[list[int]]) -> None:
    """Between two starts stands a run of one document, or padding, and each row has its own."""
    document_of = {token: i for i, ids in enumerate(documents) for token in ids}
    for tokens, targets, starts in zip(batch.tokens, batch.targets, batch.starts, strict=True):
        assert starts[0]
        for part in np.split(np.arange(len(tokens)), np.flatnonzero(starts)[1:]):
            if targets[part[0]] == NO_TARGET:
                assert (targets[part] == NO_TARGET).all() and part[-1] == len(tokens) - 1
            else:
                assert (np.diff(tokens[part]) == 1).all()
                assert len({document_of[token] for token in tokens[part].tolist()}) == 1


def test_a_document_that_fits_is_not_cut(tmp_path: Path) -> None:
    write(tmp_path / "train", [9, 5, 5, 3, 2])
    packed = PackedDocuments(tmp_path / "train", seq_len=8)
    batch = packed.batch(0, packed.rows_per_epoch)
    assert packed.rows_per_epoch == 3  # 8; 4 and 4; 2 and 1
    edges = [*np.flatnonzero(batch.starts.ravel()).tolist(), batch.starts.size]
    assert sorted(np.diff(edges).tolist()) == [1, 2, 4, 4, 5, 8]  # five of padding
    assert packed.waste == 5 / 24
    assert packed.attended_len == pytest.approx((64 + 16 + 16 + 4 + 1) / 19)  # of 8, 4, 4, 2, 1
    assert packed.epochs(6) == "2.00 epochs, 20.83% padding"


def test_samples_do_not_depend_on_how_they_are_cut_into_batches(tmp_path: Path) -> None:
    write(tmp_path / "train", [7, 30, 2, 11, 4, 4, 19])
    packed = PackedDocuments(tmp_path / "train", seq_len=10, seed=5)
    whole = packed.batch(2, 40)
    parts = [packed.batch(first, 8) for first in range(2, 42, 8)]
    for name in ("tokens", "targets", "starts"):
        assert (np.concatenate([getattr(p, name) for p in parts]) == getattr(whole, name)).all()


def test_pieces_of_a_trillion_tokens_do_not_overflow() -> None:
    lengths = np.array([10**12, 0, 5, -1, 3 * 10**11], np.int64)
    starts = np.cumsum([0, *lengths[:-1] + 1], dtype=np.int64)
    found, pieces = cut(starts, lengths, 2**19)
    assert pieces.sum() == 10**12 + 5 + 3 * 10**11
    assert pieces.max() == 2**19 and pieces.min() == 5
    assert len(pieces) == -(-(10**12) // 2**19) + 1 + -(-3 * 10**11 // 2**19)
    assert found[-1] + pieces[-1] == starts[-1] + 3 * 10**11
