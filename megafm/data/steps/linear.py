"""A linear function of the words of a text: hashed runs of one and two, weighted and summed.

Feature hashing: Weinberger et al., Feature Hashing for Large Scale Multitask Learning (2009). A
model is a folder of model.safetensors (float32 weights and bias) and model.json.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from megafm.data.steps.contents import KEPT, hashes_of
from megafm.data.steps.words import hashes, runs, words
from megafm.files import atomic_open, write_text

WEIGHTS, SETTINGS = "model.safetensors", "model.json"


@dataclass(frozen=True, eq=False)
class LinearModel:
    """
    Attributes:
        kind: what the weights are: quality or importance.
        weights: float32 (buckets,).
        max_run: of words.
    """

    kind: str
    weights: np.ndarray
    bias: float = 0.0
    max_run: int = 2

    def buckets(self, text: str) -> np.ndarray:
        return buckets(text, len(self.weights), self.max_run)

    def save(self, folder: str | Path) -> None:
        settings = {"kind": self.kind, "max_run": self.max_run}
        tensors = {"weights": self.weights, "bias": np.array([self.bias], np.float32)}
        Path(folder).mkdir(parents=True, exist_ok=True)
        with atomic_open(Path(folder) / WEIGHTS) as out:
            out.write(save(tensors))
        write_text(Path(folder) / SETTINGS, json.dumps(settings) + "\n")


def model_files(folder: str) -> tuple[str, ...]:
    return tuple(str(Path(folder) / name) for name in (WEIGHTS, SETTINGS))


def load(folder: str, kind: str) -> LinearModel:
    """What the folder holds, read once in a process and again after it has changed.

    Raises:
        ValueError: there is no model, or one of another kind.
    """
    try:
        model = _read(folder, hashes_of(model_files(folder)))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"model={folder}: no model ({error}); make one: megafm data action=train_quality, "
            "or action=fit_importance"
        ) from error
    if model.kind != kind:
        raise ValueError(f"model={folder}: is of {model.kind}; set one that is of {kind}")
    return model


@functools.lru_cache(maxsize=KEPT)
def _read(folder: str, contents: tuple[str, ...]) -> LinearModel:
    settings = json.loads((Path(folder) / SETTINGS).read_text(encoding="utf-8"))
    tensors = load_file(Path(folder) / WEIGHTS)
    bias = float(tensors["bias"][0])
    return LinearModel(settings["kind"], tensors["weights"], bias, settings["max_run"])


def buckets(text: str, num_buckets: int, max_run: int) -> np.ndarray:
    """The bucket of each run of 1 to `max_run` words, int64, as often as it occurs."""
    of = hashes(words(text))
    every = [runs(of, length) % np.uint64(num_buckets) for length in range(1, max_run + 1)]
    return np.concatenate(every).astype(np.int64)
