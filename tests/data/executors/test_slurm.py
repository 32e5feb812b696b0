"""Slurm, played by this process: `sbatch` on the PATH notes what is submitted, `squeue` shows what
the file `squeue` holds."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from megafm.config import compose
from megafm.data import Manifest
from megafm.data.config import DataJob, Executor, Shuffle
from megafm.data.prepare import finish, prepare
from megafm.data.stages import pipeline
from megafm.data.tasks import run_task
from megafm.data.tokenization import finish as finish_tokens
from megafm.data.tokenization import token_stage, tokenize
from tests.data.helpers import files_job, small_tokenizer
from tests.data.stages.helpers import corpus_with_copies, cut_small, digests

SBATCH = """#!/bin/sh
queue={queue}
number=$(( $(ls $queue | wc -l) + 1 ))
printf '%s\\0' "$@" > $queue/$number
echo $number
case "$*" in *--wait*) exit {code};; esac
"""
# The nodes of the jobs boot: states that are asked for by name leave them out.
SQUEUE = """#!/bin/sh
case "$*" in *--states*) exit;; esac
[ -n "$SQUEUE_STATES" ] && exit
cat {shown}
"""


def silent(text: str) -> None:
    pass


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataJob:
    cut_small(monkeypatch)
    job = files_job(corpus_with_copies(tmp_path / "corpus", 20), tmp_path / "data")
    executor = Executor(kind="slurm", workers=2, sbatch={"mem": "8G"}, wait=False)
    return dataclasses.replace(job, executor=executor)


def put_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int = 0) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "queue").mkdir()
    (tmp_path / "squeue").write_text("")
    (folder / "sbatch").write_text(SBATCH.format(queue=tmp_path / "queue", code=code))
    (folder / "squeue").write_text(SQUEUE.format(shown=tmp_path / "squeue"))
    for path in folder.iterdir():
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def submitted(tmp_path: Path) -> list[list[str]]:
    jobs = sorted((tmp_path / "queue").iterdir(), key=lambda path: int(path.name))
    return [path.read_text().split("\0")[:-1] for path in jobs]


def play(arguments: list[str]) -> None:
    """All tasks of an array, the last one first."""
    last = int(re.findall(r"--array=0-(\d+)", "\n".join(arguments))[0])
    lines = Path(arguments[-1]).read_text().partition(sys.executable)
    command = "".join(lines[1:])
    for rank in reversed(range(last + 1)):
        overrides = shlex.split(command.replace("$SLURM_ARRAY_TASK_ID", str(rank)))[3:]
        config = compose("data", DataJob, overrides)
        assert config.action == "run_task"
        run_task(config.data.dir, config.task)


def test_the_arrays_make_what_one_process_makes(
    job: DataJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_sbatch(tmp_path, monkeypatch)
    said: list[str] = []
    assert prepare(job, said.append) is None
    jobs = submitted(tmp_path)
    assert "--dependency" not in " ".join(jobs[0])
    for number, arguments in enumerate(jobs[1:], 1):
        assert f"--dependency=afterok:{number}" in arguments
    scripts = [Path(arguments[-1]) for arguments in jobs]
    assert (scripts[0].stem, scripts[-1].stem) == ("read", "finish")
    assert "--mem=8G" in jobs[0] and "--job-name" not in scripts[0].read_text()
    assert said[0] == "read: Slurm job 1, 2 tasks"
    for arguments in jobs[:-1]:
        play(arguments)
    done = subprocess.run(  # one task as the shell of a node runs it
        ["bash", scripts[-1]], env={**os.environ, "SLURM_ARRAY_TASK_ID": "0"}, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    local = dataclasses.replace(
        job, data=dataclasses.replace(job.data, dir=str(tmp_path / "local")), executor=Executor()
    )
    prepare(local, silent)
    assert digests(tmp_path / "data") == digests(tmp_path / "local")
    assert prepare(job, silent) == Manifest.load(tmp_path / "data")  # up to date
    assert len(submitted(tmp_path)) == len(jobs)


def test_tokens_by_tasks_are_those_of_one_process(
    job: DataJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_sbatch(tmp_path, monkeypatch)
    prepare(dataclasses.replace(job, executor=Executor()), silent)
    folder = tmp_path / "data"
    expected = tokenize(str(folder), small_tokenizer(), silent)
    shards = [folder / "train.bin", folder / "validation.idx"]
    before = [path.read_bytes() for path in shards]
    Manifest.load(folder).without_tokens().save(folder)
    shutil.rmtree(folder / "stages" / "tokenize")
    assert tokenize(str(folder), small_tokenizer(), silent, job.executor) is None
    for arguments in submitted(tmp_path):
        play(arguments)
    assert Manifest.load(folder) == expected
    assert [path.read_bytes() for path in shards] == before


def test_a_folder_of_any_name_reaches_the_tasks(
    job: DataJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through sbatch, the shell and Hydra, from a folder of such a name."""
    put_sbatch(tmp_path, monkeypatch)
    name = 'it\'s "a" $HOME ${x} `id`\n%a #1;\\'
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    there = dataclasses.replace(job, data=dataclasses.replace(job.data, dir=f"{name}/data"))
    prepare(there, silent)
    folder = tmp_path / name / name / "data"
    jobs = submitted(tmp_path)
    assert f"--chdir={folder / 'stages' / 'slurm'}" in jobs[0]
    assert jobs[0][-1] == str(folder / "stages" / "slurm" / "read.sh")
    for rank in ("0", "1"):
        environment = {**os.environ, "SLURM_ARRAY_TASK_ID": rank}
        command = ["bash", jobs[0][-1]]
        done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert not pipeline(there)[0].pending()
    assert [path.name for path in (tmp_path / name).iterdir()] == [name]


