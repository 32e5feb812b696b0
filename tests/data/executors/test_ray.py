"""A real Ray on this machine."""

from __future__ import annotations

import dataclasses
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from megafm.data.config import DataJob, Executor
from megafm.data.executors import RayWorkers, run
from megafm.data.executors.loop import StageFailed
from megafm.data.prepare import prepare
from tests.data.executors.flaky import Flaky, tried
from tests.data.helpers import files_job
from tests.data.stages.helpers import corpus_with_copies, cut_small, digests, kill_until_done

CONFIG = Executor(kind="ray", workers=2)


def silent(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of one, which jobs find running."""
    with RayWorkers(CONFIG):
        import ray

        yield ray.get_runtime_context().gcs_address


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataJob:
    """Of paths from the folder that it is started in; `local` is what one process makes."""
    cut_small(monkeypatch)
    monkeypatch.chdir(tmp_path)
    job = files_job(corpus_with_copies(Path("corpus"), 20), Path("local"))
    prepare(job, silent)
    return job


def test_ray_makes_what_one_process_makes(job: DataJob, tmp_path: Path, cluster: str) -> None:
    """And tries again what failed, of another stage, in the same cluster; its processes take paths
    from the folder of the job, not from their own."""
    there = dataclasses.replace(job.data, dir="ray")
    prepare(dataclasses.replace(job, data=there, executor=CONFIG), silent)
    flaky = Flaky(tmp_path / "flaky", ("good", "once", "killed", "wrong"))
    flaky.root.mkdir()
    with pytest.raises(StageFailed, match="1 of 4 shards failed: wrong: ValueError: source"):
        run([flaky], CONFIG)
    assert [tried(flaky.root, unit) for unit in flaky.names()] == [1, 2, 2, 1]
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")


def test_killed_at_any_point_it_goes_on(job: DataJob, tmp_path: Path, cluster: str) -> None:
    """The driver; the cluster is there for the next."""
    there = dataclasses.replace(job.data, dir="killed")
    config = dataclasses.replace(CONFIG, address=cluster)
    killed = dataclasses.replace(job, data=there, executor=config)
    assert kill_until_done(killed, random.Random(1), (15, 40)) >= 2
    assert digests(tmp_path / "killed") == digests(tmp_path / "local")


def test_without_ray_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"ray does not load.*pip install 'megafm\[ray\]'"):
        RayWorkers(CONFIG)
