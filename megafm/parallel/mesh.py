"""The device mesh: its axes, their sizes, and the one place where a layout is checked.

Axes, outermost first: `pp dp_replicate dp_shard cp tp`; `ep` regroups ranks inside the data axes.
A rank's neighbours along `tp` are thus on one host.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
PLANNED = ("pp", "cp", "tp", "ep")


@dataclass(frozen=True)
class ParallelConfig:
    """How many ranks stand along each axis; -1 means what the world leaves.

    Attributes:
        zero: what is sharded over dp_shard: 1 optimizer state, 2 and gradients, 3 and parameters.
        timeout_s: seconds after which a collective that waits for a lost rank fails.
    """

    pp: int = 1
    dp_replicate: int = -1
    dp_shard: int = 1
    cp: int = 1
    tp: int = 1
    ep: int = 1
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
            raise ValueError(f"parallel.timeout_s={self.timeout_s}: must be above 0")
        if self.zero not in (1, 2, 3):
            raise ValueError(f"parallel.zero={self.zero}: set parallel.zero=1, 2 or 3")


def resolve_layout(
    parallel: ParallelConfig, world_size: int, *, num_heads: int, num_kv_heads: int, num_layers: int
) -> ParallelConfig:
    """Fill in the -1 and check the layout against the world and the model.

    Raises:
        ValueError: names the field, its value and a setting that works.
    """
    _check_divides("tp", parallel.tp, "model.num_heads", num_heads)
    if parallel.pp > num_layers:
        raise ValueError(
            f"parallel.pp={parallel.pp}: more stages than model.num_layers={num_layers}; "
            f"set parallel.pp={num_layers} or less"
        )
    if num_kv_heads % parallel.tp and parallel.tp % num_kv_heads:
        raise ValueError(
            f"parallel.tp={parallel.tp}: neither divides nor is a multiple of "
            f"model.num_kv_heads={num_kv_heads}; set parallel.tp={num_kv_heads}"
        )
    for axis in PLANNED:
        if getattr(parallel, axis) > 1:
            raise ValueError(
                f"parallel.{axis}={getattr(parallel, axis)}: this axis is not in this version yet; "
                f"set parallel.{axis}=1 and use parallel.dp_replicate or parallel.dp_shard"
            )
    parallel = _fill(parallel, world_size)
    if parallel.zero == 1 and parallel.dp_shard == 1 and world_size > 1:
        raise ValueError(
            "parallel.zero=1: shards the optimizer state over parallel.dp_shard=1 ranks; "
            "set parallel.dp_replicate=1 and parallel.dp_shard=-1"
        )
    return parallel


def build_mesh(parallel: ParallelConfig, device_type: str) -> DeviceMesh:
    """The mesh of a resolved layout; needs an initialised process group."""
    sizes = tuple(getattr(parallel, axis) for axis in AXES)
    return init_device_mesh(device_type, sizes, mesh_dim_names=AXES)


def _fill(parallel: ParallelConfig, world_size: int) -> ParallelConfig:
    sizes = {axis: getattr(parallel, axis) for axis in AXES}
    free = next((axis for axis, size in sizes.items() if size == -1), None)
    fixed = 1
    for size in sizes.values():
        fixed *= size if size != -1 else 1
    product = " x ".join(f"{axis}={size}" for axis, size in sizes.items() if size not in (1, -1))
    if (free is None and fixed != world_size) or world_size % fixed:
        raise ValueError(
            f"parallel {product or 'with every axis 1'}: needs a multiple of {fixed} ranks, the "
            f"world has {world_size}; set parallel.dp_replicate=-1 and start "
            f"`torchrun --nproc-per-node {max(fixed, world_size // fixed * fixed)}`"
        )
    if free is not None:
        parallel = dataclasses.replace(parallel, **{free: world_size // fixed})
    return parallel


def _check_divides(axis: str, size: int, field: str, value: int) -> None:
    if value % size:
        works = [n for n in range(1, value + 1) if value % n == 0]
        nearest = min(works, key=lambda n: abs(n - size))
        raise ValueError(
            f"parallel.{axis}={size}: does not divide {field}={value}; "
            f"set parallel.{axis}={nearest}"
        )
