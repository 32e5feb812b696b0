"""Personal data out of texts: typed placeholders in its place.

What is found has a form or a check digit: addresses, numbers, keys. Names and postal addresses have
neither; the step `presidio_v1` finds those with a model of its own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from megafm.data.document import Document
from megafm.data.steps import detectors
from megafm.data.steps.secrets import KEYS
from megafm.data.steps.step import changed

# Where two could match the first takes it: a card is no telephone.
DETECTORS = (
    *(*KEYS, *detectors.EMAIL, *detectors.IBAN, *detectors.CARD, *detectors.IP),
    *(*detectors.NATIONAL, *detectors.PHONE),
)
KINDS = tuple(dict.fromkeys(detector.kind for detector in DETECTORS))


@dataclass(frozen=True)
class PII:
    """Put <EMAIL>, <PHONE>, <IP>, <CARD>, <IBAN>, <KEY> and <US_SSN>, ... in the place of each.

    Attributes:
        kinds: which; e.g. without KEY where `secrets_v1` runs.
    """

    kinds: tuple[str, ...] = KINDS
    version: ClassVar[str] = "pii_v1"
    reasons: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise ValueError(f"{self.version}: kinds={kind}: set some of {', '.join(KINDS)}")

    def __call__(self, document: Document) -> Document:
        wanted = [detector for detector in DETECTORS if detector.kind in self.kinds]
        found = detectors.find(document.text, wanted)
        counts = Counter(kind for _, _, kind in found)
        return changed(document, detectors.replace(document.text, found), self.version, counts)
