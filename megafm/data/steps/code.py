"""Source code that teaches little: written by a program, minified, or data in disguise."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from megafm.data.document import Document, Drop
from megafm.data.steps.step import Signal, Values, first_true, need_between


@dataclass(frozen=True)
class Generated:
    """Files whose head says that a program wrote them."""

    version: ClassVar[str] = "generated_v1"
    reasons: ClassVar[tuple[str, ...]] = ("generated",)
    _mark: ClassVar[re.Pattern[str]] = re.compile(
        r"do not edit|@generated|(automatically |auto-?)generated|generated (by|from|with)\b", re.I
    )

    def __call__(self, document: Document) -> Document | Drop:
        return Drop("generated") if self._mark.search(document.text, 0, 1000) else document


@dataclass(frozen=True)
class CodeSignal:
    """Lengths of lines, and shares of characters.

    `encoded` is of runs of base64 or hexadecimal of 64 and more, `spaces` of white space, without
    which code is minified.
    """

    version: ClassVar[str] = "code_signals_v1"
    names: ClassVar[tuple[str, ...]] = (
        *("lines", "max_line", "mean_line", "alphanumeric", "encoded", "longest_encoded"),
        *("spaces", "xml"),
    )
    _encoded: ClassVar[re.Pattern[str]] = re.compile(r"[0-9A-Za-z+/]{64,}+={0,2}")
    _escaped: ClassVar[re.Pattern[str]] = re.compile(r"(?:\\[xu][0-9A-Fa-f]{2,4}){16,}+")

    def __call__(self, document: Document) -> dict[str, float]:
        text = document.text
        lines = text.splitlines() or [""]
        size = max(len(text), 1)
        patterns = (self._encoded, self._escaped)
        encoded = [len(found) for pattern in patterns for found in pattern.findall(text)]
        return {
            "lines": len(lines) if text else 0,
            "max_line": max(map(len, lines)),
            "mean_line": sum(map(len, lines)) / len(lines),
            "alphanumeric": sum(map(str.isalnum, text)) / size,
            "encoded": sum(encoded) / size,
            "longest_encoded": max(encoded, default=0),
            "spaces": sum(map(str.isspace, text)) / size,
            "xml": float("<?xml version=" in text[:100]),
        }


@dataclass(frozen=True)
class CodeQuality:
    """Files that no one wrote to be read.

    Sources: Chen et al., Evaluating Large Language Models Trained on Code (Codex, 2021), section
    3.1: mean line above 100, longest above 1,000; Li et al., StarCoder (2023), section 3.1: a
    quarter alphanumeric, no XML; Lozhkov et al., StarCoder 2 (2024), section 2.1: encoded data of
    1,024 characters, or half of a file. `min_spaces` is ours: minified code has next to none.
    """

    max_line: int = 1_000
    max_mean_line: float = 100.0
    min_alphanumeric: float = 0.25
    max_encoded: float = 0.5
    max_encoded_run: int = 1_024
    min_spaces: float = 0.06
    keep_xml: bool = False
    skip: tuple[str, ...] = ("text", "table", "web", "books", "academic", "dialogue")
    version: ClassVar[str] = "code_quality_v1"
    signal: ClassVar[type[Signal]] = CodeSignal
    reasons: ClassVar[tuple[str, ...]] = (
        *("code_encoded", "code_xml", "code_minified", "code_long_lines", "code_alphanumeric"),
    )

    def __post_init__(self) -> None:
        shares = {name: getattr(self, name) for name in ("max_encoded", "min_spaces")}
        need_between(self.version, 0, 1, min_alphanumeric=self.min_alphanumeric, **shares)
        need_between(self.version, 1, 2**40, max_line=self.max_line)

    def __call__(self, values: Values) -> str | None:
        long = values["max_line"] > self.max_line or values["mean_line"] > self.max_mean_line
        encoded = values["encoded"] > self.max_encoded
        return first_true(
            ("code_encoded", encoded or values["longest_encoded"] > self.max_encoded_run),
            ("code_xml", bool(values["xml"]) and not self.keep_xml),
            ("code_minified", long and values["spaces"] < self.min_spaces),
            ("code_long_lines", long),
            ("code_alphanumeric", values["alphanumeric"] < self.min_alphanumeric),
        )
