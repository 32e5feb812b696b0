"""Slurm: each stage an array of tasks that begins when the one before has ended well.

A task is `megafm data action=run_task` with the settings of the job, which lie in the folder of the
stages; the scripts and the tasks' output lie beside them. Jobs outlive the process that submits and
read what lies there until they end: nobody else writes to the folder before (`check_idle`).
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from megafm.config import from_dict, override, to_dict
from megafm.data.config import DataJob, Executor
from megafm.data.stages.stage import Stage, digest, stages_folder, unfinished
from megafm.files import write_text

JOB_FILE = "job.json"
FINISH = "finish"  # the task after the last stage


def submit(job: DataJob, stages: Sequence[Stage], say: Callable[[str], None]) -> None:
    """Submit all stages; with `executor.wait` return when the last task has ended.

    Raises:
        ValueError: there is no sbatch, it refuses, or the tasks failed; names the logs.
    """
    config, root = job.executor, stages_folder(job.data.dir)
    write_text(root / JOB_FILE, json.dumps(to_dict(job)) + "\n")
    folder = root / "slurm"
    tasks = {stage.name: min(config.workers or 1, len(stage.names())) for stage in stages}
    before = None
    for name, count in [*tasks.items(), (FINISH, 1)]:
        script = folder / f"{name}.sh"
        write_text(script, _script(job.data.dir, name, count))
        options = _options(job.data.dir, folder, name, count, config)
        if before is not None:
            options += [f"--dependency=afterok:{before}", "--kill-on-invalid-dep=yes"]
        wait = config.wait and name == FINISH
        options += ["--wait"] if wait else []
        before = _sbatch([*options, str(script.resolve())], folder, stages)
        say(f"{name}: Slurm job {before}, {count} task{'s' if count > 1 else ''}")


def check_idle(data_dir: str) -> None:
    """Refuse to write where tasks may still read: their settings, inputs, tokenizer and units.

    Raises:
        ValueError: jobs of the folder are queued or running, or nobody can say so.
    """
    path = stages_folder(data_dir) / JOB_FILE
    if not path.is_file():  # none was submitted, or the last one has finished
        return
    command = ["squeue", "--noheader", "--format=%F %j"]  # job, its name
    # Without --states, which would leave out jobs whose nodes boot; nor may a user's filters.
    env = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        why = (getattr(error, "stderr", None) or str(error)).strip()
        raise ValueError(
            f"data.dir={data_dir}: was given to Slurm, which does not say whether its jobs have "
            f"ended ({why}); ask where squeue works, or, if they have, remove {path}"
        ) from error
    rows = (line.split(maxsplit=1) for line in found.stdout.splitlines())
    own = _job_name(data_dir, "")
    jobs = sorted({number for number, name in rows if name.startswith(own)}, key=int)
    if jobs:
        raise ValueError(
            f"data.dir={data_dir}: its Slurm jobs {', '.join(jobs)} are queued or running; wait "
            f"until they end, or run: scancel {' '.join(jobs)}"
        )


def forget(data_dir: str) -> None:
    """The last task is done: what was submitted is no longer needed."""
    (stages_folder(data_dir) / JOB_FILE).unlink(missing_ok=True)


def submitted(data_dir: str) -> DataJob:
    """The settings that the tasks run with.

    Raises:
        ValueError: nothing was submitted.
    """
    path = stages_folder(data_dir) / JOB_FILE
    if not path.is_file():
        raise ValueError(f"data.dir={data_dir}: no job was submitted; set executor=slurm")
    return from_dict(DataJob, json.loads(path.read_text(encoding="utf-8")))


def _job_name(data_dir: str, stage: str) -> str:
    """By which the jobs of a folder are found in the queue."""
    return f"megafm-data-{digest(str(Path(data_dir).resolve()))[:8]}-{stage}"


def _options(data_dir: str, folder: Path, name: str, count: int, config: Executor) -> list[str]:
    """Of sbatch, no line of the script, where Slurm would take quotes and spaces in its own way."""
    return [
        "--parsable",
        f"--job-name={_job_name(data_dir, name)}",
        f"--array=0-{count - 1}",
        f"--chdir={folder.resolve()}",  # in which % stands for itself, unlike in the next
        f"--output={name}-%a.log",
        *(f"--{option}={value}" for option, value in config.sbatch.items()),
    ]


def _script(data_dir: str, name: str, count: int) -> str:
    command = [sys.executable, "-m", "megafm.data", "action=run_task"]
    command += [override("data.dir", data_dir), f"task.stage={name}", f"task.world_size={count}"]
    lines = ["#!/bin/bash", "set -e", f"cd {shlex.quote(str(Path.cwd()))}"]
    return "\n".join([*lines, f"{shlex.join(command)} task.rank=$SLURM_ARRAY_TASK_ID", ""])


def _sbatch(arguments: list[str], folder: Path, stages: Sequence[Stage]) -> str:
    try:
        done = subprocess.run(["sbatch", *arguments], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ValueError(
            "executor.kind=slurm: no sbatch on the PATH; submit from a login node, "
            "or set executor=local"
        ) from error
    number = done.stdout.strip().partition(";")[0]  # JOB;CLUSTER
    if done.returncode == 0:
        return number
    if number:  # it was submitted and waited for
        left = unfinished(stages) or "all shards are done, but the data folder is not"
        raise ValueError(f"{left}; see {folder}/*.log, then run the same job again")
    raise ValueError(f"sbatch: {done.stderr.strip()}; set executor.sbatch.OPTION=VALUE")
