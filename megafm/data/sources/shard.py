"""What every source is made of: shards to read, and where in one a document is from."""

from __future__ import annotations

import importlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from megafm.data.document import Document
from megafm.data.sources.config import Source

FREE_EXPANSION = 64_000_000  # bytes that anything may grow to, whatever its ratio


@dataclass(frozen=True, slots=True)
class Shard:
    """One file to read, or part of one; see Document for the fields that its documents share.

    Attributes:
        name: unique in the source and the same on every machine; ids begin with it.
        location: where to open it from here, a path or a URL.
        size: bytes as they are stored.
        version: changes when the contents may have.
        path: of its documents, relative to the source.
        part: which part of the file (a row group, a shard of a data set), None for all of it.
        first_row: of that part, among those of the file.
    """

    name: str
    location: str
    size: int
    version: str
    path: str
    source: str
    licence: str
    metadata: dict[str, Any] = field(default_factory=dict, hash=False)
    part: int | None = None
    first_row: int = 0


@dataclass
class Listing:
    """The shards of a source, and what was left out on the way: a count per reason."""

    corpus: str
    shards: list[Shard]
    dropped: Counter[str] = field(default_factory=Counter)
    skipped_packages: dict[str, str] = field(default_factory=dict)  # "name version" -> licence


class Budget:
    """How far a shard may still expand; archives and what is compressed in them share one."""

    def __init__(self, shard: Shard, source: Source) -> None:
        by_ratio = max(FREE_EXPANSION, shard.size * source.max_expansion)
        self.left = min(by_ratio, source.max_expanded_bytes)

    def spend(self, num_bytes: int) -> None:
        self.left -= num_bytes
        if self.left < 0:
            raise Refused("zip_bomb")


@dataclass(frozen=True)
class Place:
    """Where in a source a stream of bytes is from, and the settings to read it with.

    Attributes:
        name, path: of its documents: those of the shard, or of a member of an archive.
        budget: how far what is read may still expand.
        file: on this machine, when the stream is all of it; else None.
    """

    source: Source
    shard: Shard
    name: str
    path: str
    budget: Budget
    file: Path | None = None

    def document(self, text: str, key: object = None, **stated: Any) -> Document:
        """The document with that text; `key` tells it from the others of this place.

        Args:
            stated: further fields of Document; metadata is added to that of the shard.
        """
        fields: dict[str, Any] = {"path": self.path, "licence": self.shard.licence}
        fields |= {name: value for name, value in stated.items() if value}
        fields["metadata"] = self.shard.metadata | fields.get("metadata", {})
        return Document(self.id(key), text, self.shard.source, **fields)

    def id(self, key: object = None) -> str:
        return self.name if key is None else f"{self.name}:{key}"


class Refused(Exception):
    """The rest of a shard, or of a member of an archive, cannot be read.

    Args:
        reason: the code that it is counted under.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def need(module: str, extra: str = "data") -> ModuleType:
    """Import an optional package.

    Raises:
        ValueError: it is not installed; names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"this source needs the package {module.partition('.')[0]} ({error}); "
            f"run: pip install 'megafm[{extra}]'"
        ) from error