def test_what_is_not_done_is_not_published(
    job: DataJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of a job of other settings are there in its place, or a shard is missing."""
    put_sbatch(tmp_path, monkeypatch)
    prepare(dataclasses.replace(job, executor=Executor()), silent)
    expected = digests(tmp_path / "data")
    other = dataclasses.replace(job, shuffle=Shuffle(seed=5))
    with pytest.raises(ValueError, match=r"stage scatter: \d+ shards are not done: .*run the same"):
        finish(other)
    gone = next((tmp_path / "data" / "stages" / "read").iterdir())
    gone.rename(tmp_path / "gone")
    with pytest.raises(ValueError, match=f"stage read: 1 shards are not done: {gone.name}; run"):
        finish(job)
    assert digests(tmp_path / "data") == expected
    tokenize(str(tmp_path / "data"), small_tokenizer(), silent)
    small_tokenizer(270).save(tmp_path / "data" / "stages" / "tokenizer")
    with pytest.raises(ValueError, match=r"stage tokenize: \d+ shards are not done"):
        finish_tokens(token_stage(str(tmp_path / "data")))


def test_nothing_is_written_below_jobs_that_have_not_ended(
    job: DataJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_sbatch(tmp_path, monkeypatch)
    prepare(job, silent)
    before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()}
    name = re.findall("job-name=(.*)", "\n".join(submitted(tmp_path)[1]))[0]
    monkeypatch.setenv("SQUEUE_STATES", "R")
    (tmp_path / "squeue").write_text(f"1 {name}\n12 {name}\n12 {name}\n77 a data-job of others\n")
    for other in (Executor(), job.executor):
        with pytest.raises(ValueError, match="Slurm jobs 1, 12 are queued .* run: scancel 1 12$"):
            prepare(dataclasses.replace(job, shuffle=Shuffle(seed=5), executor=other), silent)
    assert before == {path: path.read_bytes() for path in before}
    (tmp_path / "squeue").unlink()  # it fails
    with pytest.raises(ValueError, match=r"does not say whether .* remove .*stages/job\.json"):
        prepare(job, silent)
    (tmp_path / "squeue").write_text("77 megafm-data-01234567-read\n")  # of another folder
    prepare(dataclasses.replace(job, executor=Executor()), silent)
    Manifest.load(tmp_path / "data")
    (tmp_path / "squeue").write_text(f"9 {name}\n")
    with pytest.raises(ValueError, match="Slurm jobs 9 are queued"):
        tokenize(str(tmp_path / "data"), small_tokenizer(), silent)


def test_tasks_that_fail_are_named_with_their_logs(
    job: DataJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_sbatch(tmp_path, monkeypatch, code=1)
    waiting = dataclasses.replace(job, executor=dataclasses.replace(job.executor, wait=True))
    with pytest.raises(ValueError, match=r"stage read: \d+ shards are not done: .*; see .*\.log"):
        prepare(waiting, silent)


def test_without_slurm_it_says_so(job: DataJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="no sbatch on the PATH.*set executor=local"):
        prepare(job, silent)


def test_a_task_needs_a_job_and_a_stage(job: DataJob, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no job was submitted"):
        run_task(str(tmp_path), job.task)
    with pytest.raises(ValueError, match="task.rank=2: must be from 0 to task.world_size=2 - 1"):
        compose("data", DataJob, ["action=run_task", "task.rank=2", "task.world_size=2"])
    with pytest.raises(ValueError, match="executor.workers=null.*set executor.workers=16"):
        Executor(kind="slurm")


def test_the_group_has_every_executor() -> None:
    for kind in ("local", "slurm", "ray"):
        assert compose("data", DataJob, [f"executor={kind}"]).executor.kind == kind


def test_a_setting_of_another_executor_warns() -> None:
    with pytest.warns(UserWarning, match="executor.address=auto: no effect"):
        Executor(address="auto")
    with pytest.warns(UserWarning, match="executor.sbatch, executor.wait: no effect"):
        Executor(sbatch={"mem": "8G"})
