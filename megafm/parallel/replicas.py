"""Replicas of a whole model: gradients are summed over them while the backward pass runs.

torch's DistributedDataParallel does that too, but orders its buckets anew after the first step. In
which order three or more ranks add a number depends on its place in the bucket, so a run that was
resumed had other bits than one that went on. Here a bucket is the same in every step: parameters
in the reverse of the order they are registered in, about that in which their gradients come.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

# The ops under torch's functional collectives, whose Python names differ between 2.11 and 2.13.
_c10d = torch.ops._c10d_functional
BUCKET_BYTES = 25 << 20  # of gradients, as DistributedDataParallel has it


class Replicas(nn.Module):
    """Calls `module`. Gradients are summed over the ranks of `group`, in float32 at least, in each
    backward pass during which `sync` is set; all ranks have drawn or loaded the same weights.
    Of a parameter that a rank's loss does not depend on, that rank's gradient is zero.

    A bucket starts on its way when it and those before it are complete, and is collected when the
    next one starts: two of them take memory beside the gradients.
    """

    def __init__(self, module: nn.Module, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.module = module
        self.sync = True
        self._group = group
        self._buckets = list(_buckets(p for p in module.parameters() if p.requires_grad))
        for number, bucket in enumerate(self._buckets):
            for parameter in bucket:
                hook = functools.partial(self._ready, number)
                parameter.register_post_accumulate_grad_hook(hook)
        self._missing: list[int] = []  # gradients of each bucket; empty outside of a backward pass
        self._started = 0
        self._on_its_way: tuple[list[nn.Parameter], torch.Tensor] | None = None

    def forward(self, *arguments: Any) -> Any:
        self._missing = []  # of a backward pass that raised
        self._on_its_way = None
        return self.module(*arguments)

    def _ready(self, number: int, _: torch.Tensor) -> None:
        """A gradient of a bucket has come."""
        if not self.sync:
            return
        if not self._missing:
            self._missing = [len(bucket) for bucket in self._buckets]
            self._started = 0
            torch.autograd.Variable._execution_engine.queue_callback(self._finish)
        self._missing[number] -= 1
        while self._started < len(self._buckets) and self._missing[self._started] == 0:
            self._start(self._buckets[self._started])
            self._started += 1

    def _start(self, bucket: list[nn.Parameter]) -> None:
        gradients = [parameter.grad for parameter in bucket if parameter.grad is not None]
        wide = torch.promote_types(gradients[0].dtype, torch.float32)
        flat = torch.cat([gradient.flatten() for gradient in gradients]).to(wide)
        flat = _c10d.all_reduce_(flat, "sum", self._group.group_name)
        self._collect()
        self._on_its_way = bucket, flat

    def _collect(self) -> None:
        if self._on_its_way is None:
            return
        bucket, flat = self._on_its_way
        sizes = [parameter.numel() for parameter in bucket]
        for parameter, part in zip(bucket, _c10d.wait_tensor(flat).split(sizes), strict=True):
            assert parameter.grad is not None
            parameter.grad.copy_(part.view_as(parameter))
        self._on_its_way = None

    def _finish(self) -> None:
        """The backward pass has ended."""
        for bucket in self._buckets[self._started :]:
            for parameter in bucket:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            self._start(bucket)
        self._collect()
        self._missing = []


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Of one dtype, BUCKET_BYTES or one parameter."""
    bucket: list[nn.Parameter] = []
    for parameter in reversed(list(parameters)):
        if bucket and parameter.dtype != bucket[0].dtype:
            yield bucket
            bucket = []
        bucket.append(parameter)
        if sum(each.nbytes for each in bucket) >= BUCKET_BYTES:
            yield bucket
            bucket = []
    if bucket:
        yield bucket
