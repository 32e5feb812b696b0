"""Exact parameter and FLOP counts from the config alone."""

from __future__ import annotations

from megafm.model.config import ModelConfig


def num_parameters(config: ModelConfig) -> int:
    """Parameters of `build(config)`; a tied head is counted once."""
    head = 0 if config.tie_embeddings else config.vocab_size * config.dim
    embedding = config.vocab_size * config.dim
    return embedding + config.num_layers * _block_parameters(config) + config.dim + head


def matmul_parameters(config: ModelConfig) -> int:
    """Parameters that a token is multiplied with: the head included even when it is tied, the
    look-up in the embedding and the norms not."""
    return config.num_layers * _block_matmul_parameters(config) + config.vocab_size * config.dim


def flops_per_token(config: ModelConfig, seq_len: int) -> float:
    """Training FLOPs of one token, forward and backward, averaged over a sequence of `seq_len`.

    6 per parameter in matmuls (2 forward, 4 backward), and 12 per query head, channel and key in
    attention (scores and weighted sum, a multiply and an add each, three times over). Causal
    attention is counted once: only the keys that a token may see. Recomputation is not counted.
    """
    attention = 12 * config.num_layers * config.q_dim * mean_context(seq_len, config.window)
    return 6 * matmul_parameters(config) + attention


def mean_context(seq_len: int, window: int | None = None) -> float:
    """Keys a token sees, itself included, averaged over a causal sequence."""
    if window is None or window >= seq_len:
        return (seq_len + 1) / 2
    return (window * (window + 1) / 2 + (seq_len - window) * window) / seq_len


def _block_parameters(config: ModelConfig) -> int:
    norms = 2 * config.dim + (2 * config.head_dim if config.qk_norm else 0)
    return norms + _block_matmul_parameters(config)


def _block_matmul_parameters(config: ModelConfig) -> int:
    attention = 2 * config.dim * config.q_dim + 2 * config.dim * config.kv_dim
    return attention + 3 * config.dim * config.ffn_dim
