"""Where the stages of the pipeline run: all units of a stage before those of the next."""

from __future__ import annotations

from collections.abc import Sequence

from megafm import cpus
from megafm.data.config import Executor
from megafm.data.executors.local import LocalWorkers
from megafm.data.executors.loop import Share, StageFailed, run_stages
from megafm.data.executors.ray import RayWorkers
from megafm.data.stages.stage import Stage

__all__ = ["StageFailed", "run", "run_task"]


def run(stages: Sequence[Stage], config: Executor) -> None:
    """Do all that is not done, in this process and those that it starts.

    Raises:
        StageFailed: a unit failed again and again; all others of its stage are done.
    """
    if config.kind == "ray":
        with RayWorkers(config) as tasks:
            run_stages(stages, tasks, config.retries)
    else:
        with LocalWorkers(config.workers or cpus.num_cpus()) as processes:
            run_stages(stages, processes, config.retries)


def run_task(stage: Stage, rank: int, world_size: int, retries: int) -> None:
    """One task's share of a stage, in this process."""
    with LocalWorkers(1) as process:
        run_stages([stage], process, retries, Share(rank, world_size))
