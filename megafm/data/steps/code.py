"""Source code that teaches little: written by a program, minified, or data in disguise."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from megafm.data.document import Document, Drop


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
