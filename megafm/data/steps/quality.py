"""Quality as likeness to good documents: logistic regression on hashed runs of words.

Source: Brown et al. (GPT-3, 2020), appendix A, and Li et al., DataComp-LM (2024), section 4.4,
whose best filter is a linear classifier of good text against the crawl.

    megafm data action=train_quality quality.good=DIR quality.other=DIR quality.out=MODEL
    megafm data ... +steps.signals.quality_signals_v1.model=MODEL '+steps.rules.quality_v1={}'
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from megafm.data.document import Document
from megafm.data.steps.linear import LinearModel, buckets, load, model_files
from megafm.data.steps.step import Signal, Values, need_between

BUCKETS = 2**18


def train(
    good: Iterable[str], other: Iterable[str], *, l2: float = 1e-5, rounds: int = 300
) -> LinearModel:
    """Fit on all texts at once: the same model for the same texts, in any number of runs.

    Each class has half of the weight, whatever its size. Nesterov's method with the step that is
    safe for texts of length one. Memory: 24 bytes a different run of words of each text.

    Raises:
        ValueError: a class has no text.
    """
    texts = [_vector(text) for text in good]
    num_good = len(texts)
    texts += [_vector(text) for text in other]
    if not 0 < num_good < len(texts):
        raise ValueError(
            f"quality: {num_good} good and {len(texts) - num_good} other texts: need both"
        )
    rows = np.repeat(np.arange(len(texts)), [len(of) for of, _ in texts])
    columns = np.concatenate([of for of, _ in texts])
    values = np.concatenate([value for _, value in texts])
    is_good = np.arange(len(texts)) < num_good
    share = np.where(is_good, 0.5 / num_good, 0.5 / (len(texts) - num_good))

    weights = np.zeros(BUCKETS + 1)  # the last is the bias
    ahead, step = weights, 1 / (0.5 + l2)
    for number in range(rounds):
        logits = np.bincount(rows, values * ahead[columns], len(texts)) + ahead[-1]
        error = share * (_sigmoid(logits) - is_good)
        gradient = np.bincount(columns, values * error[rows], BUCKETS + 1) + l2 * ahead
        gradient[-1] = error.sum()
        before, weights = weights, ahead - step * gradient
        ahead = weights + number / (number + 3) * (weights - before)
    stored = weights.astype(np.float32)
    return LinearModel("quality", stored[:-1], float(stored[-1]))


def score(model: LinearModel, text: str) -> float:
    """The probability that a text is of the good ones, were they half of all."""
    of, values = _vector(text, len(model.weights), model.max_run)
    return float(_sigmoid(values @ model.weights[of].astype(np.float64) + model.bias))


def _vector(text: str, num: int = BUCKETS, max_run: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Buckets and how often each occurs, as a vector of length one."""
    of, counts = np.unique(buckets(text, num, max_run), return_counts=True)
    return of, counts / max(math.sqrt(float(counts @ counts)), 1.0)


def _sigmoid(value: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * value))


@dataclass(frozen=True)
class QualitySignal:
    """`model` is the folder of what `train` has saved."""

    model: str = field(default="", repr=False)
    version: ClassVar[str] = "quality_signals_v1"
    names: ClassVar[tuple[str, ...]] = ("score",)

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError(f"set +steps.signals.{self.version}.model=DIR of a trained model")

    @property
    def files(self) -> tuple[str, ...]:
        return model_files(self.model)

    def __call__(self, document: Document) -> dict[str, float]:
        return {"score": score(load(self.model, "quality"), document.text)}


@dataclass(frozen=True)
class Quality:
    min_score: float = 0.5
    skip: tuple[str, ...] = ("code", "table")
    version: ClassVar[str] = "quality_v1"
    signal: ClassVar[type[Signal]] = QualitySignal
    reasons: ClassVar[tuple[str, ...]] = ("low_quality",)

    def __post_init__(self) -> None:
        need_between(self.version, 0, 1, min_score=self.min_score)

    def __call__(self, values: Values) -> str | None:
        return "low_quality" if values["score"] < self.min_score else None
