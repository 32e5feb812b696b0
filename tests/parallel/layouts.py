"""The table of layouts that every axis is tested in: a new axis adds rows."""

from __future__ import annotations

import math

from megafm.parallel.mesh import AXES, ParallelConfig

LAYOUTS = {
    "one": ParallelConfig(dp_replicate=1),
    "ddp2": ParallelConfig(dp_replicate=2),
    "zero1_2": ParallelConfig(dp_replicate=1, dp_shard=2, zero=1),
    "fsdp2": ParallelConfig(dp_replicate=1, dp_shard=2),
    "tp2": ParallelConfig(dp_replicate=1, tp=2),
    "cp2": ParallelConfig(dp_replicate=1, cp=2),
    "fsdp2_ep2": ParallelConfig(dp_replicate=1, dp_shard=2, ep=2),
    "cp2_ep2": ParallelConfig(dp_replicate=1, cp=2, ep=2),
    "tp2_ep2": ParallelConfig(dp_replicate=1, tp=2, ep=2),
    "pp2": ParallelConfig(dp_replicate=1, pp=2),
    "hsdp2x2": ParallelConfig(dp_replicate=2, dp_shard=2),
    "zero2_tp2": ParallelConfig(dp_replicate=1, dp_shard=2, zero=2, tp=2),
    "hsdp2_cp2": ParallelConfig(dp_replicate=2, cp=2, cp_attention="all_gather"),
    "zero1_2_cp2": ParallelConfig(dp_replicate=1, dp_shard=2, cp=2, cp_attention="ulysses", zero=1),
    "cp2_tp2": ParallelConfig(dp_replicate=1, cp=2, tp=2),
    "fsdp4_ep2": ParallelConfig(dp_replicate=1, dp_shard=4, ep=2),
    "tp4_ep2": ParallelConfig(dp_replicate=1, tp=4, ep=2),
    "pp2_cp2": ParallelConfig(pp=2, dp_replicate=1, cp=2),
    "pp2_fsdp2_ep2": ParallelConfig(pp=2, dp_replicate=1, dp_shard=2, ep=2),
    "pp2_tp2_ep2": ParallelConfig(pp=2, dp_replicate=1, tp=2, ep=2),
    "hsdp2x2_tp2": ParallelConfig(dp_replicate=2, dp_shard=2, tp=2),
    "pp2_ddp2_tp2": ParallelConfig(pp=2, dp_replicate=2, tp=2),
}

# Pipelines of four stages, which the models of the parity test are too short for: see
# test_pipeline.py.
SPLIT_BACKWARD = {
    "interleaved_zero2": ParallelConfig(
        pp=2, pipeline_schedule="InterleavedZeroBubble", dp_replicate=1, dp_shard=2, zero=2
    ),
    "zbv_tp2": ParallelConfig(pp=2, pipeline_schedule="ZBVZeroBubble", dp_replicate=1, tp=2),
    "dualpipe_cp2": ParallelConfig(
        pp=2, pipeline_schedule="DualPipeV", dp_replicate=1, cp=2, zero=2
    ),
}


def world_size(parallel: ParallelConfig) -> int:
    return math.prod(getattr(parallel, axis) for axis in AXES)


def by_world_size() -> dict[int, list[str]]:
    """The names of the layouts that share a world: those are tested in one spawn."""
    sizes: dict[int, list[str]] = {}
    for name, parallel in LAYOUTS.items():
        sizes.setdefault(world_size(parallel), []).append(name)
    return sizes
