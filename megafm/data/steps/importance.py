"""Likeness to a target domain: how much likelier its words are there than in the corpus.

Source: Xie et al., Data Selection for Language Models via Importance Resampling (DSIR, 2023),
section 3: bags of hashed words and pairs, 10,000 buckets, resampling by Gumbel's top k.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from megafm.data.document import Document
from megafm.data.steps.linear import LinearModel, buckets, load, model_files
from megafm.data.steps.step import Signal, Values, need_between

BUCKETS = 10_000
MAX_RUN = 2


def fit(target: Iterable[str], corpus: Iterable[str]) -> LinearModel:
    """The log ratio of the frequencies of each bucket, one added to every count."""
    return LinearModel(
        "importance", (_log_shares(target) - _log_shares(corpus)).astype(np.float32), 0.0, MAX_RUN
    )


def _log_shares(texts: Iterable[str]) -> np.ndarray:
    counts = np.ones(BUCKETS)
    for text in texts:
        counts += np.bincount(buckets(text, BUCKETS, MAX_RUN), minlength=BUCKETS)
    return np.log(counts / counts.sum())


def log_weight(model: LinearModel, text: str) -> float:
    """The logarithm of the importance weight: a sum over all words and pairs."""
    return float(model.weights[model.buckets(text)].sum(dtype=np.float64))


def resample(log_weights: Mapping[str, float], count: int, seed: int = 0) -> list[str]:
    """`count` documents by their ids, without replacement and in proportion to their weights.

    The noise of a document is a function of its id and the seed, so that neither the order of the
    documents nor their number changes it.
    """

    def key(name: str) -> float:
        digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
        uniform = (int.from_bytes(digest[:7], "big") + 0.5) / 2**56
        return log_weights[name] - math.log(-math.log(uniform))

    return heapq.nlargest(count, sorted(log_weights), key=key)


@dataclass(frozen=True)
class ImportanceSignal:
    """`model` is the folder of what `fit` has saved; `mean` does not grow with the length."""

    model: str = field(default="", repr=False)
    version: ClassVar[str] = "importance_signals_v1"
    names: ClassVar[tuple[str, ...]] = ("log_weight", "mean")

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError(f"set +steps.signals.{self.version}.model=DIR of a fitted model")

    @property
    def files(self) -> tuple[str, ...]:
        return model_files(self.model)

    def __call__(self, document: Document) -> dict[str, float]:
        weights = load(self.model, "importance")
        own = weights.weights[weights.buckets(document.text)]
        total = float(own.sum(dtype=np.float64))
        return {"log_weight": total, "mean": total / max(len(own), 1)}


@dataclass(frozen=True)
class Importance:
    """A threshold in place of resampling: on average, words that are likelier in the target."""

    min_mean: float = 0.0
    skip: tuple[str, ...] = ()
    version: ClassVar[str] = "importance_v1"
    signal: ClassVar[type[Signal]] = ImportanceSignal
    reasons: ClassVar[tuple[str, ...]] = ("unlike_target",)

    def __post_init__(self) -> None:
        need_between(self.version, -100, 100, min_mean=self.min_mean)

    def __call__(self, values: Values) -> str | None:
        return "unlike_target" if values["mean"] < self.min_mean else None
