"""Data parallelism: every rank its own samples, gradients summed over `dp_replicate x dp_shard`.

The loss is already divided by the global token count, so gradients are summed, never averaged.
"""

import warnings
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from megafm.model import Decoder
from megafm.parallel.mesh import ParallelConfig


class Loss(nn.Module):
    """`model.loss` as a forward pass, which is what data-parallel wrappers hook into."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """tokens and targets (batch, seq) int64 -> the sum of the per-token losses, a scalar."""
        return cast(Decoder, self.model).loss(tokens, targets)


def data_parallel(
    loss: Loss, mesh: DeviceMesh | None, parallel: ParallelConfig, param_dtype: torch.dtype
) -> nn.Module:
    """Wrap `loss` for the layout: nothing on one rank, DDP, FSDP2, or HSDP (both axes > 1).

    Args:
        param_dtype: what FSDP2 gathers parameters as; gradients are always reduced in float32.
    """
    if mesh is None:
        return loss
    if parallel.dp_shard == 1:
        group = mesh["dp_replicate"].get_group()
        with warnings.catch_warnings():  # torch 2.13 renames broadcast_buffers; 2.11 has only it
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            wrapped = DistributedDataParallel(
                loss, process_group=group, gradient_as_bucket_view=True, broadcast_buffers=False
            )
        wrapped.register_comm_hook(group, _sum_gradients)
        return wrapped
    axes = ("dp_replicate", "dp_shard") if parallel.dp_replicate > 1 else ("dp_shard",)
    # Autocast rounds what goes into a matmul; inputs as such stay (the rotary tables: fp32).
    policy = MixedPrecisionPolicy(param_dtype, torch.float32, cast_forward_inputs=False)
    options: dict[str, Any] = {
        "mesh": mesh[axes],
        "reshard_after_forward": parallel.zero == 3,
        "mp_policy": policy,
    }
    for block in cast(Decoder, loss.model).blocks:
        fully_shard(block, **options)
    fully_shard(loss, **options)
    for module in loss.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return loss


def set_gradient_sync(wrapped: nn.Module, enabled: bool) -> None:
    """Reduce gradients in the next backward pass only if `enabled` (the last microbatch)."""
    if isinstance(wrapped, DistributedDataParallel):
        wrapped.require_backward_grad_sync = enabled
    elif isinstance(wrapped, FSDPModule):
        wrapped.set_requires_gradient_sync(enabled)


def reshard(wrapped: nn.Module) -> None:
    """Back to this rank's shards after a forward pass that no backward pass follows."""
    for module in wrapped.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


# DDP reads these annotations, so this file does not postpone them.
def _sum_gradients(
    group: dist.ProcessGroup, bucket: dist.GradBucket
) -> torch.futures.Future[torch.Tensor]:
    future = dist.all_reduce(bucket.buffer(), group=group, async_op=True).get_future()
    return future.then(lambda done: done.value()[0])
