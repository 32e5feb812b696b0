"""From a row of a table or an object of JSON to a document, by the fields that are configured."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from typing import IO, Any

from megafm.data.document import Document, Drop
from megafm.data.lines import to_line
from megafm.data.sources.config import Fields
from megafm.data.sources.conversations import messages_of, render
from megafm.data.sources.shard import Place, Refused

MAX_DEPTH = 100  # of lists and objects in one another: what is written must be read again

Rows = Callable[[IO[bytes], Place], Iterator[tuple[object, Any]]]


def read_records(rows: Rows) -> Callable[[IO[bytes], Place], Iterator[Document | Drop]]:
    """A reader of the documents of `rows`, which gives the number and fields of each record, or a
    Drop in their place."""

    def read(stream: IO[bytes], place: Place) -> Iterator[Document | Drop]:
        for number, record in rows(stream, place):
            yield record if isinstance(record, Drop) else document_of(record, number, place)

    return read


def document_of(record: Any, number: object, place: Place) -> Document | Drop:
    """The document of a record; `number` tells it from the other records of the file."""
    fields = place.source.fields
    try:
        about = stated(record, fields)
        if place.source.kind == "conversations":
            text, about["metadata"]["messages"] = _conversation(record)
        else:
            text = _string(find(record, fields.text))
        name = _text(find(record, fields.id)) if fields.id else str(number)
        if not name:
            raise Refused("no_id")
    except Refused as refusal:
        return Drop(refusal.reason, place.id(number))
    return checked(place.document(text, name, **about), place)


def _string(text: Any) -> str:
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            raise Refused("undecodable") from error
    if not isinstance(text, str):
        raise Refused("no_text")
    return text


def _conversation(record: Any) -> tuple[str, list[dict[str, Any]]]:
    """The turns of a record: their text rendered, and the messages themselves."""
    messages = plain(messages_of(record))
    if not messages:
        raise Refused("no_messages")
    return render(messages), messages


def checked(document: Document, place: Place) -> Document | Drop:
    """The document, if its strings are Unicode and its text is not over the limit."""
    try:
        too_large = document.num_bytes > place.source.max_document_bytes
        for value in (document.id, document.path, document.licence, document.language):
            value.encode()
        to_line((document.timestamp, document.metadata))
    except UnicodeEncodeError:  # a lone surrogate
        return Drop("undecodable", document.id.encode(errors="backslashreplace").decode())
    return Drop("too_large", document.id) if too_large else document


def stated(record: Any, fields: Fields) -> dict[str, Any]:
    """What a record says of its document besides the text, by the fields of Document."""
    named = ("path", "licence", "language", "timestamp")
    found = {name: _text(find(record, getattr(fields, name))) for name in named}
    metadata = {name: plain(find(record, name)) for name in fields.metadata}
    return found | {"metadata": {k: v for k, v in metadata.items() if v is not None}}


def find(record: Any, name: str) -> Any:
    """The value of a field, or of one in another: meta.url; None where there is none."""
    if not isinstance(record, Mapping) or not name:
        return None
    if name in record:
        return record[name]
    outer, dot, inner = name.partition(".")
    return find(record.get(outer), inner) if dot else None


def plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON has it: times as ISO 8601, bytes as base64, NaN and infinity as null.

    Raises:
        Refused: too_deep.
    """
    if depth > MAX_DEPTH:
        raise Refused("too_deep")
    if isinstance(value, Mapping):
        return {str(key): plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, depth + 1) for inner in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return _text(value)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.isoformat() if isinstance(value, date) else str(value)
