"""From a listed file to documents: bytes to text, with every refusal counted under a reason."""

from __future__ import annotations

import io
import json
import tokenize
from collections.abc import Iterator

from megafm.data.document import Document, Drop
from megafm.data.sources import SourceFile

VERSION = "read/2"


def read(entry: SourceFile, max_bytes: int) -> Iterator[Document | Drop]:
    """The document of a text file, or the documents of a .jsonl file with a "text" per line.

    A text file over `max_bytes` is not even opened. Line ends become "\\n", a byte order mark
    goes.
    """
    try:
        if entry.file.suffix == ".jsonl":
            yield from _read_lines(entry, max_bytes)
        elif entry.size > max_bytes:
            yield Drop("too_large")
        else:
            yield _document(entry, entry.id, decode(entry.file.read_bytes(), entry.file.suffix))
    except OSError:
        yield Drop("unreadable")


def decode(data: bytes, suffix: str) -> str | Drop:
    """UTF-8, or for Python source the encoding that its first lines declare."""
    if b"\0" in data:
        return Drop("binary")
    encoding = "utf-8-sig"
    try:
        if suffix == ".py":
            encoding = tokenize.detect_encoding(io.BytesIO(data).readline)[0]
        text = data.decode(encoding)
    except (UnicodeDecodeError, SyntaxError, LookupError):
        return Drop("undecodable")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _read_lines(entry: SourceFile, max_bytes: int) -> Iterator[Document | Drop]:
    with entry.file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if len(line) > 6 * max_bytes + 4096:  # too long even if each byte was an escape, \u0041
                yield Drop("too_large")
                continue
            try:
                text = json.loads(line)["text"]
                text.encode()
            except UnicodeError:  # a lone surrogate, or bytes that are not UTF-8
                yield Drop("undecodable")
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                yield Drop("no_text")
            else:
                yield _document(entry, f"{entry.id}:{number}", text)


def _document(entry: SourceFile, name: str, text: str | Drop) -> Document | Drop:
    if isinstance(text, Drop):
        return text
    return Document(
        id=name,
        text=text,
        source=entry.source,
        path=entry.path,
        licence=entry.licence,
        metadata={"package": entry.package, "version": entry.version},
    )
