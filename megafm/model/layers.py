"""The layers a decoder is made of, and `Layers`, which chooses their classes for a layout.

Weights are left as allocated: the decoder fills them by name and seed (`Decoder.init_weights`),
so that building on the meta device and materialising later gives the same model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from megafm import ops
from megafm.model.config import ModelConfig
from megafm.parallel import layers as parallel
from megafm.parallel.context_parallel import Context, ContextParallel
from megafm.parallel.expert_parallel import at_experts
from megafm.parallel.mesh import axis


class Linear(nn.Linear):
    """y = x W^T, no bias; weight (out_features, in_features)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        pass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ops.linear(x, self.weight)


class Embedding(nn.Embedding):
    """Rows of weight (vocab_size, dim) by token."""

    def reset_parameters(self) -> None:
        pass


class GroupedLinear(nn.Module):
    """A linear layer for each expert, over rows that are sorted by expert.

    Args:
        weight: (num_experts, out_features, in_features).
    """

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """x (rows, in_features), counts (num_experts,) -> (rows, out_features)"""
        return ops.grouped_linear(x, parallel.local(self.weight), counts)


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension (arXiv:1910.07467).

    Args:
        weight: (dim,); by default a parameter of one rank alone.
    """

    def __init__(self, dim: int, eps: float, weight: nn.Parameter | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim)) if weight is None else weight
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, ops.rms_norm(x, parallel.local(self.weight), self.eps))

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(norm(x + residual), x + residual) in one pass over memory."""
        both = ops.rms_norm(x, parallel.local(self.weight), self.eps, residual=residual)
        return cast(tuple[torch.Tensor, torch.Tensor], both)


class Layers:
    """The layers of one rank; a layout that splits them overrides what it changes.

    Between blocks x is (B, T, D) of the tokens that this rank holds; `project` goes from there to
    heads or hidden width, and a row linear back.

    Args:
        context: takes tokens to this rank's part of the sequence, and attends to all of it; by
            default the part is all.
        ep: the ranks that share the experts; None is this one alone.
    """

    def __init__(self, context: Context | None = None, ep: DeviceMesh | None = None) -> None:
        self.context = Context() if context is None else context
        self.ep = ep

    def embedding(self, vocab_size: int, dim: int) -> Embedding | parallel.VocabParallelEmbedding:
        return Embedding(vocab_size, dim)

    def norm(self, dim: int, eps: float) -> RMSNorm:
        return RMSNorm(dim, eps)

    def column_linear(
        self, in_features: int, out_features: int, num_heads: int | None = None
    ) -> nn.Module:
        """Into heads or hidden width, for `project`.

        Args:
            num_heads: key/value heads, which several query heads share.
        """
        return Linear(in_features, out_features)

    def row_linear(self, in_features: int, out_features: int) -> nn.Module:
        """Back from heads or hidden width."""
        return Linear(in_features, out_features)

    def replica(self, *shape: int) -> nn.Parameter:
        """A parameter that every rank uses whole, on the tokens that it holds."""
        return nn.Parameter(torch.empty(shape))

    def grouped_linear(
        self, num_experts: int, in_features: int, out_features: int
    ) -> GroupedLinear:
        """For the experts of this rank, inside `at_experts`."""
        shape = (num_experts, out_features, in_features)
        if self.ep is None:
            return GroupedLinear(self.replica(*shape))
        return GroupedLinear(parallel.parameter(shape, self.ep, shard=0))

    def at_experts(
        self,
        compute: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        rows: torch.Tensor,
        counts: torch.Tensor,
    ) -> torch.Tensor:
        """`compute` of rows (n, D), sorted by expert, and the number of them for each expert."""
        if self.ep is None:
            return compute(rows, counts)
        return at_experts(compute, rows, counts, self.ep)

    def project(self, x: torch.Tensor, *linears: nn.Module) -> tuple[torch.Tensor, ...]:
        """Each of the column linears on the same x."""
        return tuple(linear(x) for linear in linears)

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """All tokens, for `logits` and `loss`."""
        return x

    def logits(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """hidden (B, T, D), head weight (V, D) -> (B, T, V)."""
        return ops.linear(hidden, weight)

    def loss(
        self, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """hidden (tokens, D), head weight (V, D), targets (tokens,) -> summed cross-entropy."""
        return ops.linear_cross_entropy(hidden, weight, targets, reduction="sum")


class TensorParallelLayers(Layers):
    """Every layer split over the ranks of `tp`: see megafm/parallel/layers.py."""

    def __init__(self, context: Context | None, tp: DeviceMesh, ep: DeviceMesh | None) -> None:
        super().__init__(context, ep)
        self.tp = tp

    def embedding(self, vocab_size: int, dim: int) -> parallel.VocabParallelEmbedding:
        return parallel.VocabParallelEmbedding(vocab_size, dim, self.tp)

    def norm(self, dim: int, eps: float) -> RMSNorm:
        return RMSNorm(dim, eps, self.replica(dim))

    def column_linear(
        self, in_features: int, out_features: int, num_heads: int | None = None
    ) -> nn.Module:
        return parallel.ColumnParallelLinear(in_features, out_features, self.tp, num_heads)

    def row_linear(self, in_features: int, out_features: int) -> nn.Module:
        return parallel.RowParallelLinear(in_features, out_features, self.tp)

    def replica(self, *shape: int) -> nn.Parameter:
        return parallel.parameter(shape, self.tp, shard=None)

    def project(self, x: torch.Tensor, *linears: nn.Module) -> tuple[torch.Tensor, ...]:
        return parallel.column_parallel(
            x, *(cast(parallel.ColumnParallelLinear, linear) for linear in linears)
        )

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        return parallel.gather_sequence(x, self.tp)

    def logits(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return parallel.vocab_parallel_logits(hidden, weight, self.tp)

    def loss(
        self, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        shard, group = parallel.local(weight), self.tp.get_group()
        return ops.linear_cross_entropy(hidden, shard, targets, reduction="sum", group=group)


def choose_layers(mesh: DeviceMesh | None, cp_attention: str, experts: DeviceMesh | None) -> Layers:
    """The layers for a mesh, None is one rank, and for the `expert_mesh` beside it."""
    cp, tp, ep = axis(mesh, "cp"), axis(mesh, "tp"), axis(experts, "ep")
    context = None if cp is None else ContextParallel(cp, cp_attention)
    return Layers(context, ep) if tp is None else TensorParallelLayers(context, tp, ep)


class RotaryTables(nn.Module):
    """cos and sin of every position, float32; a function of the config, so not saved.

    They are made anew on whatever device the model moves to (also after `to_empty`), and keep
    float32 when the model is cast.
    """

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self._fill(torch.get_default_device())

    def forward(self, start: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows of positions start ... start + length - 1."""
        end = start + length
        if end > self.config.max_seq_len:
            raise ValueError(
                f"model.max_seq_len={self.config.max_seq_len}: the sequence has {end} tokens; "
                f"set model.max_seq_len={end}"
            )
        return self.cos[start:end], self.sin[start:end]

    def _fill(self, device: torch.device) -> None:
        config = self.config
        tables = ops.rope_cache(
            config.max_seq_len,
            config.head_dim,
            base=config.rope_base,
            scaling=config.rope_scaling,
            device=device,
        )
        for name, table in zip(("cos", "sin"), tables, strict=True):
            self.register_buffer(name, table, persistent=False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
        # `to` cannot copy a meta tensor, so ask where it would put a real one
        probe = torch.empty(0, device="cpu") if self.cos.is_meta else self.cos[:0]
        device = fn(probe).device
        if device != self.cos.device:
            self._fill(device)
        return self
