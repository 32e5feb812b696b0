"""Abuse and pornography: a list of words, and a classifier of one's own.

The page rule of C4 (Raffel et al. 2020, section 2.2) drops a page for one word of its list, and
with it much that is harmless (Dodge et al., Documenting Large Webtext Corpora, 2021, section 5.3):
here it takes several different ones, and a share of all words.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, cast

from megafm.data.document import Document
from megafm.data.steps.contents import KEPT, hashes_of
from megafm.data.steps.step import Signal, Values, first_true, need_between
from megafm.data.steps.words import words

OWN_WORDS = str(Path(__file__).with_name("toxic_words.txt"))


@dataclass(frozen=True)
class ToxicitySignal:
    """How many words of a list there are, which share of all; what a classifier says.

    Attributes:
        words: a file with one a line, # before comments.
        classifier: MODULE:FUNCTION, called with the text, from 0 (harmless) to 1; without it the
            score is 0.
    """

    words: str = field(default=OWN_WORDS, repr=False)
    classifier: str = ""
    version: ClassVar[str] = "toxicity_signals_v1"
    names: ClassVar[tuple[str, ...]] = ("different", "share", "score")

    @property
    def files(self) -> tuple[str, ...]:
        return (self.words,)

    def __call__(self, document: Document) -> dict[str, float]:
        listed, of = _listed(self.words, hashes_of(self.files)), words(document.text)
        found = [word for word in of if word in listed]
        score = _classifier(self.classifier)(document.text) if self.classifier else 0.0
        return {
            "different": len(set(found)),
            "share": len(found) / max(len(of), 1),
            "score": score,
        }


@functools.lru_cache(maxsize=KEPT)
def _listed(path: str, contents: tuple[str, ...]) -> frozenset[str]:
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return frozenset(line.strip() for line in lines if line and not line.startswith("#"))


@functools.cache
def _classifier(name: str) -> Callable[[str], float]:
    module, _, attribute = name.partition(":")
    try:
        return cast(Callable[[str], float], getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"classifier={name}: {error}; set MODULE:FUNCTION") from error


@dataclass(frozen=True)
class Toxicity:
    """Several different words of the list and a share of all, or a high score."""

    min_different: int = 3
    max_share: float = 0.01
    max_score: float = 0.5
    skip: tuple[str, ...] = ()
    version: ClassVar[str] = "toxicity_v1"
    signal: ClassVar[type[Signal]] = ToxicitySignal
    reasons: ClassVar[tuple[str, ...]] = ("toxic_words", "toxic_score")

    def __post_init__(self) -> None:
        need_between(self.version, 1, 1000, min_different=self.min_different)
        need_between(self.version, 0, 1, max_share=self.max_share, max_score=self.max_score)

    def __call__(self, values: Values) -> str | None:
        many = values["different"] >= self.min_different and values["share"] > self.max_share
        return first_true(
            ("toxic_words", many),
            ("toxic_score", values["score"] > self.max_score),
        )
