"""Only what its licence allows to learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megafm.data.document import Document, Drop
from megafm.data.licences import PERMISSIVE, is_permissive


@dataclass(frozen=True)
class Licence:
    """Keep documents whose SPDX expression is permissive.

    Attributes:
        also: further licences that are welcome, e.g. [CC-BY-4.0].
        unspecified: keep documents that state none, such as pages of the web.
    """

    also: tuple[str, ...] = ()
    unspecified: bool = False
    version: ClassVar[str] = "licence_v1"
    reasons: ClassVar[tuple[str, ...]] = ("licence", "no_licence")

    def __call__(self, document: Document) -> Document | Drop:
        if document.licence in ("", "unknown", "unspecified"):
            return document if self.unspecified else Drop("no_licence")
        allowed = is_permissive(document.licence, PERMISSIVE.union(self.also))
        return document if allowed else Drop("licence")
