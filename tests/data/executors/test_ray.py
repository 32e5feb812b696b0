"""A real Ray on this machine."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from megafm.data.config import Executor
from megafm.data.executors import RayWorkers, run
from megafm.data.executors.loop import StageFailed
from megafm.data.prepare import prepare
from tests.data.executors.flaky import Flaky, tried
from tests.data.helpers import files_job
from tests.data.stages.helpers import corpus_with_copies, cut_small, digests

CONFIG = Executor(kind="ray", workers=2)


def silent(text: str) -> None:
    pass


def test_ray_makes_what_one_process_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And tries again what failed, of another stage, in the same cluster; its processes take paths
    from the folder of the job, not from their own."""
    cut_small(monkeypatch)
    corpus_with_copies(tmp_path / "corpus", 20)
    with RayWorkers(CONFIG):  # which the job finds running
        monkeypatch.chdir(tmp_path)
        job = files_job(Path("corpus"), Path("local"))
        prepare(job, silent)
        there = dataclasses.replace(job.data, dir="ray")
        prepare(dataclasses.replace(job, data=there, executor=CONFIG), silent)
        flaky = Flaky(tmp_path / "flaky", ("good", "once", "killed", "wrong"))
        flaky.root.mkdir()
        with pytest.raises(StageFailed, match="1 of 4 shards failed: wrong: ValueError: source"):
            run([flaky], CONFIG)
    assert [tried(flaky.root, unit) for unit in flaky.names()] == [1, 2, 2, 1]
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")


def test_without_ray_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"ray does not load.*pip install 'megafm\[ray\]'"):
        RayWorkers(CONFIG)
