"""Parquet: a shard per row group, of which a few rows are held at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import IO, Any

from megafm.data.document import Drop
from megafm.data.sources.shard import Place, Refused, Shard, need
from megafm.data.sources.streams import opened, refusals

ROWS = 128  # at a time


def row_groups(shard: Shard) -> Iterator[Shard]:
    """A shard for each row group; the file itself where it has none or cannot be opened, to be
    counted."""
    try:
        with opened(shard.location) as stream:
            metadata = _open(stream).metadata
    except (Refused, OSError):
        yield shard
        return
    if not metadata.num_row_groups:
        yield shard
    first = 0
    for part in range(metadata.num_row_groups):
        group = metadata.row_group(part)
        size = sum(group.column(i).total_compressed_size for i in range(group.num_columns))
        yield dataclasses.replace(shard, part=part, size=size, first_row=first)
        first += group.num_rows


def parquet_rows(stream: IO[bytes], place: Place) -> Iterator[tuple[int, Any]]:
    """Number, in the file, and fields of each row."""
    file = _open(stream)
    names = set(file.schema_arrow.names)
    columns = [n for n in _wanted(place) if n in names]
    if place.source.kind != "conversations" and _top(place.source.fields.text) not in names:
        raise Refused("no_text_column")
    every = range(file.metadata.num_row_groups)
    groups = list(every) if place.shard.part is None else [place.shard.part]
    with refusals():  # of a name that is not UTF-8
        expanded = [_expanded(file.metadata.row_group(group), columns) for group in groups]
    place.budget.spend(sum(expanded))
    number = place.shard.first_row
    with refusals():  # of a corrupt page
        for batch in file.iter_batches(ROWS, row_groups=groups, columns=columns, use_threads=False):
            for row in range(batch.num_rows):
                number += 1
                try:
                    record = {n: batch.column(n)[row].as_py() for n in columns}
                except UnicodeDecodeError:
                    yield number, Drop("undecodable", place.id(number))
                else:
                    yield number, record


def _open(stream: IO[bytes]) -> Any:
    if not stream.seekable():
        raise Refused("not_seekable")
    size = stream.seek(0, 2)
    stream.seek(max(0, size - 4))
    complete = stream.read(4) == b"PAR1"  # the footer comes last
    stream.seek(0)
    if not complete:
        raise Refused("truncated")
    with refusals():
        return need("pyarrow.parquet").ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)


def _expanded(group: Any, columns: list[str]) -> int:
    """Bytes of the columns of a row group once they are decompressed."""
    chunks = map(group.column, range(group.num_columns))
    return sum(c.total_uncompressed_size for c in chunks if _top(c.path_in_schema) in columns)


def _wanted(place: Place) -> list[str]:
    fields = place.source.fields
    named = [fields.text, fields.id, fields.path, fields.licence, fields.language]
    named += [fields.timestamp, *fields.metadata]
    if place.source.kind == "conversations":
        named += ["messages", "conversations", "conversation"]
    return list(dict.fromkeys([*named, *map(_top, named)]))


def _top(name: str) -> str:
    return name.partition(".")[0]
