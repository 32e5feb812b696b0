"""Readers of real processes, killed and started again in another number: no token is lost, none is
seen twice."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from pathlib import Path

import numpy as np
import pytest

from megafm.data import NO_TARGET, IndexedDatasetWriter, TokenWindows
from megafm.data.ahead import Ahead
from megafm.data.packed import PackedDocuments

SEQ_LEN = 12
PER_RANK = 2
KINDS = {"stream": TokenWindows, "best_fit": PackedDocuments}


def read(prefix: Path, kind: str, start: int, rank: int, world_size: int, log: Path) -> None:
    """Append what a rank reads, a line of tokens for each sample, until it is killed or done."""
    samples = KINDS[kind](prefix, SEQ_LEN, 5)
    ahead = Ahead(samples)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    first = start + rank * PER_RANK
    while first < num_samples(samples) + world_size * PER_RANK:
        batch = ahead.batch(first, PER_RANK)
        os.write(out, np.where(batch.targets == NO_TARGET, -1, batch.tokens).tobytes())
        first += world_size * PER_RANK
        time.sleep(0.001)  # a step


def num_samples(samples: TokenWindows | PackedDocuments) -> int:
    if isinstance(samples, TokenWindows):
        return samples.windows_per_epoch
    return samples.rows_per_epoch


@pytest.mark.parametrize("kind", KINDS)
def test_no_token_is_lost_and_none_seen_twice(tmp_path: Path, kind: str) -> None:
    rng = random.Random(kind)
    prefix = tmp_path / "train"
    lengths = [rng.randint(1, 40) for _ in range(250)]
    with IndexedDatasetWriter(prefix, np.int32) as writer:
        for ids in np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1]):
            writer.add_document(ids)
    total = num_samples(KINDS[kind](prefix, SEQ_LEN, 5))
    start, seen = 0, []
    worlds = [3, 1, 4, 2]
    for number, world_size in enumerate(worlds):
        last = number == len(worlds) - 1
        rows = killed_run(tmp_path, kind, start, world_size, None if last else rng)
        # What a checkpoint would hold: the steps that every rank finished, one integer.
        steps = min(len(one) for one in rows) // PER_RANK
        order = [one[: steps * PER_RANK].reshape(steps, PER_RANK, SEQ_LEN) for one in rows]
        seen.append(np.stack(order, axis=1).reshape(-1, SEQ_LEN))
        assert len(seen[-1]) > 0 and (last or start + len(seen[-1]) < total)
        start += len(seen[-1])
    tokens = np.concatenate(seen)[:total]
    assert len(tokens) == total
    tokens = tokens[tokens >= 0]
    if kind == "stream":
        wanted = np.arange(total * SEQ_LEN)
    else:  # the last token of a document is only a target
        edges = np.cumsum(lengths)
        wanted = np.setdiff1d(np.arange(edges[-1]), edges - 1)
    assert (np.sort(tokens) == wanted).all()


def killed_run(
    tmp_path: Path, kind: str, start: int, world_size: int, rng: random.Random | None
) -> list[np.ndarray]:
    """The whole rows that each rank wrote: of a run that is killed at a random moment if `rng`."""
    fork = multiprocessing.get_context("fork")
    logs = [tmp_path / f"{start}_{rank}" for rank in range(world_size)]
    ranks = [
        fork.Process(target=read, args=(tmp_path / "train", kind, start, rank, world_size, log))
        for rank, log in enumerate(logs)
    ]
    for process in ranks:
        process.start()
    if rng is not None:
        while not all(log.exists() and log.stat().st_size for log in logs):
            time.sleep(0.002)
        time.sleep(rng.random() * 0.03)
        for process in ranks:
            process.kill()  # by SIGKILL; one may have come to its end
    for process in ranks:
        process.join()
    row = 8 * SEQ_LEN
    whole = [log.read_bytes() for log in logs]
    return [
        np.frombuffer(data[: len(data) // row * row], np.int64).reshape(-1, SEQ_LEN)
        for data in whole
    ]
