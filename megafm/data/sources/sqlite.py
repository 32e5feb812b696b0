"""SQLite: the rows of a table, read from a file that is not written and runs no code of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import IO, Any
from urllib.parse import quote

from megafm.data.document import Drop
from megafm.data.sources.shard import Place, Refused


def sqlite_rows(stream: IO[bytes], place: Place) -> Iterator[tuple[str, Any]]:
    """Table and number, and fields of each row of the tables that have the text column."""
    if place.file is None:
        raise Refused("not_local")
    log = place.file.with_name(f"{place.file.name}-wal")
    if log.exists() and log.stat().st_size:  # rows that a reader without locks does not see
        raise Refused("not_checkpointed")
    url = f"file:{quote(str(place.file.resolve()))}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(url, uri=True)) as database:
            database.execute("PRAGMA trusted_schema = OFF")
            # Text is decoded by us; a longer one is left in the database.
            database.text_factory = bytes
            for table in _tables(database, place.source.table):
                yield from _rows(database, table, place)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # a name that is none
        raise Refused("corrupt") from error


def _tables(database: sqlite3.Connection, wanted: str | None) -> list[str]:
    names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    tables = [name.decode() for (name,) in names if not name.startswith(b"sqlite_")]
    if wanted is not None and wanted not in tables:
        raise Refused("no_table")
    return tables if wanted is None else [wanted]


def _rows(database: sqlite3.Connection, table: str, place: Place) -> Iterator[tuple[str, Any]]:
    info = database.execute(f"PRAGMA table_info({_quoted(table)})")
    columns = [row[1].decode() for row in info]
    fields = place.source.fields
    if fields.text not in columns:
        yield table, Drop("no_text_column", place.id(table))
        return
    named = [fields.id, fields.path, fields.licence, fields.language, fields.timestamp]
    used = [name for name in dict.fromkeys([*named, *fields.metadata]) if name in columns]
    text = _quoted(fields.text)
    size = f"length(CAST({text} AS BLOB))"
    short = f"CASE WHEN {size} <= {place.source.max_document_bytes} THEN {text} END"
    query = f"SELECT {size}, {', '.join([short, *map(_quoted, used)])} FROM {_quoted(table)}"
    for number, (num_bytes, *values) in enumerate(database.execute(query), 1):
        key = f"{table}:{number}"
        if (num_bytes or 0) > place.source.max_document_bytes:
            yield key, Drop("too_large", place.id(key))
            continue
        try:
            decoded = [v.decode() if isinstance(v, bytes) else v for v in values]
        except UnicodeDecodeError:
            yield key, Drop("undecodable", place.id(key))
        else:
            yield key, dict(zip([fields.text, *used], decoded, strict=True))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
