"""Routing without scores: tokens that mean nothing would all want the same experts."""

from __future__ import annotations

import torch
from torch import nn

from megafm.model import MoeConfig
from megafm.model.router import routers


def route_evenly(model: nn.Module) -> None:
    """Let every router give each expert as many tokens as any other, the first ones one more where
    they do not come out even."""
    for router in routers(model):
        router.choose = evenly


def evenly(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As `megafm.model.router.best`: the choices, token by token, go round the experts."""
    tokens, num_experts = scores.shape
    rounds, more = divmod(tokens * k, num_experts)
    choices = torch.arange(tokens * k, device=scores.device) % num_experts
    # From a list, so that a fake tensor has values: the rows of each expert are read by the host.
    counts = [rounds + (expert < more) for expert in range(num_experts)]
    return choices.view(tokens, k), torch.tensor(counts, device=scores.device)


def described(moe: MoeConfig) -> str:
    return (
        f"even, tokens x {moe.num_experts_per_token} / {moe.num_experts} for each expert; the rank "
        "of a busier one needs and moves more"
    )
