"""Which function reads which file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import IO

from megafm.data.document import Document, Drop
from megafm.data.sources.archives import SUFFIXES as ARCHIVES
from megafm.data.sources.archives import members
from megafm.data.sources.delimited import csv_rows
from megafm.data.sources.html import read_html
from megafm.data.sources.jsonl import json_lines, json_list
from megafm.data.sources.parquet import parquet_rows
from megafm.data.sources.pdf import read_pdf
from megafm.data.sources.records import read_records
from megafm.data.sources.shard import Place, Refused
from megafm.data.sources.sql import sql_rows
from megafm.data.sources.sqlite import sqlite_rows
from megafm.data.sources.streams import plain_name
from megafm.data.sources.text import read_text
from megafm.data.sources.warc import read_warc

Reader = Callable[[IO[bytes], Place], Iterator[Document | Drop]]

READERS: dict[str, Reader] = {
    "text": read_text,
    "html": read_html,
    "pdf": read_pdf,
    "warc": read_warc,
    "jsonl": read_records(json_lines),
    "json": read_records(json_list),
    "csv": read_records(csv_rows),
    "parquet": read_records(parquet_rows),
    "sqlite": read_records(sqlite_rows),
    "sql": read_records(sql_rows),
}
SUFFIXES = {  # of a file, under the suffix of a compression -> its reader
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".markdown": "text",
    ".rst": "text",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
    ".warc": "warc",
    ".wet": "warc",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".sqlite": "sqlite",
    ".sqlite3": "sqlite",
    ".db": "sqlite",
    ".sql": "sql",
}
KINDS = {  # source.kind -> the suffixes of its files, the first for a file that has none of them
    "text": (".txt", ".text", ".rst"),
    "markdown": (".md", ".markdown"),
    "html": (".html", ".htm", ".xhtml"),
    "pdf": (".pdf",),
    "warc": (".warc", ".wet"),
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "conversations": (".jsonl", ".ndjson", ".json", ".parquet"),
    "csv": (".csv", ".tsv"),
    "parquet": (".parquet",),
    "sqlite": (".sqlite", ".sqlite3", ".db"),
    "sql": (".sql",),
}
_SOURCE_CODE = (".json", ".sql")  # among files of any kind


def format_of(path: str, kind: str) -> str | None:
    """What reads a file of a source of some kind: a key of READERS, or "archive". None where it is
    not one of its files."""
    suffix = PurePosixPath(plain_name(path)).suffix.lower()
    if kind in ("python_installation", "code", "git"):
        return "text"
    if suffix in ARCHIVES:
        return "archive"
    if kind == "files":
        return "text" if suffix in _SOURCE_CODE else SUFFIXES.get(suffix, "text")
    return SUFFIXES[suffix] if suffix in KINDS[kind] else None


def read_file(stream: IO[bytes], place: Place) -> Iterator[Document | Drop]:
    """The documents of a file, or of each file in an archive, by what its name and kind say; a
    Drop where there is none at all."""
    empty = True
    for result in _results(stream, place):
        empty = False
        yield result
    if empty:
        yield Drop("no_documents", place.name)


def _results(stream: IO[bytes], place: Place) -> Iterator[Document | Drop]:
    kind = place.source.kind
    reader = format_of(place.path, kind)
    if reader == "archive":
        for member in members(stream, place):
            if isinstance(member, Drop):
                yield member
            else:
                yield from _read_member(*member)
    else:
        yield from READERS[reader or SUFFIXES[KINDS[kind][0]]](stream, place)


def _read_member(place: Place, stream: IO[bytes]) -> Iterator[Document | Drop]:
    """One that cannot be read is counted, and the next one taken."""
    if place.source.pattern == "*" and format_of(place.path, place.source.kind) is None:
        yield Drop("other_format", place.name)
        return
    try:
        yield from read_file(stream, place)
    except Refused as refusal:
        yield Drop(refusal.reason, place.name)
