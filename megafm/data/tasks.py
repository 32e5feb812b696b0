"""action=run_task: one task of a Slurm array, with the settings that were submitted."""

from __future__ import annotations

from megafm.data import executors, prepare, tokenization
from megafm.data.config import DataJob, Task
from megafm.data.executors import slurm
from megafm.data.stages import pipeline
from megafm.data.stages.stage import Stage


def run_task(data_dir: str, task: Task) -> None:
    """A share of a stage, or the end of the job.

    Raises:
        ValueError: nothing was submitted, there is no such stage, or a shard failed.
    """
    job = slurm.submitted(data_dir)
    stages = {stage.name: stage for stage in stages_of(job)}
    if task.stage == slurm.FINISH:
        _finish(job)
    elif task.stage in stages:
        retries = job.executor.retries
        executors.run_task(stages[task.stage], task.rank, task.world_size, retries)
    else:
        raise ValueError(f"task.stage={task.stage}: set one of {', '.join(stages)}")


def stages_of(job: DataJob) -> tuple[Stage, ...]:
    """Of a job that was submitted."""
    if job.action == "tokenize":
        return (tokenization.token_stage(job.data.dir, job.tokenizer.encoder),)
    return pipeline(job)


def _finish(job: DataJob) -> None:
    if job.action == "tokenize":
        tokenization.finish(tokenization.token_stage(job.data.dir))
    else:
        prepare.finish(job)
    slurm.forget(job.data.dir)
