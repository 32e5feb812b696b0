"""Copies that MinHash on whole documents does not see, or sees at a higher price.

Both see all documents at once. Of copies the one of the smallest id stays, in whatever order the
documents come.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from megafm.data import near_duplicates
from megafm.data.document import Document, Drop
from megafm.data.index import native
from megafm.data.steps.step import changed, need_between
from megafm.data.steps.words import hashes

WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class RepeatedRuns:
    """Cut runs of so many words, or characters, that stand elsewhere too: the first copy stays.

    Source: Lee et al., Deduplicating Training Data Makes Language Models Better (2022), section
    4.1: 50 tokens. Memory: 24 bytes a word or character of the corpus.

    Attributes:
        min_length: of a run, in units.
    """

    min_length: int = 50
    unit: Literal["words", "characters"] = "words"
    version: ClassVar[str] = "repeated_runs_v1"
    reasons: ClassVar[tuple[str, ...]] = ("repeated",)

    def __post_init__(self) -> None:
        need_between(self.version, 2, 512, min_length=self.min_length)

    def clean(self, documents: Sequence[Document]) -> list[Document | Drop]:
        """For each document what is left of it."""
        order = sorted(range(len(documents)), key=lambda row: documents[row].id)
        tokens = [self._tokens(documents[row].text) for row in order]
        offsets = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
        flat = np.concatenate([np.zeros(0, np.int64), *tokens])
        repeated = native().repeats(flat, offsets, self.min_length)
        left: list[Document | Drop] = list(documents)
        for place, row in enumerate(order):
            cut = repeated[offsets[place] : offsets[place + 1]]
            if cut.any():
                left[row] = self._without(documents[row], cut)
        return left

    def _tokens(self, text: str) -> np.ndarray:
        if self.unit == "characters":
            return np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.int64)
        return hashes(WORD.findall(text)).view(np.int64)

    def _without(self, document: Document, cut: np.ndarray) -> Document | Drop:
        if cut.all():
            return Drop("repeated", document.id)
        text, pieces, at = document.text, [], 0
        if self.unit == "characters":
            starts = list(range(len(text) + 1))
        else:
            starts = [match.start() for match in WORD.finditer(text)] + [len(text)]
        edges = np.flatnonzero(np.diff(np.concatenate([[0], cut.view(np.int8), [0]])))
        for first, end in edges.reshape(-1, 2).tolist():
            pieces.append(text[at : starts[first]])
            at = starts[end]
        text = "".join([*pieces, text[at:]])
        return changed(document, text, self.version, {"units": int(cut.sum())})


@dataclass(frozen=True)
class SimHash:
    """Drop documents whose fingerprints differ in at most so many of 64 bits: eight bytes a
    document, where MinHash takes 512.

    Source: Manku, Jain, Das Sarma, Detecting Near-Duplicates for Web Crawling (2007), section 2:
    three bits.
    """

    max_bits: int = 3
    width: int = 5  # words of a shingle
    max_bucket: int = 64  # of documents that share a quarter of the bits
    version: ClassVar[str] = "simhash_v1"
    reasons: ClassVar[tuple[str, ...]] = ("near_duplicate",)

    def __post_init__(self) -> None:
        need_between(self.version, 0, 15, max_bits=self.max_bits)
        need_between(self.version, 1, 100, width=self.width)
        need_between(self.version, 1, 2**20, max_bucket=self.max_bucket)

    def clean(self, documents: Sequence[Document]) -> list[Document | Drop]:
        order = sorted(range(len(documents)), key=lambda row: documents[row].id)
        texts = [documents[row].encoded for row in order]
        fingerprints = native().simhash(texts, "words", self.width, True, 1)
        pairs = native().near_fingerprints(fingerprints, self.max_bits, self.max_bucket)
        pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]
        removed = near_duplicates.removals(len(documents), [pairs])
        left: list[Document | Drop] = list(documents)
        for place in np.flatnonzero(removed).tolist():
            left[order[place]] = Drop("near_duplicate", documents[order[place]].id)
        return left
