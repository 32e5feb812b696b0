"""The process group: start and stop it, and ask where this rank stands. One process needs none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from megafm.parallel.failure import FailureWatch

T = TypeVar("T")


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    if dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def process_group(device: torch.device, timeout_s: float) -> Iterator[None]:
    """Join the world that torchrun describes (NCCL on CUDA, else gloo), and leave it at the end.

    Raises:
        ConnectionError, TimeoutError: another rank is gone or stalls, and could not say why.
        SystemExit: another rank has failed and said why.
    """
    if world_size() == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    try:
        store = dist.distributed_c10d._get_default_store()
        with FailureWatch(store, rank(), world_size(), timeout_s):
            yield
    finally:
        dist.destroy_process_group()


@contextmanager
def fake_process_group(rank: int, world_size: int) -> Iterator[None]:
    """Be one rank of a world without the others: collectives end at once and move nothing."""
    if world_size == 1:
        yield
        return
    from torch.distributed.tensor.debug import _clear_sharding_prop_cache
    from torch.testing._internal.distributed.fake_pg import FakeStore  # makes the backend known

    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()
        # It keeps meshes, and would give one of this world for an equal one of the next.
        _clear_sharding_prop_cache()


def limit_waits(timeout_s: float) -> None:
    """Let collectives of every group wait no longer: torch gives 10 or 30 minutes to those that a
    mesh makes, whatever the world was joined with."""
    for group in list(dist.distributed_c10d._world.pg_map):
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=timeout_s), group)


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """The sum of `values` over all ranks, in place; `values` itself when there is one rank."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def gather(value: T) -> list[T]:
    """The `value` of every rank, by rank: for small ones, once in a while."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def barrier(group: dist.ProcessGroup | None = None) -> None:
    if world_size() > 1:
        dist.barrier(group)
