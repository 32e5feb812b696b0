"""The samples that a training run reads, from its settings."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np

from megafm.data.blend import Blend
from megafm.data.config import BlendPart, TrainingData
from megafm.data.packed import PackedDocuments
from megafm.data.samples import Samples
from megafm.data.token_formats import Headerless, find_format, open_tokens
from megafm.data.tokenization import check_tokenizer
from megafm.data.windows import TokenWindows
from megafm.tokenizer import Tokenizer

LOOKED_AT = 1_000_000  # tokens of files made elsewhere


def training_samples(data: TrainingData, seq_len: int, seed: int) -> Samples:
    """The training shards of data.blend, or of data.dir alone, in one order.

    Raises:
        ValueError: a shard is missing, cut off or too short.
    """
    kind = TokenWindows if data.packing == "stream" else PackedDocuments
    headerless = Headerless(data.token_dtype, data.eod_id)
    sources = [kind(Path(part.dir) / "train", seq_len, seed, headerless) for part in _parts(data)]
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
        digest.update(f"{_snapshot(part.dir, data, tokenizer)} {part.weight}\n".encode())
    return digest.hexdigest()


def _snapshot(folder: str, data: TrainingData, tokenizer: Tokenizer) -> str:
    """Of a folder with a manifest what it says; of token files made elsewhere their names and
    sizes, after a look at the first tokens.

    Raises:
        ValueError: the tokens are another tokenizer's.
    """
    found = find_format(Path(folder) / "train")
    if found is None:
        return check_tokenizer(folder, tokenizer).snapshot_id
    tokens = open_tokens(Path(folder) / "train", Headerless(data.token_dtype, data.eod_id))
    count = np.array([min(tokens.num_tokens, LOOKED_AT)])
    first, _ = tokens.gather(np.zeros(1, np.int64), count)
    if len(first) and not 0 <= int(first.min()) <= int(first.max()) < tokenizer.vocab_size:
        raise ValueError(
            f"data.blend: {folder} has the token {int(first.max())}, the tokenizer only "
            f"{tokenizer.vocab_size}; set tokenizer.dir to the one that made it, or "
            "data.token_dtype to the type of its tokens"
        )
    warnings.warn(
        f"{folder}: made elsewhere, so nothing says that its tokens are those of tokenizer.dir",
        stacklevel=2,
    )
    files = sorted(path for path in found[1].iterdir() if path.is_file())
    names = "\n".join(f"{path.name} {path.stat().st_size}" for path in files)
    return hashlib.sha256(names.encode()).hexdigest()


def _parts(data: TrainingData) -> tuple[BlendPart, ...]:
    return data.blend or (BlendPart(data.dir, 1.0),)
