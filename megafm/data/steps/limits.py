"""Limits of size and shape that any document must keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megafm.data.document import Document, Drop
from megafm.data.steps.step import need_between


@dataclass(frozen=True)
class Size:
    max_bytes: int = 1_000_000
    version: ClassVar[str] = "size_v1"
    reasons: ClassVar[tuple[str, ...]] = ("too_large",)

    def __post_init__(self) -> None:
        need_between(self.version, 1, 2**40, max_bytes=self.max_bytes)

    def __call__(self, document: Document) -> Document | Drop:
        return Drop("too_large") if document.num_bytes > self.max_bytes else document


@dataclass(frozen=True)
class Empty:
    version: ClassVar[str] = "empty_v1"
    reasons: ClassVar[tuple[str, ...]] = ("empty",)

    def __call__(self, document: Document) -> Document | Drop:
        return document if document.text.strip() else Drop("empty")


@dataclass(frozen=True)
class LongLine:
    """Minified code and data in one line."""

    max_bytes: int = 5_000
    version: ClassVar[str] = "long_line_v1"
    reasons: ClassVar[tuple[str, ...]] = ("long_line",)

    def __post_init__(self) -> None:
        need_between(self.version, 1, 2**40, max_bytes=self.max_bytes)

    def __call__(self, document: Document) -> Document | Drop:
        longest = max(map(len, document.encoded.split(b"\n")))
        return Drop("long_line") if longest > self.max_bytes else document


@dataclass(frozen=True)
class Table:
    """Tables of numbers and character codes: few letters among what is not white space."""

    min_letters: float = 0.35
    version: ClassVar[str] = "table_v1"
    reasons: ClassVar[tuple[str, ...]] = ("table",)
    _not_letters: ClassVar[bytes] = bytes(c for c in range(128) if not chr(c).isalpha())

    def __post_init__(self) -> None:
        need_between(self.version, 0, 1, min_letters=self.min_letters)

    def __call__(self, document: Document) -> Document | Drop:
        visible = len(document.encoded.translate(None, b" \t\n\r\f\v"))
        letters = len(document.encoded.translate(None, self._not_letters))
        return Drop("table") if letters < self.min_letters * visible else document
