"""Checkpoints: sharded safetensors, written by any layout and read by any other."""

from megafm.checkpoint.background import BackgroundSaver
from megafm.checkpoint.info import CheckpointInfo
from megafm.checkpoint.store import (
    checkpoints,
    latest,
    load_model,
    load_tensors,
    open_model,
    read_parameters,
    remove_old,
    save,
    save_model,
)

__all__ = [
    "BackgroundSaver",
    "CheckpointInfo",
    "checkpoints",
    "latest",
    "load_model",
    "load_tensors",
    "open_model",
    "read_parameters",
    "remove_old",
    "save",
    "save_model",
]
