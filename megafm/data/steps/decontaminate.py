"""Evaluation sets out of the training text: runs of 13 words in common, and near-copies.

Source: Brown et al., Language Models are Few-Shot Learners (GPT-3, 2020), appendix C, for runs of
13 words; `near_duplicates` for near-copies. An item of fewer words counts when all of it is there.
"""

from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from megafm.data import near_duplicates
from megafm.data.config import NearDuplicates
from megafm.data.document import Document, Drop
from megafm.data.steps.contents import KEPT, hashes_of
from megafm.data.steps.step import need_between
from megafm.data.steps.words import hashes, runs, spans, words

SIMILAR = NearDuplicates(width=3, lowercase=True)  # 32 bands of 4 rows: 0.99 found at 0.6


@dataclass(frozen=True)
class Match:
    """Where a document, in characters, has something of an item of an evaluation set."""

    evaluation: str
    item: str
    begin: int
    end: int
    by: Literal["run", "similarity"]

    def __str__(self) -> str:
        return f"{self.evaluation}/{self.item}[{self.begin}:{self.end}] by {self.by}"


@dataclass(frozen=True)
class Decontaminate:
    """Drop documents that hold items of evaluation sets; `Drop.where` names set, item and span.

    Attributes:
        sets: .jsonl or .jsonl.gz, each named by what stands before; an item is the text of
            `fields`, its name that of "id" or else its line.
        run: words in a row that are a match.
        min_words: items of fewer are not looked for: "Yes, he did." is in every book.
        min_similarity: of a paragraph, or all of a document, to an item; 1 looks for runs alone.
    """

    sets: tuple[str, ...] = field(default=(), repr=False)
    fields: tuple[str, ...] = ("text",)
    run: int = 13
    min_words: int = 8
    min_similarity: float = 0.6
    version: ClassVar[str] = "decontaminate_v1"
    reasons: ClassVar[tuple[str, ...]] = ("contaminated",)

    def __post_init__(self) -> None:
        if not self.sets:
            raise ValueError(f"{self.version}: sets=[]: set files, e.g. sets=[eval/gsm8k.jsonl]")
        need_between(self.version, 2, 100, run=self.run)
        need_between(self.version, 1, self.run, min_words=self.min_words)
        need_between(self.version, 0.3, 1, min_similarity=self.min_similarity)

    @property
    def files(self) -> tuple[str, ...]:
        return self.sets

    def __call__(self, document: Document) -> Document | Drop:
        matches = self.matches(document.text)
        if not matches:
            return document
        return Drop("contaminated", f"{document.id}: {'; '.join(map(str, matches))}")

    def matches(self, text: str) -> list[Match]:
        return evaluation_index(self).matches(text)


def evaluation_index(config: Decontaminate) -> EvaluationIndex:
    """The index of its files, read once in a process and again after one has changed.

    Raises:
        ValueError: a line is not an item.
    """
    return _index(config, hashes_of(config.files))


@functools.lru_cache(maxsize=KEPT)
def _index(config: Decontaminate, contents: tuple[str, ...]) -> EvaluationIndex:
    items = [item for path in config.sets for item in _read(Path(path), config.fields)]
    return EvaluationIndex(items, config)


def _read(path: Path, fields: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    name = path.name.removesuffix(".gz").removesuffix(".jsonl")
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row: Mapping[str, object] = json.loads(line)
                text = "\n".join(str(row[name]) for name in fields)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number}: no item ({error!r}); set fields= of what it has"
                ) from error
            yield name, str(row.get("id", number)), text


