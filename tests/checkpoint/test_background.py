"""A checkpoint written in the background holds the step it was asked at, and its errors count."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint import filesystem

from megafm import checkpoint
from megafm.parallel.mesh import ParallelConfig
from megafm.train import loop
from megafm.train.config import CheckpointConfig, TrainJob
from megafm.train.loop import train
from megafm.train.run import Run
from megafm.train.stop import StopSignal
from tests.corpus import train_job
from tests.ranks import RankPool
from tests.train.test_loop import curve, train_and_die_after

IN_BACKGROUND = CheckpointConfig(every=3, keep=2, asynchronous=True)


def assert_same_model(one: Path, other: Path, step: int) -> None:
    expected, found = (checkpoint.load_model(path, step)[0] for path in (one, other))
    for a, b in zip(expected.parameters(), found.parameters(), strict=True):
        assert torch.equal(a, b)


def test_training_goes_on_while_the_state_of_the_step_is_written(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(train_job(corpus, tmp_path / "at_once"))
    at_step_5 = threading.Event()
    write_item, train_step = filesystem._write_item, loop.train_step

    def write_later(*arguments: object, **keywords: object) -> object:
        assert at_step_5.wait(60), "the loop waited for the writer"
        return write_item(*arguments, **keywords)

    def step(run: Run, stop: StopSignal) -> dict[str, float]:
        values = train_step(run, stop)
        if run.step == 4:
            at_step_5.set()
        return values

    monkeypatch.setattr(filesystem, "_write_item", write_later)
    monkeypatch.setattr(loop, "train_step", step)
    train(train_job(corpus, tmp_path / "later", checkpoint=IN_BACKGROUND))
    for at in (3, 6):
        assert_same_model(tmp_path / "at_once", tmp_path / "later", at)


@pytest.mark.parametrize("layout", ["one", "fsdp2"])
def test_a_run_that_dies_goes_on_without_a_changed_bit(
    layout: str, corpus: Path, tmp_path: Path, ranks: RankPool
) -> None:
    parallel = ParallelConfig(dp_replicate=1, dp_shard=2) if layout == "fsdp2" else None
    groups = {"parallel": parallel} if parallel else {}
    whole = train_job(corpus, tmp_path / "whole", **groups)
    parts = train_job(corpus, tmp_path / "parts", checkpoint=IN_BACKGROUND, **groups)
    for function, arguments in ((train, (whole,)), (die_after_4, (parts,)), (train, (parts,))):
        if parallel:
            ranks.run(function, 2, *arguments)
        else:
            function(*arguments)
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    assert_same_model(tmp_path / "whole", tmp_path / "parts", 6)


def die_after_4(job: TrainJob) -> None:
    train_and_die_after(job, 4)
    names = [folder.name for folder in checkpoint.checkpoints(job.run.dir)]
    assert names == ["step_00000003"]


@pytest.mark.parametrize("steps", [6, 4], ids=["at_the_next_one", "at_the_end"])
def test_a_full_disk_is_said_and_what_was_saved_stays(
    steps: int, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = train_job(corpus, tmp_path, checkpoint=IN_BACKGROUND)
    first = dataclasses.replace(job, train=dataclasses.replace(job.train, steps=1))
    train(first)

    def write_item(*arguments: object, **keywords: object) -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(filesystem, "_write_item", write_item)
    longer = dataclasses.replace(job, train=dataclasses.replace(job.train, steps=steps))
    with pytest.raises(OSError, match="step_0000000[34]: .*No space.*step_00000001 is complete"):
        train(longer)
    monkeypatch.undo()
    assert [f.name for f in checkpoint.checkpoints(tmp_path)] == ["step_00000001"]
    assert not list(tmp_path.rglob("*.partial"))
    train(job)
    assert checkpoint.latest(tmp_path) == tmp_path / "checkpoints" / "step_00000006"
