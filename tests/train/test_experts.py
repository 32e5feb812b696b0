"""A mixture of experts through the whole job: expert parallel, then resumed by one rank."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from megafm.model import MoeConfig
from megafm.parallel.mesh import ParallelConfig
from megafm.train.loop import train
from megafm.train.metrics import read_metrics
from tests.corpus import train_job
from tests.ranks import RankPool
from tests.train.test_loop import with_train

MOE = MoeConfig(
    num_experts=4, num_experts_per_token=2, ffn_dim=32, aux_loss=0.01, bias_update_rate=0.01
)
EP2 = ParallelConfig(dp_replicate=1, dp_shard=2, ep=2)


def test_a_run_that_one_rank_resumes_goes_on_as_if_it_had_made_all_of_it(
    corpus: Path, tmp_path: Path, ranks: RankPool
) -> None:
    job = train_job(corpus, tmp_path / "one")
    job = dataclasses.replace(job, model=dataclasses.replace(job.model, moe=MOE))
    train(job)
    there = dataclasses.replace(job, run=dataclasses.replace(job.run, dir=str(tmp_path / "many")))
    ranks.run(train, 2, dataclasses.replace(with_train(there, steps=3), parallel=EP2))
    train(there)
    one, many = read_metrics(tmp_path / "one"), read_metrics(tmp_path / "many")
    for name in ("loss", "grad_norm", "expert_load", "val_loss"):
        values = [line[name] for line in one if name in line]
        assert [line[name] for line in many if name in line] == pytest.approx(values, rel=1e-5)
    assert all(1 <= line["expert_load"] <= 2 for line in one if "loss" in line)


def test_expert_parallel_trains_in_bf16(corpus: Path, tmp_path: Path, ranks: RankPool) -> None:
    job = train_job(corpus, tmp_path / "run")
    job = dataclasses.replace(job, model=dataclasses.replace(job.model, moe=MOE), parallel=EP2)
    ranks.run(train, 2, with_train(job, precision="bf16", steps=12))
    losses = [line["loss"] for line in read_metrics(tmp_path / "run") if "loss" in line]
    assert losses[-1] < losses[0]
