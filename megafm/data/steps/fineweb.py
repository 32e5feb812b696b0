"""FineWeb's own rules: pages of lists, menus and repeated lines.

Source: Penedo et al., The FineWeb Datasets: Decanting the Web for the Finest Text Data at Scale
(2024), section 3.6. Its published code takes 0.01 for the repeated lines, where the paper says 0.1;
the paper's is the default here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megafm.data.document import Document
from megafm.data.steps.c4 import TERMINAL
from megafm.data.steps.step import Signal, Values, first_true, need_between


@dataclass(frozen=True)
class LineSignal:
    """Shares of lines, those without text left out, and of characters in repeated lines."""

    short: int = 30  # characters
    version: ClassVar[str] = "line_signals_v1"
    names: ClassVar[tuple[str, ...]] = ("punctuated", "short", "duplicate_characters")

    def __post_init__(self) -> None:
        need_between(self.version, 1, 10_000, short=self.short)

    def __call__(self, document: Document) -> dict[str, float]:
        lines = [line.strip() for line in document.text.split("\n") if line.strip()]
        repeated = sum(map(len, lines)) - sum(map(len, set(lines)))
        return {
            "punctuated": sum(line.endswith(TERMINAL) for line in lines) / max(len(lines), 1),
            "short": sum(len(line) < self.short for line in lines) / max(len(lines), 1),
            "duplicate_characters": repeated / max(len(document.text), 1),
        }


@dataclass(frozen=True)
class FineWeb:
    """Few lines end in punctuation, many are short, many characters are of repeated lines."""

    punctuated_lines: float = 0.12
    short_lines: float = 0.67
    duplicate_characters: float = 0.1
    skip: tuple[str, ...] = ("code", "table", "dialogue")
    version: ClassVar[str] = "fineweb_v1"
    signal: ClassVar[type[Signal]] = LineSignal
    reasons: ClassVar[tuple[str, ...]] = (
        *("fineweb_punctuation", "fineweb_short_lines", "fineweb_duplicate_lines"),
    )

    def __post_init__(self) -> None:
        need_between(self.version, -1, 1, punctuated_lines=self.punctuated_lines)
        need_between(self.version, 0, 2, short_lines=self.short_lines)
        need_between(self.version, 0, 2, duplicate_characters=self.duplicate_characters)

    def __call__(self, values: Values) -> str | None:
        return first_true(
            ("fineweb_punctuation", values["punctuated"] <= self.punctuated_lines),
            ("fineweb_short_lines", values["short"] >= self.short_lines),
            (
                "fineweb_duplicate_lines",
                values["duplicate_characters"] >= self.duplicate_characters,
            ),
        )
