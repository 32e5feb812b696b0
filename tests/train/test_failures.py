"""A rank that throws or stalls ends the job in time, and its own error comes first."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megafm import errors
from megafm.config import to_dict
from megafm.parallel.mesh import ParallelConfig
from megafm.train.config import TrainJob
from megafm.train.run import open_run
from tests.corpus import train_job
from tests.ranks import RankPool
from tests.train.test_stop import flattened

TIMEOUT_S = 15  # in which ranks also join: a busy machine starts them seconds apart


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        ("throw", "[rank1]: RuntimeError: a fault of rank 1"),
        ("stall", "megafm [rank 1]: error: stalled: other ranks waited 15 s"),
    ],
)
def test_the_failing_rank_speaks_and_the_others_end_quietly(
    failure: str, error: str, corpus: Path, tmp_path: Path
) -> None:
    job = train_job(corpus, tmp_path, parallel=ParallelConfig(timeout_s=TIMEOUT_S))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *torchrun, "-m", "tests.train.failing_rank"]
    environment = {**os.environ, "FAILURE": failure, "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    result = subprocess.run(
        [*command, *flattened(to_dict(job))],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment,
    )
    assert time.monotonic() - started < 120, "not the ten minutes of the stalled rank"
    assert result.returncode == 1
    ours, _, torchruns = result.stderr.partition("tests.train.failing_rank FAILED")
    assert error in ours, result.stderr
    if failure == "stall":
        assert "in read_slow_disk" in ours and "time.sleep(600)" in ours
    assert "rank0" not in ours and "rank 0" not in ours, result.stderr
    assert ours.index(error) < ours.index("ChildFailedError")
    assert "<NO_OTHER_FAILURES>" in torchruns, result.stderr
    cause = error.partition(": ")[2].removeprefix("error: ")
    assert cause in torchruns.rpartition("Root Cause")[2], result.stderr


def test_a_mistake_that_every_rank_makes_is_said_once(corpus: Path, tmp_path: Path) -> None:
    overrides = flattened(to_dict(train_job(corpus, tmp_path)))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *torchrun, "-m", "megafm.train", *overrides, "train.steps=0"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert result.stderr.count("error: train.steps=0: must be at least 1") == 1, result.stderr
    assert "<NO_OTHER_FAILURES>" in result.stderr


def test_of_ranks_that_find_the_same_mistake_one_says_it(
    corpus: Path, tmp_path: Path, ranks: RankPool
) -> None:
    job = train_job(corpus, tmp_path, parallel=ParallelConfig(dp_shard=3, dp_replicate=1))
    assert sorted(ranks.run(how_it_ends, 2, job)) == ["SystemExit", "ValueError"]


@pytest.mark.parametrize("parallel", [(2, 1, 3), (1, 2, 3), (1, 2, 1)], ids=str)
def test_every_group_of_ranks_waits_as_long_as_the_config_says(
    parallel: tuple[int, int, int], corpus: Path, tmp_path: Path, ranks: RankPool
) -> None:
    replicate, shard, zero = parallel
    layout = ParallelConfig(dp_replicate=replicate, dp_shard=shard, zero=zero, timeout_s=77)
    for timeouts in ranks.run(group_timeouts, 2, train_job(corpus, tmp_path, parallel=layout)):
        assert len(timeouts) > 1 and set(timeouts) == {77.0}


def group_timeouts(job: TrainJob) -> list[float]:
    with open_run(job):
        groups = list(dist.distributed_c10d._world.pg_map)
        backends = [group._get_backend(torch.device("cpu")) for group in groups]
        return [backend.options._timeout.total_seconds() for backend in backends]


def how_it_ends(job: TrainJob) -> str:
    errors.QUIET_S = 0.0
    try:
        with open_run(job):
            return "not at all"
    except BaseException as error:
        return type(error).__name__
