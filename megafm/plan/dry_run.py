"""A training step of one rank of any world, without the memory, the devices or the other ranks.

The set-up and the step are those of `megafm train`, on fake tensors (torch's FakeTensorMode: shapes
and dtypes, no data) and on torch's fake process group, where collectives end at once.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from megafm.parallel import world
from megafm.parallel.mesh import ParallelConfig, build_mesh
from megafm.plan.step import Observed, observe_step
from megafm.train.config import TrainJob


def dry_run(
    job: TrainJob,
    parallel: ParallelConfig,
    rank: int,
    world_size: int,
    *,
    device: torch.device,
    precision: torch.dtype,
) -> Observed:
    """The step of `rank`.

    Args:
        parallel: resolved for `world_size` ranks.
    """
    with world.fake_process_group(rank, world_size):
        mesh = build_mesh(parallel, device.type) if world_size > 1 else None
        with fake_tensors():
            return observe_step(job, parallel, mesh, device=device, precision=precision, seed=None)


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Tensors made inside have no data."""
    # Gives the collectives of c10d a meaning on fake tensors.
    importlib.import_module("torch.distributed._tools.fake_collectives")
    with FakeTensorMode(), _Stopgap():
        yield


class _Stopgap(TorchDispatchMode):
    """What fake tensors cannot do and a training step asks for.

    A number read from a fake tensor is 1 (a loss, a norm, a step), a truth is False. Ops on real
    tensors alone, which are the ranks of a mesh, are computed.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten, kwargs = torch.ops.aten, kwargs or {}
        if func.namespace == "prim":
            return func(*args, **kwargs)
        tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)]
        if all(type(tensor) is torch.Tensor for tensor in tensors):
            if tensors and func is not aten.lift_fresh.default:
                with unset_fake_temporarily():
                    return func(*args, **kwargs)
        elif func is aten._local_scalar_dense.default and isinstance(tensors[0], FakeTensor):
            return False if tensors[0].dtype == torch.bool else 1
        return func(*args, **kwargs)
