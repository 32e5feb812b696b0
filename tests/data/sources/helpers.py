"""Read all of a source, as a list of documents and drops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megafm.data.document import Document, Drop
from megafm.data.sources import Source, list_shards, read_shard


def results(path: Path | str, kind: str = "files", **settings: Any) -> list[Document | Drop]:
    source = Source(kind=kind, path=str(path), **settings)  # type: ignore[arg-type]
    shards = list_shards(source).shards
    return [result for shard in shards for result in read_shard(source, shard)]


def documents(path: Path | str, kind: str = "files", **settings: Any) -> list[Document]:
    """All documents, of a source that drops nothing."""
    found = results(path, kind, **settings)
    assert not [result for result in found if isinstance(result, Drop)], found
    return [result for result in found if isinstance(result, Document)]


def outcomes(path: Path | str, kind: str = "files", **settings: Any) -> list[str]:
    """The text of each document, and of each drop the reason in angle brackets."""
    return [
        result.text if isinstance(result, Document) else f"<{result.reason}>"
        for result in results(path, kind, **settings)
    ]
