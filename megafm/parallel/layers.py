"""Tensor-parallel layers (Megatron-LM, arXiv:1909.08053) with sequence parallelism
(arXiv:2205.05198).

Shapes: B batch, T tokens, D dim, n ranks of `tp`. Between blocks each rank holds T/n tokens of
every sequence, (B, T/n, D); inside attention and feed-forward it holds all T tokens of 1/n of the
heads or of the hidden width:

    (B, T/n, D) -> norm -> all-gather -> column-parallel -> (B, T, width/n)
                -> row-parallel -> reduce-scatter -> (B, T/n, D)

Parameters are DTensors over `tp` that carry their sharding; the layers compute on the local part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from megafm import ops
from megafm.ops.autocast import autocast_dtype
from megafm.parallel.collectives import (
    Gathering,
    Scattering,
    all_gather,
    all_gather_whole,
    reduce_scatter,
    sum_gradient,
)


def parameter(shape: Sequence[int], tp: DeviceMesh, shard: int | None) -> nn.Parameter:
    """An uninitialised parameter over the ranks of `tp`: sharded along the dimension `shard`, which
    they divide, or replicated."""
    local = list(shape)
    if shard is not None:
        assert local[shard] % tp.size() == 0
        local[shard] //= tp.size()
    placement = Replicate() if shard is None else Shard(shard)
    return nn.Parameter(DTensor.from_local(torch.empty(local), tp, [placement], run_check=False))


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank computes with: the parameter itself, its shard, or its replica, whose gradient
    is summed over the ranks since each uses it on tokens or heads of its own."""
    if not isinstance(tensor, DTensor):
        return tensor
    if tensor.placements == (Replicate(),):
        return sum_gradient(tensor.to_local(), tensor.device_mesh.get_group())
    return tensor.to_local()


class VocabParallelEmbedding(nn.Module):
    """Rows of weight (vocab_size, dim) by token: tokens (B, T) -> (B, T/n, dim)."""

    def __init__(self, vocab_size: int, dim: int, tp: DeviceMesh) -> None:
        super().__init__()
        self.tp = tp
        self.weight = parameter((vocab_size, dim), tp, shard=0)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        rank, size = self.tp.get_local_rank(), self.tp.size()
        if tokens.shape[1] % size:
            raise ValueError(
                f"parallel.tp={size}: does not divide the {tokens.shape[1]} tokens of a sequence; "
                f"set train.seq_len={-(-tokens.shape[1] // size) * size}"
            )
        weight = local(self.weight)
        row = tokens - rank * len(weight)
        # What lies outside the whole vocabulary stays, and is refused by the look-up.
        elsewhere = torch.zeros_like(row, dtype=torch.bool)
        if rank > 0:
            elsewhere |= row < 0
        if rank < size - 1:
            elsewhere |= row >= len(weight)
        rows = F.embedding(row.masked_fill(elsewhere, 0), weight)
        rows = rows.masked_fill(elsewhere.unsqueeze(-1), 0)
        return reduce_scatter(rows, 1, self.tp.get_group())


class ColumnParallelLinear(nn.Module):
    """y = x W^T, the output features sharded: (B, T/n, in_features) -> (B, T, out_features/n).

    Args:
        num_heads: the output is that many heads, of which this rank wants those that its 1/n of
            the query heads attend to. With fewer heads than ranks several share one: each
            computes a part of its features, and all features are gathered.
    """

    def __init__(
        self, in_features: int, out_features: int, tp: DeviceMesh, num_heads: int | None = None
    ) -> None:
        super().__init__()
        self.tp = tp
        self.num_heads = num_heads
        self.weight = parameter((out_features, in_features), tp, shard=0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return column_parallel(x, self)[0]

    def own_heads(self, y: torch.Tensor) -> torch.Tensor:
        """This rank's features (B, T, out_features/n) -> those of the heads it wants."""
        rank, size = self.tp.get_local_rank(), self.tp.size()
        if self.num_heads is None or self.num_heads >= size:
            return y
        head_dim = y.shape[-1] * size // self.num_heads
        head = rank * self.num_heads // size
        return all_gather(y, -1, self.tp.get_group()).narrow(-1, head * head_dim, head_dim)


class RowParallelLinear(nn.Module):
    """y = x W^T, the input features sharded: (B, T, in_features/n) -> (B, T/n, out_features)."""

    def __init__(self, in_features: int, out_features: int, tp: DeviceMesh) -> None:
        super().__init__()
        self.tp = tp
        self.weight = parameter((out_features, in_features), tp, shard=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return reduce_scatter(ops.linear(x, local(self.weight)), 1, self.tp.get_group())


def column_parallel(x: torch.Tensor, *linears: ColumnParallelLinear) -> tuple[torch.Tensor, ...]:
    """Each of `linears` on the same x (B, T/n, D), which is gathered once for all of them."""
    dtype = autocast_dtype(x) or x.dtype  # what is gathered is rounded for the matmul anyway
    weights = [local(linear.weight).to(dtype) for linear in linears]
    outputs = _ColumnParallel.apply(linears[0].tp.get_group(), x.to(dtype), *weights)
    return tuple(linear.own_heads(y) for linear, y in zip(linears, outputs, strict=True))


class _ColumnParallel(torch.autograd.Function):
    """Keeps x as the shard that it is and gathers it again in the backward pass, while the gradient
    of the input is computed; that is reduced while the gradients of the weights are."""

    @staticmethod
    def forward(
        ctx: Any, group: dist.ProcessGroup, x: torch.Tensor, *weights: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        ctx.group = group
        ctx.save_for_backward(x, *weights)
        whole = Gathering(x, 1, group).wait()
        return tuple(ops.linear(whole, weight) for weight in weights)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        gathering = Gathering(x, 1, ctx.group)
        d_whole = ops.linear(grads[0], weights[0].T)
        for grad, weight in zip(grads[1:], weights[1:], strict=True):
            d_whole += ops.linear(grad, weight.T)
        scattering = Scattering(d_whole, 1, ctx.group)
        whole = gathering.wait().flatten(0, 1).T  # (D, B T)
        d_weights = [ops.linear(grad.flatten(0, 1).T, whole) for grad in grads]
        return None, scattering.wait(), *d_weights


def gather_sequence(x: torch.Tensor, tp: DeviceMesh) -> torch.Tensor:
    """(B, T/n, D) -> (B, T, D), for a use that is the same on all ranks and gets x a whole
    gradient: `vocab_parallel_logits`, `ops.linear_cross_entropy` with its group."""
    return all_gather_whole(x.to(autocast_dtype(x) or x.dtype), 1, tp.get_group())


def vocab_parallel_logits(
    hidden: torch.Tensor, weight: torch.Tensor, tp: DeviceMesh
) -> torch.Tensor:
    """hidden (B, T, D), weight (vocab, D) sharded over the vocabulary -> whole logits (B, T, vocab)
    on every rank."""
    group = tp.get_group()
    return all_gather_whole(ops.linear(sum_gradient(hidden, group), local(weight)), -1, group)
