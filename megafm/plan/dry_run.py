"""A training step of one rank of any world, without the memory, the devices or the other ranks.

The set-up and the step are those of `megafm train`, on fake tensors (torch's FakeTensorMode: shapes
and dtypes, no data) and on torch's fake process group, where collectives end at once.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from megafm.parallel import world
from megafm.parallel.collectives import named_group
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


# A fake tensor keeps the values of a list that it is made from, and what follows from them, up to
# this many: enough for the rows of each expert.
KNOWN_VALUES = 4096


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Tensors made inside have no data."""
    # Gives the collectives of c10d a meaning on fake tensors.
    importlib.import_module("torch.distributed._tools.fake_collectives")
    known = mock.patch.object(fake_tensor, "CONSTANT_NUMEL_LIMIT", KNOWN_VALUES)
    with known, FakeTensorMode(), _Stopgap():
        yield


class _Stopgap(TorchDispatchMode):
    """What fake tensors cannot do and a training step asks for.

    A number read from a fake tensor that has no values is 1 (a loss, a norm, a step), a truth is
    False. Ops on real tensors alone, which are the ranks of a mesh, are computed. All ranks put the
    same values into an all-to-all.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten, c10d, kwargs = torch.ops.aten, torch.ops._c10d_functional, kwargs or {}
        if func.namespace == "prim":
            return func(*args, **kwargs)
        if func is c10d.wait_tensor.default:  # on fake tensors, torch takes memory for another one
            return args[0]
        tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)]
        if all(type(tensor) is torch.Tensor for tensor in tensors):
            if tensors and func is not aten.lift_fresh.default:
                with unset_fake_temporarily():
                    return func(*args, **kwargs)
        elif any(getattr(tensor, "constant", None) is not None for tensor in tensors):
            if func is c10d.all_to_all_single.default:
                return _from_equal_ranks(*args)
        elif func is aten._local_scalar_dense.default and isinstance(tensors[0], FakeTensor):
            dtype = tensors[0].dtype
            return False if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1
        return func(*args, **kwargs)


def _from_equal_ranks(
    x: FakeTensor, received: list[int], sent: list[int], group_name: str
) -> torch.Tensor:
    """What an all-to-all of x gives this rank if each rank has the same x: its own part of it, from
    every one."""
    assert x.constant is not None and received == sent
    group = named_group(group_name)
    with unset_fake_temporarily():
        part = x.constant.split(sent)[group.rank()].tolist()
    return torch.tensor(part * group.size(), device=x.device)
