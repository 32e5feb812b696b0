"""ZeRO-1 (arXiv:1910.02054): each rank of `dp_shard` holds optimizer state for its rows alone.

Parameters and gradients stay whole on every rank. A rank's share of a parameter is its rows, as
FSDP2 cuts them, and a view of the parameter's own memory: the optimizer steps the shares as it
would those of FSDP2, its state has the same names, shapes and placements in a checkpoint, and
after the step each rank collects the rows of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

# The ops under torch's functional collectives, whose Python names differ between 2.11 and 2.13.
_c10d = torch.ops._c10d_functional
BUCKET_BYTES = 64 << 20  # of gathered parameters: enough for full bandwidth, little as a buffer


class ShardedStep:
    """The shares of `parameters` that this rank steps.

    Attributes:
        shards: by parameter name, a DTensor parameter over `mesh`; give these to the optimizer.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], mesh: DeviceMesh) -> None:
        self.mesh = mesh
        self._parameters = dict(parameters)
        self.shards = {
            name: nn.Parameter(self._shard(parameter.detach()))
            for name, parameter in self._parameters.items()
        }

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Let every step of `optimizer`, which was given `shards`, begin and end as ZeRO-1's."""
        optimizer.register_step_pre_hook(self._take_gradients)
        optimizer.register_step_post_hook(self._gather)

    def _shard(self, tensor: torch.Tensor) -> DTensor:
        """This rank's rows of a tensor that every rank holds whole: a view, maybe of no rows."""
        rows = _rows_per_rank(tensor, self.mesh.size())
        local = tensor[self.mesh.get_local_rank() * rows :][:rows]
        return DTensor.from_local(
            local,
            self.mesh,
            [Shard(0)],
            run_check=False,
            shape=tensor.shape,
            stride=tensor.stride(),
        )

    def _take_gradients(self, *_: Any) -> None:
        for name, parameter in self._parameters.items():
            gradient = parameter.grad
            self.shards[name].grad = None if gradient is None else self._shard(gradient)

    @torch.no_grad()
    def _gather(self, *_: Any) -> None:
        group, world_size = self.mesh.get_group(), self.mesh.size()
        for names in self._buckets():
            mine = torch.cat([self._padded_rows(name) for name in names])
            pending = _c10d.all_gather_into_tensor(mine, world_size, group.group_name)
            everyones = _c10d.wait_tensor(pending).view(world_size, -1)
            offset = 0
            for name in names:
                whole = self._parameters[name]
                size = _rows_per_rank(whole, world_size) * whole[0].numel()
                rows = everyones[:, offset : offset + size].reshape(-1, *whole.shape[1:])
                whole.copy_(rows[: len(whole)])
                offset += size
        for shard in self.shards.values():
            shard.grad = None  # it is a view, which would keep the whole gradient alive

    def _padded_rows(self, name: str) -> torch.Tensor:
        """This rank's rows of a parameter, flat, as long as those of the first rank."""
        whole, shard = self._parameters[name], self.shards[name]
        assert isinstance(shard, DTensor)
        local = shard.to_local().flatten()
        size = _rows_per_rank(whole, self.mesh.size()) * whole[0].numel()
        return torch.cat([local, local.new_zeros(size - local.numel())])

    def _buckets(self) -> Iterator[list[str]]:
        """Names of parameters that one all-gather takes: of one dtype, BUCKET_BYTES or one."""
        by_dtype: dict[torch.dtype, list[str]] = {}
        for name, parameter in self._parameters.items():
            by_dtype.setdefault(parameter.dtype, []).append(name)
        for names in by_dtype.values():
            bucket: list[str] = []
            for name in names:
                bucket.append(name)
                if sum(self._parameters[n].nbytes for n in bucket) >= BUCKET_BYTES:
                    yield bucket
                    bucket = []
            if bucket:
                yield bucket


def _rows_per_rank(tensor: torch.Tensor, world_size: int) -> int:
    """As `torch.chunk` has it: the last ranks may have fewer rows, or none."""
    return -(-len(tensor) // world_size)
