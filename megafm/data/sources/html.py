"""HTML pages: the text of their main content."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

from megafm.data.document import Document, Drop
from megafm.data.sources.records import checked
from megafm.data.sources.shard import Place, Refused, need
from megafm.data.sources.streams import whole


def read_html(stream: IO[bytes], place: Place) -> Iterator[Document | Drop]:
    page = main_content(whole(stream, place.source.max_document_bytes), "", place.source.extractor)
    yield checked(place.document(**page), place)


def main_content(data: bytes, charset: str, extractor: str) -> dict[str, Any]:
    """Text, language and title of a page, by the fields of Document.

    Args:
        charset: that the server stated, or "".

    Raises:
        Refused: no_main_content, or the extractor cannot take the page.
    """
    encoding, trees = need("resiliparse.parse.encoding"), need("resiliparse.parse.html")
    charset = charset or encoding.detect_encoding(data, from_html_meta=True) or "utf-8"
    try:
        markup = encoding.bytes_to_str(data, charset)
    except LookupError:  # a charset of the server's own
        markup = encoding.bytes_to_str(data, "utf-8")
    try:
        tree = trees.HTMLTree.parse(markup)
        text = _trafilatura(markup) if extractor == "trafilatura" else _resiliparse(tree)
        root, title = tree.document.query_selector("html"), (tree.title or "").strip()
        language = (root.getattr("lang") or "").strip() if root else ""
    except Exception as error:  # hostile input, in other people's parsers: never fatal
        raise Refused("extraction_failed") from error
    if not text:
        raise Refused("no_main_content")
    return {"text": text, "language": language, "metadata": {"title": title} if title else {}}


def _resiliparse(tree: Any) -> str:
    extract = need("resiliparse.extract.html2text").extract_plain_text
    return extract(tree, preserve_formatting=True, main_content=True, alt_texts=False).strip()


def _trafilatura(markup: str) -> str:
    return (need("trafilatura").extract(markup, include_comments=False) or "").strip()
