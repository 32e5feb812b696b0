"""The device mesh: its axes, their sizes, and where a rank stands in it.

Axes, outermost first: `pp dp_replicate dp_shard cp tp`; `ep` regroups those of dp_shard x cp x tp.
A rank's neighbours along `tp` are thus on one host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from megafm.parallel.stages import SCHEDULES, Schedule

AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
DATA_AXES = ("dp_replicate", "dp_shard")  # their ranks read different samples


@dataclass(frozen=True)
class ParallelConfig:
    """How many ranks stand along each axis; -1 means what the world leaves.

    Attributes:
        cp_attention: how a part of a sequence gets at the keys of the others: ring (they go round
            while they are used), all_gather (all at once, fewer and larger kernels) or ulysses
            (all-to-all between tokens and heads, the least traffic where cp divides the heads).
        pipeline_schedule: in which order the stages of pp work on the microbatches of a step.
        pipeline_stages_per_rank: 1 with 1F1B, 2 with the V-shaped ZBVZeroBubble and DualPipeV, 2 or
            more with Interleaved1F1B and InterleavedZeroBubble; None is the least of that.
        zero: what is sharded over dp_shard x cp: 1 optimizer state, 2 and gradients, 3 and
            parameters.
        timeout_s: seconds after which a collective that waits for a lost rank fails.
    """

    pp: int = 1
    dp_replicate: int = -1
    dp_shard: int = 1
    cp: int = 1
    tp: int = 1
    ep: int = 1
    cp_attention: Literal["ring", "all_gather", "ulysses"] = "ring"
    pipeline_schedule: Literal[
        "1F1B", "Interleaved1F1B", "InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV"
    ] = "1F1B"
    pipeline_stages_per_rank: int | None = None
    zero: int = 3
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        for axis in (*AXES, "ep"):
            size = getattr(self, axis)
            if size < 1 and not (axis in ("dp_replicate", "dp_shard") and size == -1):
                raise ValueError(
                    f"parallel.{axis}={size}: must be at least 1; set parallel.{axis}=1"
                )
        if self.dp_replicate == -1 and self.dp_shard == -1:
            raise ValueError(
                "parallel.dp_replicate=-1 and parallel.dp_shard=-1: only one of them can take "
                "what the world leaves; set parallel.dp_replicate=1"
            )
        if not self.timeout_s > 0:
            raise ValueError(
                f"parallel.timeout_s={self.timeout_s}: must be above 0; set parallel.timeout_s=600"
            )
        if self.zero not in (1, 2, 3):
            raise ValueError(f"parallel.zero={self.zero}: set parallel.zero=1, 2 or 3")
        if self.pipeline_schedule not in SCHEDULES:
            raise ValueError(
                f"parallel.pipeline_schedule={self.pipeline_schedule}: set one of "
                f"{', '.join(SCHEDULES)}"
            )
        least = self.schedule.stages_per_rank
        if self.stages_per_rank != least and not (
            self.schedule.interleaved and self.stages_per_rank > least
        ):
            raise ValueError(
                f"parallel.pipeline_stages_per_rank={self.pipeline_stages_per_rank}: "
                f"parallel.pipeline_schedule={self.pipeline_schedule} has {least}"
                f"{' or more' if self.schedule.interleaved else ''}; set it to {least}"
            )

    @property
    def schedule(self) -> Schedule:
        return SCHEDULES[self.pipeline_schedule]

    @property
    def stages_per_rank(self) -> int:
        given = self.pipeline_stages_per_rank
        return self.schedule.stages_per_rank if given is None else given


def gathers_for_backward(parallel: ParallelConfig) -> bool:
    """Whether FSDP2 frees parameters after the forward pass. Where the backward pass comes in two
    parts it must not: torch would miss the gradients of the weights."""
    splits = parallel.pp > 1 and parallel.schedule.splits_backward
    return parallel.zero == 3 and not splits


def build_mesh(parallel: ParallelConfig, device_type: str) -> DeviceMesh:
    """The mesh of a resolved layout; needs an initialised process group."""
    sizes = tuple(getattr(parallel, name) for name in AXES)
    return init_device_mesh(device_type, sizes, mesh_dim_names=AXES)


def axis(mesh: DeviceMesh | None, name: str) -> DeviceMesh | None:
    """This rank's line of ranks along an axis: its `get_group()`, `get_local_rank()` and `size()`;
    None where the axis has one rank."""
    if mesh is None or mesh[name].size() == 1:
        return None
    return mesh[name]


def sharding_ranks(mesh: DeviceMesh) -> DeviceMesh:
    """The ranks that share optimizer state, gradients or parameters: those along dp_shard x cp,
    which hold the same parameters."""
    if mesh["cp"].size() == 1:
        return mesh["dp_shard"]
    return mesh["dp_shard", "cp"]._flatten("dp_shard_cp")


def data_share(mesh: DeviceMesh | None) -> tuple[int, int]:
    """(index, count): which of how many shares of a batch this rank reads. Ranks that differ along
    other axes only have the same index and work on the same samples."""
    index, count = 0, 1
    for name in DATA_AXES:
        line = axis(mesh, name)
        if line is not None:
            index, count = index * line.size() + line.get_local_rank(), count * line.size()
    return index, count


def counts_samples(mesh: DeviceMesh | None) -> bool:
    """Whether this rank is the one, of those with the same samples, whose numbers enter a sum over
    the world."""
    lines = (axis(mesh, name) for name in AXES if name not in DATA_AXES)
    return all(line is None or line.get_local_rank() == 0 for line in lines)


def token_group(mesh: DeviceMesh | None) -> dist.ProcessGroup | None:
    """The ranks that hold tokens for the same layers: those that do not differ in `pp`; None for
    one rank."""
    if mesh is None:
        return None
    names = tuple(name for name in AXES if name != "pp")
    return mesh[names]._flatten("tokens").get_group()
