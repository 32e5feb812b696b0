"""JSON lines: an object on each, of which the configured fields make a document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

from megafm.data.document import Document, Drop
from megafm.data.sources.records import document_of
from megafm.data.sources.shard import Place
from megafm.data.sources.streams import lines


def read_jsonl(stream: IO[bytes], place: Place) -> Iterator[Document | Drop]:
    for number, record in objects(stream, place):
        if isinstance(record, Drop):
            yield record
        else:
            yield document_of(record, number, place)


def objects(stream: IO[bytes], place: Place) -> Iterator[tuple[int, Any]]:
    """Number and value of each line, or a Drop of one that is no JSON."""
    # A document is under its limit even if each of its bytes was an escape, \u0041.
    limit = 6 * place.source.max_document_bytes + 4096
    for number, line in enumerate(lines(stream, limit), 1):
        if line is None:
            yield number, Drop("too_large", place.id(number))
            continue
        try:
            record = json.loads(line)
        except UnicodeDecodeError:
            yield number, Drop("undecodable", place.id(number))
        except (ValueError, RecursionError):
            yield number, Drop("no_json", place.id(number))
        else:
            yield number, record
