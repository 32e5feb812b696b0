"""Which documents a tokenizer learns from: evenly by hash, or with a say for small languages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from megafm.data.document import read_documents


def sample(
    data_dir: str, total_bytes: int, max_bytes: int, temperature: float = 1.0
) -> Iterator[str]:
    """Training documents chosen by the hash of their ids, about `max_bytes` of `total_bytes`.

    With a temperature above 1 a first pass counts the bytes of each language (documents that state
    none are one more), and each takes part with its count to the power of 1 / temperature.
    """
    if temperature == 1.0:
        shares, default = {}, max_bytes / max(total_bytes, 1)
    else:
        shares, default = language_shares(bytes_by_language(data_dir), max_bytes, temperature), 0.0
    for document in read_documents(data_dir, "train"):
        digest = hashlib.sha256(document.id.encode()).digest()
        share = shares.get(document.language, default)
        if int.from_bytes(digest[:8], "big") < share * 2**64:
            yield document.text


def bytes_by_language(data_dir: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for document in read_documents(data_dir, "train"):
        counts[document.language] = counts.get(document.language, 0) + document.num_bytes
    return counts


def language_shares(counts: dict[str, int], max_bytes: int, temperature: float) -> dict[str, float]:
    """The share of each language's documents to take. What a language cannot fill goes to the
    others. Source: Conneau, Lample, Cross-lingual Language Model Pretraining (2019), section 3.1.
    """
    shares: dict[str, float] = {}
    left = float(max_bytes)
    weights = {name: count ** (1 / temperature) for name, count in counts.items() if count}
    while weights:
        per_weight = left / sum(weights.values())
        full = [name for name in weights if per_weight * weights[name] >= counts[name]]
        for name in full or list(weights):
            wanted = per_weight * weights[name]
            shares[name] = min(1.0, wanted / counts[name])
        if not full:
            break
        for name in full:
            left -= counts[name]
            del weights[name]
    return shares
