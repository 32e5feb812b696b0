"""Readers of real processes, killed and started again in another number: no token is lost, none is
seen twice."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from megafm.data import NO_TARGET, Batch, IndexedDatasetWriter, Samples, TokenWindows
from megafm.data.ahead import Ahead
from megafm.data.blend import Blend
from megafm.data.curriculum import Curriculum, CurriculumStage
from megafm.data.packed import PackedDocuments

SEQ_LEN = 12
PER_RANK = 2
KINDS = {"stream": TokenWindows, "best_fit": PackedDocuments}


def opened(folder: Path, kind: str, how: str) -> tuple[Samples, int]:
    """The samples of a run, and how many of them are one epoch of each folder that it reads."""
    web, code = (KINDS[kind](folder / name, SEQ_LEN, 5) for name in ("web", "code"))
    num_web, num_code = num_samples(web), num_samples(code)
    if how == "alone":
        return web, num_web
    if how == "blend":
        return Blend([web, code], [num_web, num_code]), num_web + num_code
    first = num_web // 3
    last: dict[str, float] = {"web": num_web - first, "code": num_code}
    stages = (
        CurriculumStage("main", {"web": 1}, first),
        CurriculumStage("anneal", last, num_web - first + num_code),
    )
    return Curriculum({"web": web, "code": code}, stages), num_web + num_code


def read(
    folder: Path, kind: str, how: str, start: int, rank: int, world_size: int, log: Path
) -> None:
    """Append what a rank reads, a line of tokens for each sample, until it is killed or done."""
    samples, total = opened(folder, kind, how)
    ahead = Ahead(samples)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    first = start + rank * PER_RANK
    while first < total + world_size * PER_RANK:
        batch = ahead.batch(first, PER_RANK)
        os.write(out, shown(batch).tobytes())
        first += world_size * PER_RANK
        time.sleep(0.001)  # a step


def num_samples(samples: TokenWindows | PackedDocuments) -> int:
    if isinstance(samples, TokenWindows):
        return samples.windows_per_epoch
    return samples.rows_per_epoch


@pytest.mark.parametrize("how", ["alone", "blend", "curriculum"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_token_is_lost_and_none_seen_twice(tmp_path: Path, kind: str, how: str) -> None:
    rng = random.Random(f"{kind} {how}")
    web = write(tmp_path / "web", 0, [rng.randint(1, 40) for _ in range(250)])
    code = write(tmp_path / "code", int(web[-1]), [rng.randint(1, 40) for _ in range(150)])
    samples, total = opened(tmp_path, kind, how)
    start, seen = 0, []
    worlds = [3, 1, 4, 2]
    for number, world_size in enumerate(worlds):
        last = number == len(worlds) - 1
        rows = killed_run(tmp_path, kind, how, start, world_size, None if last else rng)
        # What a checkpoint would hold: the steps that every rank finished, one integer.
        steps = min(len(one) for one in rows) // PER_RANK
        order = [one[: steps * PER_RANK].reshape(steps, PER_RANK, SEQ_LEN) for one in rows]
        seen.append(np.stack(order, axis=1).reshape(-1, SEQ_LEN))
        assert len(seen[-1]) > 0 and (last or start + len(seen[-1]) < total)
        start += len(seen[-1])
    tokens = np.concatenate(seen)[:total]
    assert np.array_equal(tokens, shown(samples.batch(0, total)))
    wanted = [held(edges, kind) for edges in ((web,) if how == "alone" else (web, code))]
    assert np.array_equal(np.sort(tokens[tokens >= 0]), np.concatenate(wanted))


def write(prefix: Path, first: int, lengths: list[int]) -> np.ndarray:
    """Documents of the ids first, first + 1, ...; returns where each begins and the last ends."""
    edges = first + np.cumsum([0, *lengths])
    with IndexedDatasetWriter(prefix, np.int32) as writer:
        for begin, end in pairwise(edges.tolist()):
            writer.add_document(np.arange(begin, end))
    return edges


def held(edges: np.ndarray, kind: str) -> np.ndarray:
    """The tokens of an epoch: as a stream those of whole windows, whose targets are one further;
    packed all but the last of each document, which is only a target."""
    if kind == "stream":
        return np.arange(edges[0], edges[0] + (edges[-1] - edges[0] - 1) // SEQ_LEN * SEQ_LEN)
    return np.setdiff1d(np.arange(edges[0], edges[-1]), edges[1:] - 1)


def shown(batch: Batch) -> np.ndarray:
    """The tokens, and -1 where none is trained on."""
    return np.where(batch.targets == NO_TARGET, -1, batch.tokens)


def killed_run(
    tmp_path: Path, kind: str, how: str, start: int, world_size: int, rng: random.Random | None
) -> list[np.ndarray]:
    """The whole rows that each rank wrote: of a run that is killed at a random moment if `rng`."""
    fork = multiprocessing.get_context("fork")
    logs = [tmp_path / f"{start}_{rank}" for rank in range(world_size)]
    ranks = [
        fork.Process(target=read, args=(tmp_path, kind, how, start, rank, world_size, log))
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
