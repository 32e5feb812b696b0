"""Cleaning steps: each takes a document and returns it, changed or not, or a Drop with a reason.

A step is a frozen dataclass, so that its settings are part of the rules a snapshot was made by.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Protocol

from megafm.data.config import Source
from megafm.data.document import Document, Drop


class Step(Protocol):
    """`version` names the rule and changes whenever its outcome may."""

    version: ClassVar[str]

    def __call__(self, document: Document) -> Document | Drop: ...


def cleaning_steps(source: Source) -> list[Step]:
    """The steps of `megafm data`, in order."""
    return [
        Size(source.max_document_bytes),
        Empty(),
        LongLine(source.max_line_bytes),
        Generated(),
        Table(),
    ]


@dataclass(frozen=True)
class Size:
    max_bytes: int
    version: ClassVar[str] = "size/1"

    def __call__(self, document: Document) -> Document | Drop:
        return Drop("too_large") if document.num_bytes > self.max_bytes else document


@dataclass(frozen=True)
class Empty:
    version: ClassVar[str] = "empty/1"

    def __call__(self, document: Document) -> Document | Drop:
        return document if document.text.strip() else Drop("empty")


@dataclass(frozen=True)
class LongLine:
    """Minified code and data in one line."""

    max_bytes: int
    version: ClassVar[str] = "long_line/1"

    def __call__(self, document: Document) -> Document | Drop:
        longest = max(map(len, document.encoded.split(b"\n")))
        return Drop("long_line") if longest > self.max_bytes else document


@dataclass(frozen=True)
class Generated:
    """Files whose head says that a program wrote them."""

    version: ClassVar[str] = "generated/1"
    _mark: ClassVar[re.Pattern[str]] = re.compile(
        r"do not edit|@generated|(automatically |auto-?)generated|generated (by|from|with)\b", re.I
    )

    def __call__(self, document: Document) -> Document | Drop:
        return Drop("generated") if self._mark.search(document.text, 0, 1000) else document


@dataclass(frozen=True)
class Table:
    """Tables of numbers and character codes: few letters among what is not white space."""

    min_letters: float = 0.35
    version: ClassVar[str] = "table/1"
    _not_letters: ClassVar[bytes] = bytes(c for c in range(128) if not chr(c).isalpha())

    def __call__(self, document: Document) -> Document | Drop:
        visible = len(document.encoded.translate(None, b" \t\n\r\f\v"))
        letters = len(document.encoded.translate(None, self._not_letters))
        return Drop("table") if letters < self.min_letters * visible else document
