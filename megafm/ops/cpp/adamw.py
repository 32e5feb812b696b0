"""AdamW of csrc/: one dispatcher op for a step of many tensors, in place."""

from __future__ import annotations

from typing import Any

import torch

from megafm.ops.cpp.storage import Target

Tensors = list[torch.Tensor]


def run(
    target: Target,
    params: Tensors,
    grads: Tensors,
    exp_avgs: Tensors,
    exp_avg_sqs: Tensors,
    masters: Tensors | None,
    update: Any,  # adamw.Update
) -> None:
    numbers = update.lr, update.beta1, update.beta2, update.eps, update.weight_decay
    lists = params, grads, exp_avgs, exp_avg_sqs, masters or []
    target.ops.adamw_(*lists, update.step, *numbers)


def refuses(target: Target, params: Tensors, grads: Tensors, *rest: Any) -> str | None:
    if params[0].dtype != grads[0].dtype:
        return f"it wants one dtype, parameters are {params[0].dtype}, gradients {grads[0].dtype}"
    return target.unreadable(params[0])


def register_formulas(namespace: str) -> None:
    """Tell torch that the op in torch.ops.NAMESPACE returns nothing."""
    torch.library.register_fake(f"{namespace}::adamw_", lambda *arguments: None)
