"""The dry run of the ranks that were asked for, shown as a table or as JSON, and as pictures."""

from __future__ import annotations

import dataclasses
import json
import math
import time
import warnings
from pathlib import Path

import numpy as np
from rich.console import Console

from megafm import ops
from megafm.device import resolve_device, resolve_precision
from megafm.parallel.layout import resolve_layout
from megafm.parallel.mesh import AXES, ParallelConfig
from megafm.plan.config import PlanJob
from megafm.plan.dry_run import dry_run
from megafm.plan.figure import write_figure
from megafm.plan.report import RankReport, show
from megafm.plan.routing import described
from megafm.train.run import check_batch


def plan(job: PlanJob) -> None:
    device = resolve_device(job.device)
    precision = resolve_precision(job.train.precision, device)
    world_size = job.world_size or _fewest_ranks(job.parallel)
    parallel = resolve_layout(job.parallel, world_size, job.model, job.train.seq_len)
    check_batch(job, parallel)
    if job.data.packing != "stream":
        warnings.warn(
            f"data.packing={job.data.packing} has no effect in a plan: it reads no documents, and "
            "counts attention over whole windows",
            stacklevel=2,
        )
    for rank in job.ranks:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank}: the world has {world_size}; set 0 to {world_size - 1}")
    ops.configure(job.ops)
    console, reports = Console(), []
    for rank in job.ranks:
        started = time.perf_counter()
        observed = dry_run(job, parallel, rank, world_size, device=device, precision=precision)
        picture = Path(job.run.dir) / f"memory_rank_{rank}.png"
        report = RankReport.of(
            observed,
            rank=rank,
            world_size=world_size,
            place=_place(parallel, rank),
            device=f"{device.type}, {str(precision).removeprefix('torch.')}",
            routing=described(job.model.moe) if job.model.moe else None,
            picture=str(picture),
            device_memory_gb=job.device_memory_gb,
            seconds=time.perf_counter() - started,
        )
        write_figure(observed, report, picture)
        reports.append(report)
        if job.format == "table":
            show(report, console)
    if job.format == "json":
        print(json.dumps({"ranks": [dataclasses.asdict(report) for report in reports]}, indent=2))


def _fewest_ranks(parallel: ParallelConfig) -> int:
    return math.prod(max(1, getattr(parallel, name)) for name in AXES)


def _place(parallel: ParallelConfig, rank: int) -> dict[str, str]:
    """Where the rank stands along each axis of more than one, as "3 of 8"."""
    sizes = [getattr(parallel, name) for name in AXES]
    places = [*np.unravel_index(rank, sizes), rank % parallel.ep]
    return {
        name: f"{place} of {size}"
        for name, place, size in zip((*AXES, "ep"), places, [*sizes, parallel.ep], strict=True)
        if size > 1
    }
