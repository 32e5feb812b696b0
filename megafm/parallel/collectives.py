"""Collectives with the gradients that tensor and context parallelism need, on functional ones.

A gradient is partial where each rank uses a tensor for work of its own, and whole where all ranks
use it for the same work.

    all_gather        every rank's part, concatenated      backward: reduce-scatter (partial)
    all_gather_whole  the same                             backward: own part (whole)
    reduce_scatter    own part of the sum over the ranks   backward: all-gather
    sum_gradient      the tensor itself                    backward: all-reduce (partial to whole)
    sum_parts         the sum over the ranks               backward: the same (whole)
    all_to_all        a slice for and from each rank       backward: all-to-all
    exchange_rows     rows for each rank, uneven numbers   backward: the way back

Sizes along `dim` are those of a multiple of the ranks.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist

# The ops under torch's functional collectives, whose Python names differ between 2.11 and 2.13.
_c10d = torch.ops._c10d_functional


def named_group(name: str) -> dist.ProcessGroup:
    """The group that an op of torch's dispatcher is given by name."""
    return dist.distributed_c10d._resolve_process_group(cast(Any, name))


def all_gather(x: torch.Tensor, dim: int, group: dist.ProcessGroup) -> torch.Tensor:
    return cast(torch.Tensor, _AllGather.apply(x, dim, group))


def all_gather_whole(x: torch.Tensor, dim: int, group: dist.ProcessGroup) -> torch.Tensor:
    return cast(torch.Tensor, _AllGatherWhole.apply(x, dim, group))


def reduce_scatter(x: torch.Tensor, dim: int, group: dist.ProcessGroup) -> torch.Tensor:
    return cast(torch.Tensor, _ReduceScatter.apply(x, dim, group))


def sum_gradient(x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    return cast(torch.Tensor, _SumGradient.apply(x, group))


def sum_parts(x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    return cast(torch.Tensor, _SumParts.apply(x, group))


def all_to_all(x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """x (ranks, ...): x[i] goes to rank i, and what comes from rank i is row i of the result."""
    return exchange_rows(x, [1] * len(x), [1] * len(x), group)


def exchange_rows(
    x: torch.Tensor, received: list[int], sent: list[int], group: dist.ProcessGroup
) -> torch.Tensor:
    """The first sent[0] rows of x go to rank 0, the next sent[1] to rank 1, ...; returns the
    sum(received) rows that come to this one, by sender."""
    return cast(torch.Tensor, _ExchangeRows.apply(x, received, sent, group))


class Gathering:
    """An all-gather that runs while its caller computes; `wait` gives the result."""

    def __init__(self, x: torch.Tensor, dim: int, group: dist.ProcessGroup) -> None:
        self.dim = dim
        self.pending = _c10d.all_gather_into_tensor(
            _dim_first(x, dim), group.size(), group.group_name
        )

    def wait(self) -> torch.Tensor:
        return _dim_back(_c10d.wait_tensor(self.pending), self.dim)


class Scattering:
    """A reduce-scatter (sum) that runs while its caller computes; `wait` gives the result."""

    def __init__(self, x: torch.Tensor, dim: int, group: dist.ProcessGroup) -> None:
        self.dim = dim
        self.pending = _c10d.reduce_scatter_tensor(
            _dim_first(x, dim), "sum", group.size(), group.group_name
        )

    def wait(self) -> torch.Tensor:
        return _dim_back(_c10d.wait_tensor(self.pending), self.dim)


class Rotating:
    """x on its way to the next rank of a ring while its caller computes; `wait` gives the x of the
    rank before. An all-to-all with nothing for anyone else: on NCCL one send and one receive."""

    def __init__(self, x: torch.Tensor, group: dist.ProcessGroup) -> None:
        self.shape = x.shape
        rank, size = group.rank(), group.size()
        to_next, from_last = [0] * size, [0] * size
        to_next[(rank + 1) % size] = from_last[(rank - 1) % size] = x.numel()
        self.pending = _c10d.all_to_all_single(x.reshape(-1), from_last, to_next, group.group_name)

    def wait(self) -> torch.Tensor:
        return _c10d.wait_tensor(self.pending).view(self.shape)


# Collectives cut along the first dimension. With a batch of one the moves copy nothing.
def _dim_first(x: torch.Tensor, dim: int) -> torch.Tensor:
    return x.movedim(dim, 0).contiguous()


def _dim_back(x: torch.Tensor, dim: int) -> torch.Tensor:
    return x.movedim(0, dim).contiguous()


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dim: int, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.dim, ctx.group = dim, group
        return Gathering(x, dim, group).wait()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return Scattering(grads[0], ctx.dim, ctx.group).wait(), None, None


class _AllGatherWhole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dim: int, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.dim, ctx.group = dim, group
        return Gathering(x, dim, group).wait()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        parts = grads[0].chunk(dist.get_world_size(ctx.group), ctx.dim)
        return parts[dist.get_rank(ctx.group)].contiguous(), None, None


class _ReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dim: int, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.dim, ctx.group = dim, group
        return Scattering(x, dim, group).wait()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return Gathering(grads[0], ctx.dim, ctx.group).wait(), None, None


class _SumGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        total = _c10d.all_reduce(grads[0].contiguous(), "sum", ctx.group.group_name)
        return _c10d.wait_tensor(total), None


class _SumParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        return _c10d.wait_tensor(_c10d.all_reduce(x.contiguous(), "sum", group.group_name))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return grads[0], None


class _ExchangeRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, received: list[int], sent: list[int], group: dist.ProcessGroup
    ) -> torch.Tensor:
        ctx.received, ctx.sent, ctx.group = received, sent, group
        return _exchange(x, received, sent, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return _exchange(grads[0], ctx.sent, ctx.received, ctx.group), None, None, None


def _exchange(
    x: torch.Tensor, received: list[int], sent: list[int], group: dist.ProcessGroup
) -> torch.Tensor:
    pending = _c10d.all_to_all_single(x.contiguous(), received, sent, group.group_name)
    return cast(torch.Tensor, _c10d.wait_tensor(pending))
