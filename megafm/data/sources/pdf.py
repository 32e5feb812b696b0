"""PDF: the text of the pages, as far as the file holds text and not pictures of it."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from typing import IO, Any

from megafm.data.document import Document, Drop
from megafm.data.sources.records import checked
from megafm.data.sources.shard import Place, Refused, need
from megafm.data.sources.streams import whole


def read_pdf(stream: IO[bytes], place: Place) -> Iterator[Document | Drop]:
    """One document per file, a blank line between pages; pypdf bounds what a stream expands to."""
    pypdf = need("pypdf")
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # a line for every oddity of a file
    data = whole(stream, place.source.max_document_bytes)
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted:
            raise Refused("encrypted")
        text = _pages(reader, place.source.max_document_bytes)
        about = reader.metadata
        metadata: dict[str, Any] = {"pages": len(reader.pages)}
        if about is not None and isinstance(about.title, str) and about.title:
            metadata["title"] = about.title
    except Refused:
        raise
    except Exception as error:  # a file may be broken in any way, and pypdf then raises anything
        raise Refused("corrupt") from error
    if not text:
        raise Refused("no_text")
    yield checked(place.document(text, timestamp=_time(about), metadata=metadata), place)


def _pages(reader: Any, max_bytes: int) -> str:
    pages, size = [], 0
    for page in reader.pages:
        pages.append(page.extract_text().strip())
        size += len(pages[-1])
        if size > max_bytes:
            raise Refused("too_large")
    return "\n\n".join(page for page in pages if page)


def _time(about: Any) -> str:
    try:
        return about.creation_date.isoformat()
    except (AttributeError, ValueError):  # none, or not as PDF writes them
        return ""
