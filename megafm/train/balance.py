"""The load of the experts over the ranks, at the end of each step; see megafm/model/router.py."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from megafm.model.router import routers
from megafm.parallel.mesh import token_group


def balance_after_steps(
    optimizer: torch.optim.Optimizer, model: nn.Module, mesh: DeviceMesh | None
) -> None:
    """Let every step of `optimizer` end with the step's load known to all routers of `model`."""
    group = token_group(mesh)  # by every rank: a stage without experts too, or group names differ
    found = routers(model)
    if not found:
        return

    def end_step(*_: Any) -> None:
        counts = (torch.zeros_like(r.load) if r.counts is None else r.counts for r in found)
        loads = torch.stack(list(counts))  # (layers, num_experts)
        if group is not None:
            dist.all_reduce(loads, group=group)
        for router, load in zip(found, loads, strict=True):
            router.end_step(load)

    optimizer.register_step_post_hook(end_step)


def imbalance(model: nn.Module, pp: DeviceMesh | None = None) -> dict[str, float]:
    """For metrics.jsonl: the busiest expert's load over the mean of its layer, in the worst layer;
    nothing for a dense model.

    Args:
        pp: the ranks that have the other layers.
    """
    loads = [router.load.double() for router in routers(model)]
    worst = max([(load.max() / load.mean()).item() for load in loads], default=0.0)
    if pp is not None:
        whole = torch.tensor(worst, device=pp.device_type)
        dist.all_reduce(whole, dist.ReduceOp.MAX, pp.get_group())
        worst = whole.item()
    return {"expert_load": worst} if worst else {}
