"""A checkpoint of any data-parallel layout is loaded by any other, bit for bit, and back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from megafm import checkpoint
from megafm.parallel.mesh import ParallelConfig
from megafm.train.config import TrainJob
from megafm.train.loop import train
from megafm.train.run import open_run
from tests.corpus import train_job
from tests.ranks import RankPool
from tests.train.test_loop import LAYOUTS, with_train


def state_and_copy(job: TrainJob, copy_dir: Path) -> dict[str, torch.Tensor]:
    """All that the run resumes with, whole; saved again, as this layout saves it, in copy_dir."""
    with open_run(job) as run:
        folder = checkpoint.latest(job.run.dir)
        assert folder is not None
        checkpoint.save(copy_dir, run.tensors(), checkpoint.CheckpointInfo.read(folder))
        return {name: whole(tensor) for name, tensor in run.tensors().items()}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()


@pytest.mark.parametrize("layout", ["zero1", "fsdp2"])
def test_state_saved_in_one_layout_is_the_same_in_every_other(
    layout: str, corpus: Path, tmp_path: Path, ranks: RankPool
) -> None:
    world_size, parallel = LAYOUTS[layout]
    job = with_train(train_job(corpus, tmp_path / "saved"), steps=3, eval_every=0)
    ranks.run(train, world_size, dataclasses.replace(job, parallel=parallel))
    expected = state_and_copy(dataclasses.replace(job, parallel=ParallelConfig()), tmp_path / "one")
    assert any(name.startswith("optimizer.exp_avg_sq") for name in expected)
    for other in ("zero1", "zero1_2x2", "fsdp2", "ddp2"):
        world_size, parallel = LAYOUTS[other]
        resharded = dataclasses.replace(job, parallel=parallel)
        for found in ranks.run(state_and_copy, world_size, resharded, tmp_path / other):
            assert_same(found, expected)
        there = dataclasses.replace(job.run, dir=str(tmp_path / other))
        back = state_and_copy(dataclasses.replace(job, run=there), tmp_path / "back")
        assert_same(back, expected)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
