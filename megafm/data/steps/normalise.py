"""Text as it was meant: mojibake, control characters, line ends, one form of each character.

By ftfy (Speer, ftfy: fixes text for you, 2019), an extra: pip install 'megafm[data]'.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

from megafm.data.document import Document
from megafm.data.steps.optional import library
from megafm.data.steps.step import changed, domain

ODD = re.compile(r"[^\t\n -~]")  # without any of these there is nothing to mend


@dataclass(frozen=True)
class Normalise:
    """Unicode NFC, line ends as \\n, no control characters, text in a wrong encoding mended.

    Attributes:
        unescape_html: take &amp; as &.
        straight_quotes: take curly quotes as ' and ".
        skip: strings in code, and cells of tables, are meant as they are.
    """

    unescape_html: bool = False
    straight_quotes: bool = False
    skip: tuple[str, ...] = ("code", "table")
    version: ClassVar[str] = "normalise_v1"
    reasons: ClassVar[tuple[str, ...]] = ()

    def __call__(self, document: Document) -> Document:
        if domain(document) in self.skip:
            return document
        if not self.unescape_html and ODD.search(document.text) is None:
            return document
        text = _ftfy().fix_text(document.text, _config(self.unescape_html, self.straight_quotes))
        return changed(document, text, self.version, {"documents": int(text != document.text)})


def _ftfy() -> ModuleType:
    return library("ftfy", "megafm[data]", Normalise.version)


@functools.cache
def _config(unescape_html: bool, straight_quotes: bool) -> Any:
    return _ftfy().TextFixerConfig(
        unescape_html=unescape_html, uncurl_quotes=straight_quotes, explain=False
    )
