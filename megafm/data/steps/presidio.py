"""Names and addresses, by Microsoft's Presidio where it is installed with a model of its own:
pip install presidio-analyzer, and a spaCy model that it can load.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

from megafm.data.document import Document
from megafm.data.steps.detectors import replace
from megafm.data.steps.optional import library
from megafm.data.steps.step import changed, need_between


@dataclass(frozen=True)
class Presidio:
    """Put <PERSON>, <LOCATION>, ... in the place of what Presidio finds."""

    entities: tuple[str, ...] = ("PERSON", "LOCATION")
    language: str = "en"
    min_score: float = 0.6
    version: ClassVar[str] = "presidio_v1"
    reasons: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        need_between(self.version, 0, 1, min_score=self.min_score)

    def __call__(self, document: Document) -> Document:
        results = _analyzer().analyze(
            document.text,
            self.language,
            entities=list(self.entities),
            score_threshold=self.min_score,
        )
        found: list[tuple[int, int, str]] = []
        for one in sorted(results, key=lambda one: (one.start, -one.end)):
            if not found or one.start >= found[-1][1]:  # of two that overlap, the first
                found.append((one.start, one.end, one.entity_type))
        counts = Counter(kind for _, _, kind in found)
        return changed(document, replace(document.text, found), self.version, counts)


@functools.cache
def _analyzer() -> Any:
    return library("presidio_analyzer", "presidio-analyzer", Presidio.version).AnalyzerEngine()
