"""C4's rules: lines that are sentences, pages that are prose.

Source: Raffel et al., Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer (2020), section 2.2. Its bad words, its language and its repeated spans are
matters of `toxicity`, `language` and deduplication.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from megafm.data.document import Document, Drop
from megafm.data.steps.step import Signal, Values, changed, domain, first_true, need_between

WIDE = "\u3002\uff01\uff1f"  # Chinese and Japanese, which put no space after a sentence
MARKS = f".!?{WIDE}\u061f\u0964"  # with Arabic and Hindi
TERMINAL = (*MARKS, '"', "\u201d")
POLICIES = re.compile(
    "terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies"
)
CITATION = re.compile(r"\[(?:\d{1,4}|edit|citation needed)?\]")
# Possessive, so that no run of quotes is read twice.
SENTENCE_END = re.compile(rf"[{MARKS}]++[\"'\u201d\u2019)\]]*+(?=\s|$)|[{WIDE}]")


@dataclass(frozen=True)
class C4Lines:
    """Keep lines that end in terminal punctuation and have at least five words; leave out those
    that speak of JavaScript, cookies and policies, and markers of citations ([1], [edit]).

    Lines of code end in anything and lines of tables have few words: `skip` leaves them alone.
    """

    min_words: int = 5
    skip: tuple[str, ...] = ("code", "table", "dialogue")
    version: ClassVar[str] = "c4_lines_v1"
    reasons: ClassVar[tuple[str, ...]] = ("c4_no_line",)

    def __post_init__(self) -> None:
        need_between(self.version, 0, 1000, min_words=self.min_words)

    def __call__(self, document: Document) -> Document | Drop:
        if domain(document) in self.skip:
            return document
        text, num_citations = CITATION.subn("", document.text)
        lines = text.split("\n")
        kept = [line.rstrip() for line in lines if self._keeps(line.strip())]
        if not kept:
            return Drop("c4_no_line")
        counts = {"lines": len(lines) - len(kept), "citations": num_citations}
        return changed(document, "\n".join(kept), self.version, counts)

    def _keeps(self, line: str) -> bool:
        if not line.endswith(TERMINAL) or len(line.split()) < self.min_words:
            return False
        lower = line.lower()
        return "javascript" not in lower and POLICIES.search(lower) is None


@dataclass(frozen=True)
class C4Signal:
    """How many sentences end, and marks of pages that are not prose."""

    version: ClassVar[str] = "c4_signals_v1"
    names: ClassVar[tuple[str, ...]] = ("sentences", "curly_brackets", "lorem_ipsum")

    def __call__(self, document: Document) -> dict[str, float]:
        return {
            "sentences": sum(1 for _ in SENTENCE_END.finditer(document.text)),
            "curly_brackets": document.text.count("{"),
            "lorem_ipsum": document.text.lower().count("lorem ipsum"),
        }


@dataclass(frozen=True)
class C4Page:
    """Fewer than three sentences, a curly bracket, lorem ipsum.

    Attributes:
        max_curly_brackets: 0 in the paper, where it stands for code in a page. It takes out all
            code, and mathematics in LaTeX: those domains are not judged by it.
    """

    min_sentences: int = 3
    max_curly_brackets: int = 0
    skip: tuple[str, ...] = ("code", "table", "academic", "math")
    version: ClassVar[str] = "c4_page_v1"
    signal: ClassVar[type[Signal]] = C4Signal
    reasons: ClassVar[tuple[str, ...]] = ("c4_sentences", "c4_curly_bracket", "c4_lorem_ipsum")

    def __post_init__(self) -> None:
        need_between(self.version, 0, 1000, min_sentences=self.min_sentences)
        need_between(self.version, 0, 2**40, max_curly_brackets=self.max_curly_brackets)

    def __call__(self, values: Values) -> str | None:
        return first_true(
            ("c4_curly_bracket", values["curly_brackets"] > self.max_curly_brackets),
            ("c4_lorem_ipsum", values["lorem_ipsum"] > 0),
            ("c4_sentences", values["sentences"] < self.min_sentences),
        )
