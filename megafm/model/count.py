"""Exact parameter and FLOP counts from the config alone."""

from __future__ import annotations

from megafm.model.config import ModelConfig


def num_parameters(config: ModelConfig) -> int:
    """Parameters of `build(config)`; a tied head is counted once."""
    return _parameters(config, config.moe.num_experts if config.moe else 0)


def num_active_parameters(config: ModelConfig) -> int:
    """Those that a token meets: of the routed experts, only the ones it is sent to."""
    return _parameters(config, config.moe.num_experts_per_token if config.moe else 0)


def matmul_parameters(config: ModelConfig) -> int:
    """Parameters that a token is multiplied with: the head included even when it is tied, the
    look-up in the embedding, the norms and other tokens' experts not."""
    experts = config.moe.num_experts_per_token if config.moe else 0
    return _layers_matmul_parameters(config, experts) + config.vocab_size * config.dim


def flops_per_token(config: ModelConfig, seq_len: float) -> float:
    """Training FLOPs of one token, forward and backward, averaged over a sequence of `seq_len`.

    6 per parameter in matmuls (2 forward, 4 backward), and 12 per query head, channel and key in
    attention (scores and weighted sum, a multiply and an add each, three times over). Causal
    attention is counted once: only the keys that a token may see. Recomputation is not counted.
    Of packed documents `seq_len` is their mean length over tokens, exact where there is no window.
    """
    attention = config.num_layers * _attention_flops(config, seq_len)
    return 6 * matmul_parameters(config) + attention


def flops_by_layer(config: ModelConfig, seq_len: int) -> list[int]:
    """Of `flops_per_token`, the part of each layer."""
    experts = config.moe.num_experts_per_token if config.moe else 0
    attention = _attention_flops(config, seq_len)
    layers = range(config.num_layers)
    return [
        round(6 * _layer_matmul_parameters(config, layer, experts) + attention) for layer in layers
    ]


def head_flops(config: ModelConfig) -> int:
    """Of `flops_per_token`, the part of the head."""
    return 6 * config.vocab_size * config.dim


def mean_context(seq_len: float, window: int | None = None) -> float:
    """Keys a token sees, itself included, averaged over a causal sequence."""
    if window is None or window >= seq_len:
        return (seq_len + 1) / 2
    return (window * (window + 1) / 2 + (seq_len - window) * window) / seq_len


def _parameters(config: ModelConfig, num_experts: int) -> int:
    """With that many experts in a layer of experts."""
    tables = (1 if config.tie_embeddings else 2) * config.vocab_size * config.dim
    norms = 2 * config.dim + (2 * config.head_dim if config.qk_norm else 0)
    layers = _layers_matmul_parameters(config, num_experts) + config.num_layers * norms
    return tables + layers + config.dim


def _layers_matmul_parameters(config: ModelConfig, num_experts: int) -> int:
    layers = range(config.num_layers)
    return sum(_layer_matmul_parameters(config, layer, num_experts) for layer in layers)


def _layer_matmul_parameters(config: ModelConfig, layer: int, num_experts: int) -> int:
    attention = 2 * config.dim * config.q_dim + 2 * config.dim * config.kv_dim
    if config.moe is None or layer < config.moe.num_dense_layers:
        return attention + 3 * config.dim * config.ffn_dim
    moe = config.moe
    router = moe.num_experts * config.dim
    experts = 3 * config.dim * moe.ffn_dim * (num_experts + moe.num_shared_experts)
    return attention + router + experts


def _attention_flops(config: ModelConfig, seq_len: float) -> float:
    return 12 * config.q_dim * mean_context(seq_len, config.window)
