"""Keys and values of the tokens a model has already read."""

from __future__ import annotations

import torch


class KVCache:
    """Preallocated keys and values of one batch of equally long sequences.

    Each layer holds two tensors (batch, max_len, kv_heads, head_dim), allocated at its first
    append with the batch, heads, dtype and device that arrive there: a cache fits any precision.

    Attributes:
        max_len: tokens of context it can hold.
        length: tokens it holds.
    """

    def __init__(self, max_len: int) -> None:
        self.max_len = max_len
        self.length = 0
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def append(
        self, layer: int, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the new k and v (batch, new, kv_heads, head_dim) of a layer; returns views of all
        of them (batch, length + new, kv_heads, head_dim). `advance` follows after the last layer.

        Raises:
            ValueError: the context would exceed max_len.
        """
        end = self.length + k.shape[1]
        if end > self.max_len:
            raise ValueError(
                f"KVCache(max_len={self.max_len}): {end} tokens do not fit; set max_len={end}"
            )
        if layer not in self._layers:
            shape = (k.shape[0], self.max_len, *k.shape[2:])
            self._layers[layer] = (k.new_empty(shape), v.new_empty(shape))
        keys, values = self._layers[layer]
        keys[:, self.length : end] = k
        values[:, self.length : end] = v
        return keys[:, :end], values[:, :end]

    def advance(self, num_tokens: int) -> None:
        """The last `num_tokens` that every layer appended are now part of the context."""
        self.length += num_tokens
