"""Which function reads which file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import IO

from megafm.data.document import Document, Drop
from megafm.data.sources.jsonl import read_jsonl
from megafm.data.sources.shard import Place
from megafm.data.sources.streams import plain_name
from megafm.data.sources.text import read_text

Reader = Callable[[IO[bytes], Place], Iterator[Document | Drop]]

READERS: dict[str, Reader] = {  # by source.kind
    "text": read_text,
    "jsonl": read_jsonl,
}
SUFFIXES = {  # of the files of a kind, under the suffix of a compression
    "text": (".txt", ".text"),
    "jsonl": (".jsonl", ".ndjson"),
}


def format_of(path: str, kind: str) -> str | None:
    """The kind of a file in a source of some kind; None where it is not one of its files."""
    suffix = PurePosixPath(plain_name(path)).suffix.lower()
    if kind in READERS:
        return kind if suffix in SUFFIXES[kind] else None
    if kind != "files":  # source code, whatever its suffix
        return "text"
    return next((name for name, suffixes in SUFFIXES.items() if suffix in suffixes), "text")
