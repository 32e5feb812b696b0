"""The router of a mixture of experts, and what keeps the experts' load even.

Scores s of a token are the softmax, or the sigmoids, of its products with a vector per expert; the
k experts with the highest s + bias compute it. Two ways to balance, from the load of the *whole*
last step, f_i = share of all choices that fell on expert i, so that neither the layout nor the
number of microbatches changes a gradient:

    auxiliary loss (Switch, arXiv:2101.03961, eq. 4-6; f of the global batch: arXiv:2501.11873)
        aux_loss * num_experts * sum_i f_i P_i,  P_i = sum over tokens of p_i / tokens of the step
    bias (arXiv:2408.15664, algorithm 1), for the choice alone
        bias_i += bias_update_rate * sign(mean load - load_i)

p is s made to sum to 1. Switch takes f of the batch at hand, of which a microbatch knows its own
part only; f is a constant to the gradient, so that of the step before serves. All tokens count,
also those without a target: experts compute them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from megafm import ops
from megafm.model.config import MoeConfig
from megafm.model.layers import Layers
from megafm.parallel.layers import local


class Router(nn.Module):
    """x (n, D) -> the k experts of each token and their weights.

    Attributes:
        weight: (num_experts, D).
        choose: which experts take a token; what has no scores, a dry run, sets another.
        bias: (num_experts,) added to the scores for the choice.
        load: (num_experts,) int64, tokens of the last step, over all ranks.
        counts: (num_experts,) int64, tokens of this step so far, on this rank; None before any.
    """

    bias: torch.Tensor
    load: torch.Tensor
    counts: torch.Tensor | None = None

    def __init__(self, dim: int, moe: MoeConfig, layers: Layers) -> None:
        super().__init__()
        self.moe = moe
        self.choose = best
        self.weight = layers.replica(moe.num_experts, dim)
        self.register_buffer("bias", torch.zeros(moe.num_experts, dtype=torch.float32))
        self.register_buffer("load", torch.zeros(moe.num_experts, dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x (n, D) -> weights (n, k), experts (n, k) int64, counts (num_experts,) int64.

        In float32 at least, whatever x is.
        """
        moe = self.moe
        with torch.autocast(x.device.type, enabled=False):
            logits = ops.linear(_wide(x), _wide(local(self.weight)))  # (n, num_experts)
        if moe.scoring == "softmax":
            scores = probabilities = logits.softmax(-1)
        else:
            scores = logits.sigmoid()
            probabilities = scores / (scores.sum(-1, keepdim=True) + EPS)
        experts, counts = self.choose(scores.detach() + self.bias, moe.num_experts_per_token)
        if self.training:
            scores = _Balance.apply(scores, probabilities, counts, self)
        weights = scores.gather(-1, experts)
        if moe.normalize_weights:
            weights = weights / (weights.sum(-1, keepdim=True) + EPS)
        return weights * moe.weight_scale, experts, counts

    def pressure(self) -> torch.Tensor:
        """(num_experts,): the gradient of the auxiliary loss for the probabilities of any token."""
        load = self.load.double()
        choices = load.sum().clamp(min=1)
        tokens = choices / self.moe.num_experts_per_token
        return self.moe.aux_loss * self.moe.num_experts * load / choices / tokens

    @torch.no_grad()
    def end_step(self, load: torch.Tensor) -> None:
        """Take the load (num_experts,) of the step that ends, over all ranks."""
        error = load.sum() - load * len(load)  # of a mean that is no integer
        self.bias += self.moe.bias_update_rate * error.sign()
        self.load.copy_(load)
        self.counts = None

    def reset(self) -> None:
        for buffer in self.buffers():
            buffer.zero_()


EPS = 1e-20  # sigmoids may all be 0


def best(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """scores (n, num_experts) -> the k best experts of each token (n, k) int64, and how many tokens
    each expert gets, (num_experts,) int64."""
    experts = scores.topk(k).indices
    chosen = experts.flatten()
    counts = chosen.new_zeros(scores.shape[1]).scatter_add_(0, chosen, torch.ones_like(chosen))
    return experts, counts


class _Balance(torch.autograd.Function):
    """The scores, whose backward pass adds the auxiliary loss's gradient and counts the load: once
    per microbatch, also where activation checkpointing computes the forward pass twice, and never
    for an evaluation."""

    @staticmethod
    def forward(
        ctx: Any,
        scores: torch.Tensor,
        probabilities: torch.Tensor,
        counts: torch.Tensor,
        router: Router,
    ) -> torch.Tensor:
        ctx.router = router
        ctx.save_for_backward(counts)
        return scores.view_as(scores)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (counts,) = ctx.saved_tensors
        before = ctx.router.counts
        ctx.router.counts = counts if before is None else before + counts
        pressure = None
        if ctx.router.moe.aux_loss > 0:
            pressure = ctx.router.pressure().to(grads[0].dtype).expand_as(grads[0])
        return grads[0], pressure, None, None


def routers(model: nn.Module) -> list[Router]:
    """Those of a model, by layer; none in a dense one."""
    return [module for module in model.modules() if isinstance(module, Router)]


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
