"""Slurm: each stage an array of tasks that begins when the one before has ended well.

A task is `megafm data action=run_task` with the settings of the job, which lie in the folder of the
stages; the scripts and the tasks' output lie beside them. Jobs outlive the process that submits.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from megafm.config import from_dict, to_dict
from megafm.data.config import DataJob, Executor
from megafm.data.stages.stage import Stage, stages_folder
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
        write_text(script, _script(job.data.dir, folder, name, count, config))
        options = ["--parsable"]
        if before is not None:
            options += [f"--dependency=afterok:{before}", "--kill-on-invalid-dep=yes"]
        wait = config.wait and name == FINISH
        before = _sbatch([*options, *(["--wait"] if wait else []), str(script)], folder, stages)
        say(f"{name}: Slurm job {before}, {count} task{'s' if count > 1 else ''}")


def submitted(data_dir: str) -> DataJob:
    """The settings that the tasks run with.

    Raises:
        ValueError: nothing was submitted.
    """
    path = stages_folder(data_dir) / JOB_FILE
    if not path.is_file():
        raise ValueError(f"data.dir={data_dir}: no job was submitted; set executor=slurm")
    return from_dict(DataJob, json.loads(path.read_text(encoding="utf-8")))


def _script(data_dir: str, folder: Path, name: str, count: int, config: Executor) -> str:
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name=megafm-data-{name}",
        f"#SBATCH --array=0-{count - 1}",
        f"#SBATCH --output={folder.resolve()}/{name}-%a.log",
        *(f"#SBATCH --{option}={value}" for option, value in config.sbatch.items()),
    ]
    command = [sys.executable, "-m", "megafm.data", "action=run_task"]
    command += [f"data.dir='{data_dir}'", f"task.stage={name}", f"task.world_size={count}"]
    here = f"cd {shlex.quote(str(Path.cwd()))}"
    return "\n".join([*lines, here, f"{shlex.join(command)} task.rank=$SLURM_ARRAY_TASK_ID", ""])


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
        raise ValueError(f"{_unfinished(stages)}; see {folder}/*.log, then run the same job again")
    raise ValueError(f"sbatch: {done.stderr.strip()}; set executor.sbatch.OPTION=VALUE")


def _unfinished(stages: Sequence[Stage]) -> str:
    """The first stage that is not done, and its shards that are not."""
    for stage in stages:
        pending = [unit.name for unit in stage.pending()]
        if pending:
            return f"stage {stage.name}: {len(pending)} shards are not done: {', '.join(pending)}"
    return "all shards are done, but the data folder is not"
