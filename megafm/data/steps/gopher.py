"""Gopher's rules of quality and repetition.

Source: Rae et al., Scaling Language Models: Methods, Analysis & Insights from Training Gopher
(2021), appendix A.1.1: quality filtering, repetition removal and its table A1. Every default is
the paper's. Words are parted by white space.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from megafm.data.document import Document
from megafm.data.index import native
from megafm.data.index_reference import REPETITION
from megafm.data.steps.step import Signal, Values, first_true, need_between

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
BULLETS = ("\u2022", "\u2023", "\u25aa", "\u25cf", "\u25e6", "-", "*")
ELLIPSES = ("...", "\u2026")


@dataclass(frozen=True)
class GopherSignal:
    """Counts and shares of words, lines and symbols; shares of text that repeats itself.

    `stop_words` is how many of the eight occur; shares are of words, lines, paragraphs or, by
    `_characters` and `_gram`, of characters that are not white space around words.
    """

    version: ClassVar[str] = "gopher_signals_v1"
    names: ClassVar[tuple[str, ...]] = (
        *("words", "word_length", "hashes", "ellipses", "bullet_lines", "ellipsis_lines"),
        *("alphabetic_words", "stop_words", "duplicate_lines", "duplicate_line_characters"),
        *("duplicate_paragraphs", "duplicate_paragraph_characters"),
        *(f"top_{n}_gram" for n in (2, 3, 4)),
        *(f"duplicate_{n}_gram" for n in range(5, 11)),
    )

    def __call__(self, document: Document) -> dict[str, float]:
        text = document.text
        words = text.split()
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        num_words, num_lines = max(len(words), 1), max(len(lines), 1)
        ellipses = sum(text.count(mark) for mark in ELLIPSES)
        return {
            "words": len(words),
            "word_length": sum(map(len, words)) / num_words,
            "hashes": text.count("#") / num_words,
            "ellipses": ellipses / num_words,
            "bullet_lines": sum(line.startswith(BULLETS) for line in lines) / num_lines,
            "ellipsis_lines": sum(line.endswith(ELLIPSES) for line in lines) / num_lines,
            "alphabetic_words": sum(map(_has_letter, words)) / num_words,
            "stop_words": len(STOP_WORDS.intersection(text.lower().split())),
            **_repetition(document),
        }


_LETTER = re.compile(r"[^\W\d_]")


def _has_letter(word: str) -> bool:
    return word.isalpha() or _LETTER.search(word) is not None


def _repetition(document: Document) -> dict[str, float]:
    (row,) = native().repetition([document.encoded], 1).tolist()
    counts = dict(zip(REPETITION, row, strict=True))
    characters = max(counts["characters"], 1)
    shares = {
        "duplicate_lines": counts["duplicate_lines"] / max(counts["lines"], 1),
        "duplicate_line_characters": counts["duplicate_line_characters"] / characters,
        "duplicate_paragraphs": counts["duplicate_paragraphs"] / max(counts["paragraphs"], 1),
        "duplicate_paragraph_characters": counts["duplicate_paragraph_characters"] / characters,
    }
    for name in REPETITION:
        if name.endswith("_gram_characters"):
            shares[name.removesuffix("_characters")] = counts[name] / characters
    return shares


@dataclass(frozen=True)
class GopherQuality:
    """Length, length of words, symbols, lists, and words of running English.

    `min_stop_words` is for English: set 0 for a corpus in another language.
    """

    min_words: int = 50
    max_words: int = 100_000
    min_word_length: float = 3.0
    max_word_length: float = 10.0
    max_symbols: float = 0.1
    max_bullet_lines: float = 0.9
    max_ellipsis_lines: float = 0.3
    min_alphabetic_words: float = 0.8
    min_stop_words: int = 2
    skip: tuple[str, ...] = ("code", "table")
    version: ClassVar[str] = "gopher_quality_v1"
    signal: ClassVar[type[Signal]] = GopherSignal
    reasons: ClassVar[tuple[str, ...]] = (
        *("gopher_too_short", "gopher_too_long", "gopher_word_length", "gopher_symbols"),
        *("gopher_bullets", "gopher_ellipses", "gopher_alphabetic", "gopher_stop_words"),
    )

    def __post_init__(self) -> None:
        shares = (self.max_bullet_lines, self.max_ellipsis_lines, self.min_alphabetic_words)
        names = ("max_bullet_lines", "max_ellipsis_lines", "min_alphabetic_words")
        need_between(self.version, 0, 1, **dict(zip(names, shares, strict=True)))
        need_between(self.version, 0, len(STOP_WORDS), min_stop_words=self.min_stop_words)
        need_between(self.version, 0, self.max_words, min_words=self.min_words)
        need_between(self.version, 0, self.max_word_length, min_word_length=self.min_word_length)

    def __call__(self, values: Values) -> str | None:
        length = self.min_word_length <= values["word_length"] <= self.max_word_length
        symbols = max(values["hashes"], values["ellipses"])
        return first_true(
            ("gopher_too_short", values["words"] < self.min_words),
            ("gopher_too_long", values["words"] > self.max_words),
            ("gopher_word_length", not length),
            ("gopher_symbols", symbols > self.max_symbols),
            ("gopher_bullets", values["bullet_lines"] > self.max_bullet_lines),
            ("gopher_ellipses", values["ellipsis_lines"] > self.max_ellipsis_lines),
            ("gopher_alphabetic", values["alphabetic_words"] < self.min_alphabetic_words),
            ("gopher_stop_words", values["stop_words"] < self.min_stop_words),
        )


@dataclass(frozen=True)
class GopherRepetition:
    """Table A1: lines, paragraphs and n-grams that stand more than once.

    Attributes:
        max_top_grams: of 2 to 4 words, the share of characters in the most frequent one.
        max_duplicate_grams: of 5 to 10 words, the share of characters in repeated ones.
    """

    max_lines: float = 0.30
    max_paragraphs: float = 0.30
    max_line_characters: float = 0.20
    max_paragraph_characters: float = 0.20
    max_top_grams: tuple[float, float, float] = (0.20, 0.18, 0.16)
    max_duplicate_grams: tuple[float, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)
    skip: tuple[str, ...] = ("code", "table")
    version: ClassVar[str] = "gopher_repetition_v1"
    signal: ClassVar[type[Signal]] = GopherSignal
    reasons: ClassVar[tuple[str, ...]] = (
        *("gopher_duplicate_lines", "gopher_duplicate_paragraphs"),
        *("gopher_top_gram", "gopher_duplicate_grams"),
    )

    def __post_init__(self) -> None:
        if len(self.max_duplicate_grams) != 6:
            raise ValueError(
                f"{self.version}: max_duplicate_grams={list(self.max_duplicate_grams)}: need six, "
                "for 5 to 10 words; set [0.15,0.14,0.13,0.12,0.11,0.10]"
            )

    def __call__(self, values: Values) -> str | None:
        lines = ("duplicate_lines", self.max_lines)
        line_characters = ("duplicate_line_characters", self.max_line_characters)
        paragraphs = ("duplicate_paragraphs", self.max_paragraphs)
        characters = ("duplicate_paragraph_characters", self.max_paragraph_characters)
        top = [(f"top_{n}_gram", most) for n, most in enumerate(self.max_top_grams, 2)]
        grams = [
            (f"duplicate_{n}_gram", most) for n, most in enumerate(self.max_duplicate_grams, 5)
        ]

        def above(limits: Iterable[tuple[str, float]]) -> bool:
            return any(values[name] > most for name, most in limits)

        return first_true(
            ("gopher_duplicate_lines", above((lines, line_characters))),
            ("gopher_duplicate_paragraphs", above((paragraphs, characters))),
            ("gopher_top_gram", above(top)),
            ("gopher_duplicate_grams", above(grams)),
        )
