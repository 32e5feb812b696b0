"""Copies that MinHash on whole documents does not see, or sees at a higher price.

Of copies the one of the smallest id stays, in whatever order the documents come.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from megafm.data import near_duplicates
from megafm.data.document import Document, Drop
from megafm.data.index import native
from megafm.data.steps.step import changed, need_between
from megafm.data.steps.words import hashes, windows

WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class RepeatedRuns:
    """Cut runs of so many words, or characters, that stand elsewhere too: the first copy stays.

    Source: Lee et al., Deduplicating Training Data Makes Language Models Better (2022), section
    4.1: 50 tokens. A piece is a run; 16 bytes each are exchanged.

    Attributes:
        min_length: of a run, in units.
    """

    min_length: int = 50
    unit: Literal["words", "characters"] = "words"
    version: ClassVar[str] = "repeated_runs_v1"
    reasons: ClassVar[tuple[str, ...]] = ("repeated",)
    by_equal_keys: ClassVar[bool] = True

    def __post_init__(self) -> None:
        need_between(self.version, 2, 512, min_length=self.min_length)

    def pieces(self, document: Document) -> tuple[np.ndarray, np.ndarray]:
        keys = windows(self._tokens(document.text), self.min_length)
        return keys, np.arange(len(keys))

    def repeated(self, keys: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """All but the first of each hash."""
        repeated = np.zeros(len(keys), bool)
        repeated[1:] = keys[1:] == keys[:-1]
        return repeated

    def without(self, document: Document, places: np.ndarray) -> Document | Drop:
        text = document.text
        if self.unit == "characters":
            starts = list(range(len(text) + 1))
        else:
            starts = [match.start() for match in WORD.finditer(text)] + [len(text)]
        runs = np.zeros(len(starts), np.int64)  # that begin here, less those that have ended
        runs[places] += 1
        runs[places + self.min_length] -= 1
        cut = runs.cumsum()[:-1] > 0
        if cut.all():
            return Drop("repeated", document.id)
        pieces, at = [], 0
        edges = np.flatnonzero(np.diff(np.concatenate([[0], cut.view(np.int8), [0]])))
        for first, end in edges.reshape(-1, 2).tolist():
            pieces.append(text[at : starts[first]])
            at = starts[end]
        text = "".join([*pieces, text[at:]])
        return changed(document, text, self.version, {"units": int(cut.sum())})

    def _tokens(self, text: str) -> np.ndarray:
        if self.unit == "characters":
            return np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.uint64)
        return hashes(WORD.findall(text))


@dataclass(frozen=True)
class SimHash:
    """Drop documents whose fingerprints differ in at most so many of 64 bits: eight bytes a
    document, where MinHash takes 512. All of them are in memory at once, with the ids.

    Source: Manku, Jain, Das Sarma, Detecting Near-Duplicates for Web Crawling (2007), section 2:
    three bits.
    """

    max_bits: int = 3
    width: int = 5  # words of a shingle
    max_bucket: int = 64  # of documents that share a quarter of the bits
    version: ClassVar[str] = "simhash_v1"
    reasons: ClassVar[tuple[str, ...]] = ("near_duplicate",)
    by_equal_keys: ClassVar[bool] = False

    def __post_init__(self) -> None:
        need_between(self.version, 0, 15, max_bits=self.max_bits)
        need_between(self.version, 1, 100, width=self.width)
        need_between(self.version, 1, 2**20, max_bucket=self.max_bucket)

    def pieces(self, document: Document) -> tuple[np.ndarray, np.ndarray]:
        """Its fingerprint."""
        keys = native().simhash([document.encoded], "words", self.width, True, 1)
        return keys, np.zeros(1, np.int64)

    def repeated(self, keys: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """Those that are like one of a smaller id that stays."""
        order = np.argsort(documents)
        pairs = native().near_fingerprints(keys[order], self.max_bits, self.max_bucket)
        pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]
        repeated = np.zeros(len(keys), bool)
        repeated[order] = near_duplicates.removals(len(keys), [pairs])
        return repeated

    def without(self, document: Document, places: np.ndarray) -> Drop:
        return Drop("near_duplicate", document.id)
