"""AdamW over the model's parameters: its groups, its gradient clipping, its state by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from megafm import ops
from megafm.train.config import OptimConfig

PREFIX = "optimizer."


def build_optimizer(
    parameters: Mapping[str, nn.Parameter], config: OptimConfig
) -> torch.optim.Optimizer:
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
    norm = nn.utils.get_total_norm(gradients)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    if max_norm > 0:
        nn.utils.clip_grads_with_norm_(list(model.parameters()), max_norm, norm)
    return norm


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def optimizer_tensors(
    parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """The optimizer's state as `optimizer.STATE.PARAMETER`; zeros where no step was taken yet."""
    tensors = {}
    optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in parameters.items():
        assert id(parameter) in optimized, f"{name} is not the tensor that the optimizer steps"
        state = optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        for key, value in state.items():
            tensors[f"{PREFIX}{key}.{name}"] = value
    return tensors
