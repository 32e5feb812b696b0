"""Words of a text, where they stand, and hashes of runs of them.

A word is a run of letters and digits of any script, taken without regard to case; a character of a
script without spaces (Chinese, Japanese, Thai, ...) is a word.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Sequence

import numpy as np

from megafm.data.permutation import mix

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
BASE = np.uint64(0x9E3779B97F4A7C15)
INVERSE = np.uint64(pow(int(BASE), -1, 2**64))
WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")


def words(text: str) -> list[str]:
    return [word.casefold() for word in WORD.findall(text)]


def spans(text: str) -> list[tuple[int, int]]:
    """Where each of `words` begins and ends."""
    return [match.span() for match in WORD.finditer(text)]


def hash_text(text: str) -> int:
    """Of 64 bits, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


_hash_word = functools.lru_cache(maxsize=2**18)(hash_text)  # of long texts it would be the corpus


def hashes(of: Sequence[str]) -> np.ndarray:
    """uint64 (words,), the same on every machine."""
    return np.fromiter(map(_hash_word, of), np.uint64, len(of))


def runs(of: np.ndarray, length: int) -> np.ndarray:
    """Hashes of all runs of so many words: uint64 (words - length + 1,), at least 0."""
    count = max(len(of) - length + 1, 0)
    value = np.zeros(count, np.uint64)
    for place in range(length):
        value = mix(value ^ of[place : place + count])
    return value


def windows(of: np.ndarray, length: int) -> np.ndarray:
    """Other hashes of all runs of so many words, at most 512, at a cost without regard to length.

    A polynomial modulo 2**64 of the mixed hashes: from 1,024 on, any two values in the order of
    Thue and Morse make windows that share one (Pachocki, Radoszewski, 2013).
    """
    count = max(len(of) - length + 1, 0)
    powers = np.full(len(of), BASE).cumprod(dtype=np.uint64)
    sums = np.append(np.uint64(0), (mix(of) * powers).cumsum(dtype=np.uint64))
    inverse = np.full(count, INVERSE).cumprod(dtype=np.uint64)
    return mix((sums[length:] - sums[:count]) * inverse)
