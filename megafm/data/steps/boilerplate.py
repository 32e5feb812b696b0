"""Lines that are not of the text: menus, cookie banners, buttons, counters; lines of a whole site.

Source of `Boilerplate`: Penedo et al., The RefinedWeb Dataset for Falcon LLM (2023), appendix G.2;
of `RepeatedLines`: Wenzek et al., CCNet (2020), section 3.1, by site in place of shard.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import urlsplit

import numpy as np

from megafm.data.document import Document, Drop
from megafm.data.steps.step import changed, domain, need_between
from megafm.data.steps.words import hash_text

COUNTER = re.compile(
    r"\d{1,9}(?:[.,]\d{1,3})? ?[km]? (?:likes?|comments?|shares?|views?|replies|followers|retweets"
    r"|downloads|points?|votes?)",
    re.I,
)
NAVIGATION = re.compile(
    r"(?:sign[- ]?in|log[- ]?in|sign[- ]?up|register|subscribe|skip to|share (?:on|this)|follow us"
    r"|click here|back to top|accept (?:all )?cookies|all rights reserved)\b"
    r"|(?:we use|uses?|this site uses) cookies|items in cart",
    re.I,
)
NAVIGATION_END = re.compile(
    r"(?:read more|learn more|see more|show more|log in)(?:\.\.\.|\u2026|\u00bb|>)?$", re.I
)
MAX_NAVIGATION_WORDS = 10


@dataclass(frozen=True)
class Boilerplate:
    """Leave out lines of capitals or digits, of one word, counters ("3 likes") and, of ten words at
    most, navigation and cookie banners; drop a document that is mostly such.

    Attributes:
        max_words: the share of words that may go, in the paper 0.05.
        skip: single words and digits are what code and tables consist of.
    """

    max_words: float = 0.05
    skip: tuple[str, ...] = ("code", "table", "dialogue")
    version: ClassVar[str] = "boilerplate_v1"
    reasons: ClassVar[tuple[str, ...]] = ("boilerplate",)

    def __post_init__(self) -> None:
        need_between(self.version, 0, 1, max_words=self.max_words)

    def __call__(self, document: Document) -> Document | Drop:
        if domain(document) in self.skip:
            return document
        lines = document.text.split("\n")
        kept = [line for line in lines if not _is_boilerplate(line.strip())]
        if len(kept) == len(lines):
            return document
        text = "\n".join(kept)
        before, after = len(document.text.split()), len(text.split())
        if before - after > self.max_words * before:
            return Drop("boilerplate")
        return changed(document, text, self.version, {"lines": len(lines) - len(kept)})


def _is_boilerplate(line: str) -> bool:
    if not line:
        return False
    words = line.split()
    capitals, letters = sum(map(str.isupper, line)), sum(map(str.isalpha, line))
    if len(words) == 1 or letters == 0 or 2 * capitals > letters:
        return True
    if COUNTER.fullmatch(line):
        return True
    if len(words) > MAX_NAVIGATION_WORDS:
        return False
    return NAVIGATION.match(line) is not None or NAVIGATION_END.search(line) is not None


@dataclass(frozen=True)
class RepeatedLines:
    """Headers, footers and menus: lines that stand in many documents of one site.

    A site is the host of a URL, the first folder of a path.

    Attributes:
        min_documents: of a site, which have the line.
        zero_digits: take page numbers and dates as equal; never in code and tables, whose rows
            would look alike.
    """

    min_documents: int = 10
    zero_digits: bool = True
    version: ClassVar[str] = "repeated_lines_v1"
    reasons: ClassVar[tuple[str, ...]] = ()
    by_equal_keys: ClassVar[bool] = True
    _digits: ClassVar[re.Pattern[str]] = re.compile(r"\d")

    def __post_init__(self) -> None:
        need_between(self.version, 2, 2**40, min_documents=self.min_documents)

    def pieces(self, document: Document) -> tuple[np.ndarray, np.ndarray]:
        """Its lines that have words, with its site."""
        of = site(document)
        found = [self._key(document, line) for line in _lines(document)]
        places = [place for place, key in enumerate(found) if key]
        keys = np.array([hash_text(f"{of}\n{found[place]}") for place in places], np.uint64)
        return keys, np.array(places, np.int64)

    def repeated(self, keys: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """Those of keys that enough documents have."""
        if len(keys) == 0:
            return np.zeros(0, bool)
        new_key = np.append(True, keys[1:] != keys[:-1])
        new_document = new_key | np.append(True, documents[1:] != documents[:-1])
        starts = np.flatnonzero(new_key)
        enough = np.add.reduceat(new_document.astype(np.int64), starts) >= self.min_documents
        return np.repeat(enough, np.diff(np.append(starts, len(keys))))

    def without(self, document: Document, places: np.ndarray) -> Document:
        lines = np.array(_lines(document), object)
        kept = np.delete(lines, places)
        return changed(document, "\n".join(kept), self.version, {"lines": len(places)})

    def _key(self, document: Document, line: str) -> str:
        text = " ".join(line.casefold().split())
        if self.zero_digits and domain(document) not in ("code", "table"):
            text = self._digits.sub("0", text)
        return text


def site(document: Document) -> str:
    host = urlsplit(document.path).netloc if "://" in document.path else ""
    return host or document.path.partition("/")[0]


def _lines(document: Document) -> list[str]:
    return document.text.split("\n")
