"""The samples that a training run reads, from its settings."""

from __future__ import annotations

import hashlib
from pathlib import Path

from megafm.data.blend import Blend
from megafm.data.config import BlendPart, TrainingData
from megafm.data.packed import PackedDocuments
from megafm.data.samples import Samples
from megafm.data.tokenization import check_tokenizer
from megafm.data.windows import TokenWindows
from megafm.tokenizer import Tokenizer


def training_samples(data: TrainingData, seq_len: int, seed: int) -> Samples:
    """The training shards of data.blend, or of data.dir alone, in one order.

    Raises:
        ValueError: a shard is missing, cut off or too short.
    """
    kind = TokenWindows if data.packing == "stream" else PackedDocuments
    sources = [kind(Path(part.dir) / "train", seq_len, seed) for part in _parts(data)]
    if len(sources) == 1:
        return sources[0]
    return Blend(sources, [part.weight for part in data.blend])


def check_data(data: TrainingData, tokenizer: Tokenizer) -> str:
    """See that all shards hold this tokenizer's tokens; the snapshot ID of the whole.

    Raises:
        ValueError: there are no shards yet, or they are another tokenizer's.
    """
    snapshot_id = check_tokenizer(data.dir, tokenizer).snapshot_id
    if not data.blend:
        return snapshot_id
    digest = hashlib.sha256(snapshot_id.encode())
    for part in data.blend:
        manifest = check_tokenizer(part.dir, tokenizer)
        digest.update(f"{manifest.snapshot_id} {part.weight}\n".encode())
    return digest.hexdigest()


def _parts(data: TrainingData) -> tuple[BlendPart, ...]:
    return data.blend or (BlendPart(data.dir, 1.0),)
