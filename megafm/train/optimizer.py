"""The optimizer over the model's parameters: groups, gradient clipping, its state by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from megafm import ops
from megafm.train.config import OptimConfig
from megafm.train.muon import Muon

PREFIX = "optimizer."


def build_optimizer(parameters: Mapping[str, nn.Parameter], config: OptimConfig) -> ops.AdamW:
    """AdamW, or Muon for the matrices inside the layers and AdamW for the rest; weight decay on
    matrices only (not on norms and other vectors)."""
    vectors = [p for p in parameters.values() if p.ndim < 2]
    tables = [p for name, p in parameters.items() if p.ndim >= 2 and _is_table(name)]
    matrices = [p for name, p in parameters.items() if p.ndim >= 2 and not _is_table(name)]
    options: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "eps": config.eps}
    no_decay = {"params": vectors, "weight_decay": 0.0}
    if config.name == "muon":
        groups = [
            {"params": matrices, "momentum": config.momentum},
            {"params": tables},
            no_decay,
        ]
        return Muon(groups, weight_decay=config.weight_decay, **options)
    groups = [{"params": tables + matrices}, no_decay]
    return ops.AdamW(groups, weight_decay=config.weight_decay, **options)


def _is_table(name: str) -> bool:
    """Whether a matrix has a row for each token: embedding and head, which Muon is not for."""
    return name.startswith(("embedding.", "head."))


def clip_grad_norm(
    model: nn.Module,
    max_norm: float,
    pp: DeviceMesh | None = None,
    copy: nn.Parameter | None = None,
) -> torch.Tensor:
    """Scale the gradients down to a global L2 norm of `max_norm` (0: leave them alone).

    Args:
        pp: the ranks that have other stages of the model.
        copy: the parameter whose gradient counts on another one of them, see
            `Decoder.copied_weight`.

    Returns:
        The norm before clipping, a scalar, the same on every rank; float32 (float64 for such
        gradients).
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    counted = [p.grad for p in model.parameters() if p.grad is not None and p is not copy]
    norm = _global_norm(counted, pp)
    small = norm.device.type == "cpu" and norm <= max_norm  # on a GPU, asking would wait for it
    if max_norm > 0 and not small:
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_([_local(gradient) for gradient in gradients], scale)
    return norm


def _global_norm(gradients: list[torch.Tensor], pp: DeviceMesh | None) -> torch.Tensor:
    """The norm over all ranks: what is sharded is summed over the ranks that hold its shards, and
    all of it over the stages."""
    by_groups: dict[tuple[dist.ProcessGroup, ...], list[torch.Tensor]] = defaultdict(list)
    for gradient in gradients:
        by_groups[_shard_groups(gradient)].append(_local(gradient))
    squares = []
    for groups, tensors in by_groups.items():
        norm = ops.grad_norm(tensors)
        square = norm.double().square()
        for group in groups:
            dist.all_reduce(square, group=group)
        squares.append(square)
    total = torch.stack(squares).sum()
    if pp is not None:
        dist.all_reduce(total, group=pp.get_group())
    return total.sqrt().to(norm.dtype)


def _shard_groups(tensor: torch.Tensor) -> tuple[dist.ProcessGroup, ...]:
    """The groups of ranks over which a tensor is sharded."""
    if not isinstance(tensor, DTensor):
        return ()
    mesh, placements = tensor.device_mesh, tensor.placements
    # _StridedShard, what FSDP2 makes of a dimension that tp shards too, denies that it is_shard().
    axes = [i for i, placed in enumerate(placements) if not placed.is_replicate()]
    return tuple(mesh.get_group(i) for i in axes)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def optimizer_tensors(
    parameters: Mapping[str, nn.Parameter], optimizer: ops.AdamW
) -> dict[str, torch.Tensor]:
    """The optimizer's state as `optimizer.STATE.PARAMETER`; that of step 0 before any step.

    STATE is step, exp_avg, exp_avg_sq (Muon: momentum) and, for a 16-bit parameter, master.
    """
    optimizer.init_state()
    tensors = {}
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        assert state, f"{name} is not the tensor that the optimizer steps"
        for key, value in state.items():
            tensors[f"{PREFIX}{key}.{name}"] = value
    return tensors
