"""Checkpoints: sharded safetensors, written by any data-parallel layout and read by any other."""

from megafm.checkpoint.info import CheckpointInfo
from megafm.checkpoint.store import (
    checkpoints,
    latest,
    load_model,
    load_tensors,
    remove_old,
    save,
    save_model,
)

__all__ = [
    "CheckpointInfo",
    "checkpoints",
    "latest",
    "load_model",
    "load_tensors",
    "remove_old",
    "save",
    "save_model",
]
