"""Which language a document is in, by a model that lies in the wheel of py3langid.

Source: Lui, Baldwin, langid.py: An Off-the-shelf Language Identification Tool (2012): naive Bayes
on byte n-grams. An extra: pip install 'megafm[data]'.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, ClassVar

from megafm.data.document import Document
from megafm.data.steps.optional import library
from megafm.data.steps.step import Signal, Values, domain, first_true, need_between

SCORE = "language_score"


@dataclass(frozen=True)
class Language:
    """Set `language` (ISO 639-1) and notes["language_score"], the model's probability.

    Attributes:
        max_characters: the head of a document says it.
        skip: the names and keywords of code are English, whatever its comments are in.
    """

    max_characters: int = 4_000
    skip: tuple[str, ...] = ("code", "table")
    version: ClassVar[str] = "language_v1"
    reasons: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        need_between(self.version, 1, 2**40, max_characters=self.max_characters)

    def __call__(self, document: Document) -> Document:
        if domain(document) in self.skip:
            return document
        language, score = _identifier().classify(document.text[: self.max_characters])
        notes = {**document.notes, SCORE: round(float(score), 4)}
        return dataclasses.replace(document, language=language, notes=notes)


@functools.cache
def _identifier() -> Any:
    langid = library("py3langid.langid", "megafm[data]", Language.version)
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)


@dataclass(frozen=True)
class LanguageSignal:
    """What `Language` found, or the source states (then the score is 1): is_CODE is 1."""

    version: ClassVar[str] = "language_signals_v1"
    names: ClassVar[tuple[str, ...]] = ("score", "is_CODE")

    def __call__(self, document: Document) -> dict[str, float]:
        score = document.notes.get(SCORE, 1.0 if document.language else 0.0)
        return {"score": float(score), f"is_{document.language}": 1.0}


@dataclass(frozen=True)
class LanguageRule:
    """Keep some languages, where the model is sure of them.

    `min_score` is FineWeb's (Penedo et al. 2024, section 3.3), which takes another model; C4 took
    0.99. Without `languages` every language may stay.
    """

    languages: tuple[str, ...] = ("en",)
    min_score: float = 0.65
    skip: tuple[str, ...] = ("code", "table")
    version: ClassVar[str] = "language_rule_v1"
    signal: ClassVar[type[Signal]] = LanguageSignal
    reasons: ClassVar[tuple[str, ...]] = ("other_language", "unsure_language")

    def __post_init__(self) -> None:
        need_between(self.version, 0, 1, min_score=self.min_score)

    def __call__(self, values: Values) -> str | None:
        wanted = not self.languages or any(f"is_{code}" in values for code in self.languages)
        return first_true(
            ("other_language", not wanted),
            ("unsure_language", values["score"] < self.min_score),
        )
