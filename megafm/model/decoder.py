"""A Llama-style decoder: pre-norm blocks of grouped-query attention and SwiGLU or experts.

    x = embedding[tokens]
    for each block:  x = x + attention(norm(x));  x = x + ffn(norm(x))
    logits = norm(x) head^T

Shapes: B batch, T tokens, D dim, H query heads, K key/value heads, C head_dim, V vocabulary.
Query, key and value are separate projections, as are gate and up: each is then sharded along its
heads (or hidden width) as it stands, for any number of ranks, and has its Hugging Face twin under
one name. One fused matmul instead measured 0-6% of the projection's own time on a CPU, nothing of
it in the feed-forward.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor

from megafm import ops
from megafm.model.cache import KVCache
from megafm.model.config import ModelConfig
from megafm.model.feed_forward import FeedForward
from megafm.model.layers import Layers, RotaryTables, choose_layers
from megafm.model.moe import MixtureOfExperts
from megafm.model.router import routers
from megafm.parallel.stages import Stage


def build(
    config: ModelConfig,
    mesh: DeviceMesh | None = None,
    *,
    cp_attention: str = "ring",
    experts: DeviceMesh | None = None,
    stages: Sequence[Stage] | None = None,
    seed: int | None = 0,
) -> Decoder:
    """A decoder on the default device, initialised from `seed` (None, or on meta: shapes alone).

    Args:
        mesh: of the ranks that share the model; its axes choose the layers' classes, and
            data-parallel ones leave them as they are.
        cp_attention: of ParallelConfig.
        experts: the `expert_mesh` beside it; None is without `ep`.
        stages: of the pipeline, those that this rank has; None is the whole model.
    """
    if stages is None:
        stages = [Stage(0, 1, 0, range(config.num_layers))]
    model = Decoder(config, choose_layers(mesh, cp_attention, experts), stages)
    if seed is not None and not next(model.parameters()).is_meta:
        model.init_weights(seed)
    return model


class Decoder(nn.Module):
    """tokens -> logits, or tokens and targets -> loss; what of it some stages of a pipeline need.

    Attributes:
        has_first, has_last: whether the first and the last stage are among them.
        blocks: by number in the whole model, so that a parameter has one name in any layout.
    """

    def __init__(self, config: ModelConfig, layers: Layers, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.config = config
        self.layers = layers
        self.has_first = any(stage.is_first for stage in stages)
        self.has_last = any(stage.is_last for stage in stages)
        if self.has_first or (self.has_last and config.tie_embeddings):
            self.embedding = layers.embedding(config.vocab_size, config.dim)
        self.rotary = RotaryTables(config)
        self.blocks = nn.ModuleDict(
            {str(n): Block(config, n, layers) for stage in stages for n in stage.layers}
        )
        if self.has_last:
            self.norm = layers.norm(config.dim, config.norm_eps)
            if not config.tie_embeddings:
                self.head = layers.column_linear(config.dim, config.vocab_size)

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor | None = None,
        cu_seqlens: torch.Tensor | None = None,
        cache: KVCache | None = None,
    ) -> torch.Tensor:
        """tokens (B, T) int64 -> logits (B, T, V).

        Every rank of cp and tp gets all T tokens and returns all logits.

        Args:
            positions: (B, T) or (T,) int64; by default they count from 0, or from the length of
                the cache, and within each sequence of `cu_seqlens`.
            cu_seqlens: (sequences + 1,) int32, B = 1: where packed sequences start, and T. A token
                sees those of its own sequence.
            cache: its tokens stand before `tokens`, which are appended to it.

        Raises:
            ValueError: the sequence, with the cache, is longer than model.max_seq_len.
        """
        hidden = self.hidden(tokens, positions, cu_seqlens, cache)
        return self.layers.context.whole(self.layers.logits(hidden, self.head_weight), 1)

    def loss(
        self,
        tokens: torch.Tensor,
        targets: torch.Tensor,
        positions: torch.Tensor | None = None,
        cu_seqlens: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Cross-entropy in nats, summed over the targets (B, T) that are not -100: a scalar.

        The logits never exist as a whole.
        """
        return self._loss(self.hidden(tokens, positions, cu_seqlens), targets)

    def stage(
        self,
        stage: Stage,
        x: torch.Tensor | None,
        tokens: torch.Tensor,
        targets: torch.Tensor,
        cu_seqlens: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What a stage of the pipeline does of `loss`: x after its layers, the last one the loss.

        Args:
            x: (tokens as between blocks, see `Layers`) of the stage before; None for the first.
        """
        if stage.is_first:
            x = self._embed(tokens)
        assert x is not None
        x = self._through(stage.layers, x, tokens.shape[1], None, cu_seqlens, None)
        return self._loss(self.layers.gather(self.norm(x)), targets) if stage.is_last else x

    def hidden(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor | None = None,
        cu_seqlens: torch.Tensor | None = None,
        cache: KVCache | None = None,
    ) -> torch.Tensor:
        """tokens (B, T) -> the normed output of the last block, of this rank's part of them
        (B, T/cp, D): what the head reads."""
        num_tokens, layers = tokens.shape[1], range(self.config.num_layers)
        x = self._through(layers, self._embed(tokens), num_tokens, positions, cu_seqlens, cache)
        if cache is not None:
            cache.advance(num_tokens)
        return self.layers.gather(self.norm(x))

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.embedding(self.layers.context.part(tokens, 1))

    def _through(
        self,
        layers: range,
        x: torch.Tensor,
        num_tokens: int,
        positions: torch.Tensor | None,
        cu_seqlens: torch.Tensor | None,
        cache: KVCache | None,
    ) -> torch.Tensor:
        """x after the blocks of `layers`; num_tokens are those of a whole sequence."""
        part = self.layers.context.part
        if cu_seqlens is not None and positions is None:
            positions = packed_positions(cu_seqlens, num_tokens)
        if positions is None:
            cos, sin = self.rotary(cache.length if cache else 0, num_tokens)
            rotary = part(cos, 0), part(sin, 0)
        else:
            positions = part(positions, -1)
            rotary = self.rotary(0, self.config.max_seq_len)
        for layer in layers:
            x = self.blocks[str(layer)](x, rotary, positions, cu_seqlens, cache)
        return x

    def _loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        targets = self.layers.context.part(targets, 1)
        loss = self.layers.loss(hidden.flatten(0, -2), self.head_weight, targets.flatten())
        return self.layers.context.total(loss)

    @property
    def shared_weight(self) -> nn.Parameter | None:
        """The embedding where it is tied to a head on another rank of `pp`, and that head: they are
        one weight, and their gradients are summed."""
        if self.config.tie_embeddings and self.has_first != self.has_last:
            return cast(nn.Parameter, self.embedding.weight)
        return None

    @property
    def copied_weight(self) -> nn.Parameter | None:
        """The shared weight where it is the head: it counts where it is the embedding."""
        return None if self.has_first else self.shared_weight

    @property
    def head_weight(self) -> torch.Tensor:
        """(V, D)"""
        module = self.embedding if self.config.tie_embeddings else self.head
        return cast(torch.Tensor, module.weight)

    @torch.no_grad()
    def init_weights(self, seed: int = 0) -> None:
        """Normal(0, init_std), projections into the residual stream / sqrt(2 layers), norms one.

        Each parameter has a random stream of its own, drawn on the CPU from the seed and its name:
        the weights depend neither on the device, nor on how they are sharded, nor on what else the
        model holds.
        """
        into_residual = 1 / math.sqrt(2 * self.config.num_layers)
        for name, parameter in self.named_parameters():
            value = torch.ones(parameter.shape, dtype=torch.float32, device="cpu")
            if parameter.ndim >= 2:
                scale = into_residual if name.endswith(("wo.weight", "w_down.weight")) else 1.0
                stream = hashlib.sha256(f"{seed}/{name}".encode()).digest()
                generator = torch.Generator("cpu").manual_seed(int.from_bytes(stream[:7], "big"))
                value.normal_(0.0, self.config.init_std * scale, generator=generator)
            if isinstance(parameter, DTensor):
                value = distribute_tensor(
                    value.to(parameter.device),
                    parameter.device_mesh,
                    parameter.placements,
                    src_data_rank=None,  # every rank has drawn the same
                )
            parameter.copy_(value)
        for router in routers(self):
            router.reset()


class Block(nn.Module):
    """x (B, T, D) -> x + attention + feed-forward."""

    def __init__(self, config: ModelConfig, layer: int, layers: Layers) -> None:
        super().__init__()
        self.attention_norm = layers.norm(config.dim, config.norm_eps)
        self.attention = Attention(config, layer, layers)
        self.ffn_norm = layers.norm(config.dim, config.norm_eps)
        if config.moe is not None and layer >= config.moe.num_dense_layers:
            self.ffn: nn.Module = MixtureOfExperts(config.dim, config.moe, layers)
        else:
            self.ffn = FeedForward(config.dim, config.ffn_dim, layers)

    def forward(
        self,
        x: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        positions: torch.Tensor | None = None,
        cu_seqlens: torch.Tensor | None = None,
        cache: KVCache | None = None,
    ) -> torch.Tensor:
        update = self.attention(self.attention_norm(x), rotary, positions, cu_seqlens, cache)
        normed, x = self.ffn_norm.add(update, residual=x)
        return x + self.ffn(normed)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, config: ModelConfig, layer: int, layers: Layers) -> None:
        super().__init__()
        self.layer = layer
        self.layers = layers
        self.head_dim = config.head_dim
        self.window = config.window
        self.wq = layers.column_linear(config.dim, config.q_dim)
        self.wk = layers.column_linear(config.dim, config.kv_dim, config.num_kv_heads)
        self.wv = layers.column_linear(config.dim, config.kv_dim, config.num_kv_heads)
        self.wo = layers.row_linear(config.q_dim, config.dim)
        self.q_norm = layers.norm(config.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = layers.norm(config.head_dim, config.norm_eps) if config.qk_norm else None

    def forward(
        self,
        x: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        positions: torch.Tensor | None = None,
        cu_seqlens: torch.Tensor | None = None,
        cache: KVCache | None = None,
    ) -> torch.Tensor:
        q, k, v = self.layers.project(x, self.wq, self.wk, self.wv)
        q = q.unflatten(-1, (-1, self.head_dim))  # (B, T, H, C)
        k = k.unflatten(-1, (-1, self.head_dim))  # (B, T, K, C)
        v = v.unflatten(-1, (-1, self.head_dim))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = ops.apply_rope(q, k, *rotary, positions=positions)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
        out = self.layers.context.attention(q, k, v, self.window, cu_seqlens)
        return self.wo(out.flatten(-2))


def packed_positions(cu_seqlens: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Positions (num_tokens,) that start again at 0 in each packed sequence."""
    index = torch.arange(num_tokens, device=cu_seqlens.device)
    starts = cu_seqlens.to(index.dtype)
    return index - starts[torch.searchsorted(starts, index, right=True) - 1]
