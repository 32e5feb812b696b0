"""A saved run, ready to be read: its model, its tokenizer and what its checkpoint says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from megafm import checkpoint
from megafm.checkpoint import CheckpointInfo
from megafm.model import Decoder
from megafm.paths import SavedRun
from megafm.tokenizer import Tokenizer


@dataclass(frozen=True)
class LoadedRun:
    model: Decoder
    tokenizer: Tokenizer
    info: CheckpointInfo


def load_run(run: SavedRun, device: torch.device | str = "cpu") -> LoadedRun:
    """Model and tokenizer of a run folder.

    Raises:
        ValueError: there is no such checkpoint, it is damaged, or the tokenizer in the run folder
            is not the one it was trained with.
    """
    model, info = checkpoint.load_model(run.dir, run.step, device)
    assert isinstance(model, Decoder)
    return LoadedRun(model, load_tokenizer(run.dir, info), info)


def load_tokenizer(run_dir: str | Path, info: CheckpointInfo) -> Tokenizer:
    """The tokenizer in a run folder, which must be the one that the checkpoint names, if any."""
    folder = Path(run_dir) / "tokenizer"
    tokenizer = Tokenizer.load(folder)
    if info.tokenizer_hash not in (None, tokenizer.hash):
        raise ValueError(
            f"run.dir={run_dir}: {folder} has the hash {tokenizer.hash[:12]}, its checkpoint was "
            f"trained with {str(info.tokenizer_hash)[:12]}; put that tokenizer.json back"
        )
    return tokenizer
