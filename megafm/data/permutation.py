"""A shuffled order that needs no memory: entry i of a permutation of n, computed when asked for.

A Feistel network over the smallest power of four that holds n is a bijection of that range;
applying it again while the result is n or more ("cycle walking") makes it one of range(n), after
less than four steps on average. Source: Black, Rogaway, Ciphers with Arbitrary Finite Domains,
CT-RSA 2002.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 6


def permute(index: np.ndarray, size: int, seed: int, epoch: np.ndarray) -> np.ndarray:
    """Where each index goes in the permutation of range(size) that belongs to its epoch.

    Args:
        index: int64, any shape, each in range(size).
        epoch: int64, the shape of `index`: each epoch has a permutation of its own.
    """
    half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    key = mix(
        mix(np.uint64(seed % 2**64) + np.zeros_like(epoch, np.uint64)) + epoch.astype(np.uint64)
    )
    value = _feistel(index.astype(np.uint64), half_bits, key)
    outside = value >= size
    while outside.any():
        value[outside] = _feistel(value[outside], half_bits, key[outside])
        outside = value >= size
    return value.astype(np.int64)


def _feistel(value: np.ndarray, half_bits: np.uint64, key: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = value >> half_bits, value & mask
    for number in range(ROUNDS):
        left, right = right, left ^ (mix(key + mix(right + np.uint64(number << 56))) & mask)
    return (left << half_bits) | right


def mix(value: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, 2014), elementwise on uint64."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
