"""What the cleaning of documents is made of.

Four kinds of things, each a frozen dataclass whose fields are its settings and whose `version`
names it in configs, counters and manifests, and changes whenever the outcome may:

- a Step takes a document and returns it, changed or not, or a Drop;
- a Signal measures a document and decides nothing: its values are written first;
- a Rule decides on written values, so that another threshold needs no second measurement;
- a CorpusStep compares documents by hashes of what they hold.

What leaves a document out has a code among `reasons`. What a step does to a document that stays is
counted in `document.notes["counts"]`, so that counts add up over any number of processes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import ClassVar, Protocol

import numpy as np

from megafm.data.document import Document, Drop
from megafm.data.steps.contents import hashes_of

Values = Mapping[str, float]


class Step(Protocol):
    version: ClassVar[str]
    reasons: ClassVar[tuple[str, ...]]

    def __call__(self, document: Document) -> Document | Drop: ...


class CorpusStep(Protocol):
    """Compares hashes of pieces of documents, which stages bring together; see `stages.compare`.

    Attributes:
        by_equal_keys: a piece matters only where another has its hash, so that ranges of hashes can
            be looked at one by one.
    """

    version: ClassVar[str]
    reasons: ClassVar[tuple[str, ...]]
    by_equal_keys: ClassVar[bool]

    def pieces(self, document: Document) -> tuple[np.ndarray, np.ndarray]:
        """A hash of each piece, uint64 (pieces,), and the number of the piece, below 2**32."""
        ...

    def repeated(self, keys: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """Which pieces to take out, bool (pieces,).

        Args:
            keys: hashes, ascending; of those alone that occur more than once `by_equal_keys`.
            documents: the place of each piece's document in the order of ids, int64 (pieces,);
                ascending where keys are equal, as are the pieces of a document.
        """
        ...

    def without(self, document: Document, places: np.ndarray) -> Document | Drop:
        """What is left of a document less the pieces of these numbers, ascending."""
        ...


class Signal(Protocol):
    """`names` are those of the values, which are numbers."""

    version: ClassVar[str]
    names: ClassVar[tuple[str, ...]]

    def __call__(self, document: Document) -> dict[str, float]: ...


class Rule(Protocol):
    """Decides on the values of `signal`.

    Attributes:
        skip: domains, see `domain`, that the rule does not judge.
    """

    version: ClassVar[str]
    reasons: ClassVar[tuple[str, ...]]
    signal: ClassVar[type[Signal]]

    @property
    def skip(self) -> tuple[str, ...]: ...

    def __call__(self, values: Values) -> str | None: ...


def describe(part: Step | CorpusStep | Signal | Rule) -> str:
    """Everything that its outcome depends on: its version, its settings and the contents of the
    `files` that it reads, if it has any; not where these lie, which is a field without repr.

    Raises:
        ValueError: a file cannot be read.
    """
    paths = getattr(part, "files", ())
    try:
        contents = hashes_of(paths)
    except OSError as error:
        message = (
            f"{part.version}: {error.filename}: {error.strerror}; set it to a file that exists"
        )
        raise ValueError(message) from error
    return " ".join([part.version, repr(part), *contents])


CODE = frozenset(
    {"c", "cc", "cpp", "cs", "css", "cu", "cuh", "go", "h", "hpp", "hs", "ipynb", "java"}
    | {"js", "jsx", "kt", "lua", "m", "php", "pl", "ps1", "py", "pyi", "r", "rb", "rs", "scala"}
    | {"sh", "sql", "swift", "tex", "ts", "tsx", "vue", "xml"}
)


def domain(document: Document) -> str:
    """What kind of text it is: as `metadata["domain"]` says (web, table, books, ...), else code by
    the suffix of its path, else text.

    The suffix of a URL names what made the page, that of a file of records what holds the text:
    neither says what the text is.
    """
    stated = document.metadata.get("domain")
    if stated:
        return str(stated)
    suffix = PurePosixPath(document.path).suffix.lower().removeprefix(".")
    return "code" if suffix in CODE and "://" not in document.path else "text"


def changed(document: Document, text: str, version: str, counts: Mapping[str, int]) -> Document:
    """The document with another text and, if any, what was done to it by the step `version`."""
    counts = {name: count for name, count in counts.items() if count}
    if not counts:
        return document if text == document.text else dataclasses.replace(document, text=text)
    before = document.notes.get("counts", {})
    notes = {**document.notes, "counts": {**before, version: counts}}
    return dataclasses.replace(document, text=text, notes=notes)


def need_between(version: str, low: float, high: float, **settings: float) -> None:
    """Raises ValueError for the first setting that is not within low .. high."""
    for name, value in settings.items():
        if not low <= value <= high:
            raise ValueError(f"{version}: {name}={value}: must be from {low:g} to {high:g}")


def first_true(*checks: tuple[str, bool]) -> str | None:
    """The reason of the first check that holds."""
    return next((reason for reason, holds in checks if holds), None)
