"""CSV and TSV with a line of column names: a record per row, whose fields may hold line breaks."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from typing import IO, Any

from megafm.data.document import Drop
from megafm.data.sources.jsonl import limit_of
from megafm.data.sources.shard import Place, Refused
from megafm.data.sources.streams import lines, plain_name


def csv_rows(stream: IO[bytes], place: Place) -> Iterator[tuple[int, Any]]:
    """Number and fields of each row below the names; rows of another length are counted."""
    csv.field_size_limit(sys.maxsize)  # of this process; the rows are bounded below
    source = _Lines(stream, limit_of(place))
    delimiter = "\t" if plain_name(place.path).lower().endswith(".tsv") else ","
    rows = csv.reader(source, delimiter=delimiter, strict=True)
    names: list[str] | None = None
    number = 0
    while True:
        source.row_bytes = 0
        try:
            row = next(rows)
        except StopIteration:
            return
        except (csv.Error, _TooLong) as error:
            if names is None:
                raise Refused("no_text_column") from error
            number += 1
            reason = "too_large" if isinstance(error, _TooLong) else "bad_row"
            yield number, Drop(reason, place.id(number))
            continue
        if names is None:
            names = row
            if place.source.fields.text not in names:
                raise Refused("no_text_column")
        elif row:  # a blank line is none
            number += 1
            fits = len(row) == len(names)
            bad = Drop("bad_row", place.id(number))
            yield number, dict(zip(names, row, strict=True)) if fits else bad


class _TooLong(Exception):
    pass


class _Lines:
    """The lines for csv.reader, which asks for more while a quotation is open."""

    def __init__(self, stream: IO[bytes], max_bytes: int) -> None:
        self._lines = lines(stream, max_bytes)
        self._first = True
        self._max_bytes = max_bytes
        self.row_bytes = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        if line is None:
            raise _TooLong
        self.row_bytes += len(line)
        if self.row_bytes > self._max_bytes:
            raise _TooLong
        if self._first:
            self._first = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        return line.decode(errors="surrogateescape")  # bytes that are not UTF-8 are found later