class EvaluationIndex:
    """
    Args:
        items: evaluation set, name of the item, its text.

    Attributes:
        too_short: how many items have fewer than `min_words` words, and are not looked for.
    """

    def __init__(self, items: Sequence[tuple[str, str, str]], config: Decontaminate) -> None:
        self.config = config
        known = [(name, item, text, hashes(words(text))) for name, item, text in items]
        long = [one for one in known if len(one[3]) >= config.min_words]
        self.too_short = len(known) - len(long)
        self._items = [(name, item) for name, item, _, _ in long]
        self._runs = self._index_runs([of for *_, of in long])
        self._bands: dict[int, list[int]] = {}
        self._sets: list[np.ndarray] = []
        if long and config.min_similarity < 1:
            self._index_similar([text.encode() for _, _, text, _ in long])

    def matches(self, text: str) -> list[Match]:
        """What items have in common with a text, and near-copies of others, in its order."""
        if not self._items:
            return []
        found = list(self._in_common(text))
        items = {(match.evaluation, match.item) for match in found}
        found += [m for m in self._similar(text) if (m.evaluation, m.item) not in items]
        return sorted(found, key=lambda match: (match.begin, match.end, match.evaluation))

    def _index_runs(self, items: Sequence[np.ndarray]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """For each length the hashes, ascending, and the items they are of."""
        pairs: dict[int, list[tuple[np.ndarray, int]]] = {}
        for row, of in enumerate(items):
            length = min(len(of), self.config.run)
            pairs.setdefault(length, []).append((runs(of, length), row))
        index = {}
        for length, some in pairs.items():
            keys = np.concatenate([of for of, _ in some])
            rows = np.concatenate([np.full(len(of), row) for of, row in some])
            order = np.argsort(keys, kind="stable")
            index[length] = keys[order], rows[order]
        return index

    def _in_common(self, text: str) -> Iterator[Match]:
        of, places = hashes(words(text)), spans(text)
        hits: dict[int, list[tuple[int, int]]] = {}  # of each item, first and last word
        for length, (keys, rows) in self._runs.items():
            found = runs(of, length)
            begin, end = np.searchsorted(keys, found), np.searchsorted(keys, found, "right")
            for first in np.flatnonzero(begin < end).tolist():
                for row in set(rows[begin[first] : end[first]].tolist()):
                    hits.setdefault(row, []).append((first, first + length - 1))
        for row, where in hits.items():
            for first, last in _joined(where):
                yield Match(*self._items[row], places[first][0], places[last][1], "run")

    def _index_similar(self, texts: Sequence[bytes]) -> None:
        sets, offsets = near_duplicates.shingles(texts, SIMILAR)
        self._sets = [sets[first:end] for first, end in pairwise(offsets.tolist())]
        for row, keys in enumerate(_band_keys(texts)):
            for key in keys:
                self._bands.setdefault(key, []).append(row)

    def _similar(self, text: str) -> Iterator[Match]:
        if not self._bands:
            return
        places = [place for place in _pieces(text) if place[0] < place[1]]
        pieces = [text[begin:end].encode() for begin, end in places]
        sets, offsets = near_duplicates.shingles(pieces, SIMILAR)
        for number, keys in enumerate(_band_keys(pieces)):
            own = sets[offsets[number] : offsets[number + 1]]
            rows = {row for key in keys for row in self._bands.get(key, ())}
            for row in sorted(rows):
                common = len(np.intersect1d(own, self._sets[row], assume_unique=True))
                union = len(own) + len(self._sets[row]) - common
                if common >= self.config.min_similarity * union:
                    yield Match(*self._items[row], *places[number], "similarity")


def _joined(where: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for first, last in sorted(where):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(last, joined[-1][1])
        else:
            joined.append((first, last))
    return joined


def _band_keys(texts: Sequence[bytes]) -> list[list[int]]:
    signatures = near_duplicates.signatures(texts, SIMILAR)
    return near_duplicates.band_keys(signatures, SIMILAR).tolist()


def _pieces(text: str) -> list[tuple[int, int]]:
    """All of a text, and its paragraphs."""
    pieces, at = [(0, len(text))], 0
    for paragraph in text.split("\n\n"):
        pieces.append((at, at + len(paragraph)))
        at += len(paragraph) + 2
    return pieces if len(pieces) > 2 else pieces[:1]
