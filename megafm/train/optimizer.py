"""AdamW over the model's parameters: its groups, its gradient clipping, its state by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from megafm import ops
from megafm.train.config import OptimConfig

PREFIX = "optimizer."

Shards = tuple[dist.ProcessGroup, ...]  # the groups over which a tensor is sharded


def build_optimizer(parameters: Mapping[str, nn.Parameter], config: OptimConfig) -> ops.AdamW:
    """AdamW; weight decay on matrices only (not on norms and other vectors)."""
    matrices = [p for p in parameters.values() if p.ndim >= 2]
    vectors = [p for p in parameters.values() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return ops.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)


def clip_grad_norm(model: nn.Module, max_norm: float) -> torch.Tensor:
    """Scale the gradients down to a global L2 norm of `max_norm` (0: leave them alone).

    Returns:
        The norm before clipping, a float32 scalar, the same on every rank.
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = _global_norm(gradients)
    done = norm.device.type == "cpu" and norm <= max_norm  # elsewhere asking would wait
    if max_norm > 0 and not done:
        nn.utils.clip_grads_with_norm_(list(model.parameters()), max_norm, norm)
    return norm


def _global_norm(gradients: list[torch.Tensor]) -> torch.Tensor:
    """The norm over all ranks: what is sharded is summed over the ranks that hold its shards."""
    shards: dict[Shards, list[torch.Tensor]] = defaultdict(list)
    for gradient in gradients:
        if isinstance(gradient, DTensor):
            mesh, placements = gradient.device_mesh, gradient.placements
            axes = [i for i, placement in enumerate(placements) if placement.is_shard()]
            groups = tuple(mesh.get_group(i) for i in axes)
            shards[groups].append(gradient.to_local())
        else:
            shards[()].append(gradient)
    squares = []
    for groups, tensors in shards.items():
        square = ops.grad_norm(tensors).double().square()
        for group in groups:
            dist.all_reduce(square, group=group)
        squares.append(square)
    return torch.stack(squares).sum().sqrt().float()


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def optimizer_tensors(
    parameters: Mapping[str, nn.Parameter], optimizer: ops.AdamW
) -> dict[str, torch.Tensor]:
    """The optimizer's state as `optimizer.STATE.PARAMETER`; that of step 0 before any step.

    STATE is step, exp_avg, exp_avg_sq and, for a 16-bit parameter, master.
    """
    optimizer.init_state()
    tensors = {}
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        assert state, f"{name} is not the tensor that the optimizer steps"
        for key, value in state.items():
            tensors[f"{PREFIX}{key}.{name}"] = value
    return tensors
