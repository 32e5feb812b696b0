"""Text files: bytes to text, with every refusal counted under a reason."""

from __future__ import annotations

import io
import tokenize
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO

from megafm.data.document import Document, Drop
from megafm.data.licence_texts import licence_of_header
from megafm.data.sources.shard import Place, Refused
from megafm.data.sources.streams import whole


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
    """UTF-8, or for Python source the encoding that its first lines declare.

    Raises:
        Refused: binary, or undecodable.
    """
    if b"\0" in data:
        raise Refused("binary")
    encoding = "utf-8-sig"
    try:
        if suffix == ".py":
            encoding = tokenize.detect_encoding(io.BytesIO(data).readline)[0]
        text = data.decode(encoding)
    except (UnicodeDecodeError, SyntaxError, LookupError) as error:
        raise Refused("undecodable") from error
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
