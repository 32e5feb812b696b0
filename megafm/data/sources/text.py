"""Text files: bytes to text, with every refusal counted under a reason."""

from __future__ import annotations

import codecs
import io
import tokenize
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO

from megafm.data.document import Document, Drop
from megafm.data.licence_texts import licence_of_header
from megafm.data.sources.shard import Place, Refused
from megafm.data.sources.streams import whole

# A file in UTF-16 or UTF-32 tells so; the mark of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(stream: IO[bytes], place: Place) -> Iterator[Document | Drop]:
    """One document: line ends become "\\n", a byte order mark goes."""
    limit = place.source.max_document_bytes
    if place.file is not None and place.shard.size > limit:
        raise Refused("too_large")
    data = whole(stream, limit)
    text = decode(data, PurePosixPath(place.path).suffix)
    code = place.source.kind in ("code", "git")
    yield place.document(text, licence=licence_of_header(text) if code else "")


def decode(data: bytes, suffix: str) -> str:
    """UTF-8, or what a byte order mark or the first lines of Python source declare.

    Raises:
        Refused: binary, or undecodable.
    """
    marked = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "")
    if not marked and b"\0" in data:
        raise Refused("binary")
    encoding = marked or "utf-8-sig"
    try:
        if suffix == ".py" and not marked:
            encoding = tokenize.detect_encoding(io.BytesIO(data).readline)[0]
        text = data.decode(encoding)
    except (UnicodeDecodeError, SyntaxError, LookupError) as error:
        raise Refused("undecodable") from error
    if "\0" in text:
        raise Refused("binary")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
