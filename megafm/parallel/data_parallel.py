"""Data parallelism: gradients of ranks with samples, or parts of samples, of their own are summed
over `dp_replicate x dp_shard x cp`.

The loss is already divided by the global token count, so gradients are summed, never averaged, and
in float32 at least, whatever they are stored as.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from megafm.parallel.mesh import ParallelConfig, gathers_for_backward, sharding_ranks
from megafm.parallel.replicas import Replicas


def shards_parameters(parallel: ParallelConfig) -> bool:
    """Whether the layout leaves each rank a part of the parameters (FSDP2), not all of them."""
    return parallel.dp_shard * parallel.cp > 1 and parallel.zero > 1


def data_parallel(
    module: nn.Module,
    blocks: Iterable[nn.Module],
    mesh: DeviceMesh | None,
    parallel: ParallelConfig,
    param_dtype: torch.dtype,
) -> nn.Module:
    """Wrap `module` for the layout: nothing where no other rank has other tokens, `Replicas` (also
    for ZeRO-1, whose optimizer is a `ShardedStep`), FSDP2, or HSDP (FSDP2 with replicas).

    `Replicas` take no DTensors, and one backward pass a step: replicas of a model that is split
    over `tp` or `pp` are HSDP with shards of one. So is what is beside the experts in a pipeline,
    which reduces the gradients of one FSDP2 module and those inside it.

    Args:
        blocks: the parts of `module` that FSDP2 gathers and frees one at a time.
        param_dtype: what FSDP2 gathers parameters as.
    """
    alone = parallel.dp_replicate == parallel.dp_shard == parallel.cp == 1
    if mesh is None or (alone and (parallel.ep == 1 or parallel.pp == 1)):
        return module
    if not shards_parameters(parallel) and parallel.tp == parallel.ep == parallel.pp == 1:
        group = mesh["dp_replicate", "dp_shard", "cp"]._flatten("gradients").get_group()
        return Replicas(module, group)
    ranks = sharding_ranks(mesh)
    if parallel.dp_replicate > 1:
        ranks = DeviceMesh._concatenate([mesh["dp_replicate"], ranks])
    shard((*blocks, module), ranks, parallel, param_dtype)
    return module


def shard(
    modules: Iterable[nn.Module],
    mesh: DeviceMesh,
    parallel: ParallelConfig,
    param_dtype: torch.dtype,
) -> None:
    """Shard each of `modules`, inner ones first, over the last axis of `mesh` (FSDP2); replicas of
    the shards stand along an axis before it."""
    reduce_dtype = torch.promote_types(param_dtype, torch.float32)
    # Autocast rounds what goes into a matmul; inputs as such stay (the rotary tables: fp32).
    policy = MixedPrecisionPolicy(param_dtype, reduce_dtype, cast_forward_inputs=False)
    num_ranks = mesh.shape[-1]
    options: dict[str, Any] = {
        "mesh": mesh,
        "reshard_after_forward": gathers_for_backward(parallel),
        "shard_placement_fn": lambda parameter: Shard(_cut_dim(parameter, num_ranks)),
        "mp_policy": policy,
    }
    for module in modules:
        sharded = fully_shard(module, **options)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)


def _cut_dim(parameter: nn.Parameter, num_ranks: int) -> int:
    """The dimension that FSDP2 cuts: rows, as many as there are (the last ranks may get none); of
    the matrices of experts whole ones if each rank gets as many, else the same part of each."""
    shape = (parameter.to_local() if isinstance(parameter, DTensor) else parameter).shape
    if len(shape) < 3:
        return 0
    return next((dim for dim, size in enumerate(shape) if size % num_ranks == 0), 0)


def set_gradient_sync(wrapped: nn.Module, enabled: bool) -> None:
    """Reduce gradients in the next backward pass only if `enabled` (the last microbatch)."""
    if isinstance(wrapped, Replicas):
        wrapped.sync = enabled
        return
    for module in wrapped.modules():
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(enabled, recurse=False)


def reduce_gradients_later(wrapped: nn.Module, gathers_for_backward: bool) -> None:
    """Keep the gradients of all backward passes of a step on their rank, for a pipeline, which
    has them reduced at the end."""
    if isinstance(wrapped, FSDPModule):
        wrapped.set_is_last_backward(False)
        wrapped.set_requires_gradient_sync(False)
        wrapped.set_reshard_after_backward(gathers_for_backward)


def reshard(wrapped: nn.Module) -> None:
    """Back to this rank's shards after a forward pass that no backward pass follows."""
    for module in wrapped.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
