"""Ranks that would train different models into one, or save to different disks, do not start."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from megafm import checkpoint, errors
from megafm.parallel import world
from megafm.train.config import TrainJob
from megafm.train.loop import train
from megafm.train.run import open_run
from tests.corpus import train_job
from tests.ranks import RankPool

DIFFERENCES = {
    "settings": "settings differ from rank 0 to rank 1: optim.lr: 0.003 -> 0.01; start every host",
    "folders": "not the same folder on rank 0 and rank 1; set run.dir to a folder that all",
    "checkpoints": "rank 0 finds ('step_00000001'",
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_ranks_that_disagree_do_not_start(
    difference: str, corpus: Path, tmp_path: Path, ranks: RankPool
) -> None:
    job = train_job(corpus, tmp_path)
    if difference == "checkpoints":
        train(dataclasses.replace(job, train=dataclasses.replace(job.train, steps=1)))
    ends = set(ranks.run(how_it_ends, 2, job, difference))
    (message,) = ends - {"SystemExit: 1"}  # one rank says it, maybe both before they hear of it
    assert message.startswith("ValueError") and DIFFERENCES[difference] in message


def how_it_ends(job: TrainJob, difference: str) -> str:
    errors.QUIET_S = 0.0
    latest = checkpoint.latest
    if world.rank() == 1:
        if difference == "settings":
            job = dataclasses.replace(job, optim=dataclasses.replace(job.optim, lr=1e-2))
        if difference == "checkpoints":
            checkpoint.latest = lambda run_dir: None
    if difference == "folders":
        own = f"{job.run.dir}/host{world.rank()}"
        job = dataclasses.replace(job, run=dataclasses.replace(job.run, dir=own))
    try:
        with open_run(job):
            return "not at all"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        checkpoint.latest = latest
