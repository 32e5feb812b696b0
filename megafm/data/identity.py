"""What a training run has seen, as a hash that its checkpoints hold."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from megafm.data.config import BlendPart, TrainingData
from megafm.data.token_formats import Headerless, find_format, open_tokens
from megafm.data.tokenization import check_tokenizer
from megafm.tokenizer import Tokenizer

LOOKED_AT = 1_000_000  # tokens of files made elsewhere


@dataclass(frozen=True)
class DataIdentity:
    """
    Attributes:
        folders: the snapshot ID of each training folder.
        stages: the token that each stage begins with, and the ID of its blend.
    """

    folders: dict[str, str]
    stages: tuple[tuple[int, str], ...]

    def snapshot_id(self, tokens: int) -> str:
        """Of what a run has seen after so many tokens: later stages may still be changed."""
        begun = [stage for stage in self.stages if stage[0] < max(tokens, 1)]
        if len(begun) == 1:
            return begun[0][1]
        lines = "".join(f"{begin} {snapshot}\n" for begin, snapshot in begun)
        return hashlib.sha256(lines.encode()).hexdigest()


def check_data(data: TrainingData, tokenizer: Tokenizer) -> DataIdentity:
    """See that all shards hold this tokenizer's tokens.

    Raises:
        ValueError: there are no shards yet, or they are another tokenizer's.
    """
    validation = check_tokenizer(data.dir, tokenizer).snapshot_id
    folders = {folder: _snapshot(folder, data, tokenizer) for folder in data.folders}

    def of_blend(blend: Sequence[BlendPart]) -> str:
        if not blend:
            return validation
        digest = hashlib.sha256(validation.encode())
        for part in blend:
            digest.update(f"{folders[part.dir]} {part.weight}\n".encode())
        return digest.hexdigest()

    if not data.stages:
        return DataIdentity(folders, ((0, of_blend(data.blend)),))
    begins = accumulate((stage.tokens for stage in data.stages), initial=0)
    blends = [of_blend(stage.blend) for stage in data.stages]
    return DataIdentity(folders, tuple(zip(begins, blends, strict=False)))


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
