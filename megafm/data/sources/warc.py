"""WARC and WET, the archives of crawls (ISO 28500): a document per page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

from megafm.data.document import Document, Drop
from megafm.data.sources.html import main_content
from megafm.data.sources.records import checked
from megafm.data.sources.shard import Place, Refused, need
from megafm.data.sources.streams import refusals

MAX_HEADER = 1 << 20
_PAGES = ("text/html", "application/xhtml+xml")


def read_warc(stream: IO[bytes], place: Place) -> Iterator[Document | Drop]:
    """Pages of responses and resources, and the text of conversions (WET); other responses are
    counted. What is no page by its type (warcinfo, request, metadata) is passed over."""
    warc = need("fastwarc.warc")
    kinds = warc.WarcRecordType
    skipped = kinds.warcinfo | kinds.request | kinds.metadata
    tail = _Tail(stream)
    records = warc.ArchiveIterator(
        tail, parse_http=True, auto_decode="all", max_header_len=MAX_HEADER
    )
    truncated = False
    for number, record in enumerate(_all(records), 1):
        if record.record_type & skipped:
            continue
        try:
            yield _document(record, number, place, kinds)
        except Refused as refusal:
            truncated = truncated or refusal.reason == "truncated"
            yield Drop(refusal.reason, place.id(number))
    if not truncated and tail.last not in (b"", b"\n"):
        yield Drop("truncated", place.id())


def _all(records: Any) -> Iterator[Any]:
    with refusals():
        yield from records


def _document(record: Any, number: int, place: Place, kinds: Any) -> Document | Drop:
    headers, http = record.headers, record.http_headers if record.is_http else None
    if record.record_type not in (kinds.response, kinds.resource, kinds.conversion):
        raise Refused("other_record")
    if http is not None and http.status_code != 200:
        raise Refused("http_status")
    kind = (record.http_content_type if http is not None else headers.get("Content-Type")) or ""
    kind = kind.partition(";")[0].strip().lower()
    data = _payload(record, http, place.source.max_document_bytes)
    if kind in _PAGES:
        page = main_content(data, record.http_charset or "", place.source.extractor)
    elif kind == "text/plain":
        page = _plain(data, record.http_charset or "utf-8")
    else:
        raise Refused("not_html")
    stated = headers.get("WARC-Identified-Content-Language")
    page["language"] = stated or page.get("language") or ""
    page["metadata"] = page.get("metadata", {}) | {"record_id": headers.get("WARC-Record-ID") or ""}
    url, time = headers.get("WARC-Target-URI"), headers.get("WARC-Date")
    return checked(place.document(key=number, path=url, timestamp=time, **page), place)


def _payload(record: Any, http: Any, max_bytes: int) -> bytes:
    """The body, read no further than the limit."""
    if record.content_length > max_bytes:
        raise Refused("too_large")
    with refusals():
        data = record.reader.read(max_bytes + 1)
    if len(data) > max_bytes:  # compressed by the server
        raise Refused("too_large")
    encoded = http is not None and (http.get("Content-Encoding") or http.get("Transfer-Encoding"))
    if not encoded and len(data) < record.content_length:
        raise Refused("truncated")
    return data


def _plain(data: bytes, charset: str) -> dict[str, Any]:
    try:
        text = data.decode(charset).strip()
    except (UnicodeDecodeError, LookupError) as error:
        raise Refused("undecodable") from error
    return {"text": text.replace("\r\n", "\n")}


class _Tail:
    """A stream that knows the last byte it gave: the iterator takes a cut header for the end."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._position = 0
        self.last = b""

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.last = data[-1:] or self.last
        self._position += len(data)
        return data
