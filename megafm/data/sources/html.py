"""HTML pages: the text of their main content."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import IO, Any

from megafm.data.document import Document, Drop
from megafm.data.sources.records import checked
from megafm.data.sources.shard import Place, Refused, need
from megafm.data.sources.streams import whole

Extract = Callable[[str, Any], str]  # of markup and its tree

MAX_DEPTH = 4096  # of elements in elements: extraction takes time by its square, here 0.2 s


def read_html(stream: IO[bytes], place: Place) -> Iterator[Document | Drop]:
    page = main_content(whole(stream, place.source.max_document_bytes), "", place.source.extractor)
    yield checked(place.document(**page), place)


def main_content(data: bytes, charset: str, extractor: str) -> dict[str, Any]:
    """Text, language and title of a page, by the fields of Document.

    Args:
        charset: that the server stated, or "".

    Raises:
        Refused: no_main_content, too_deep, or the extractor cannot take the page.
        ValueError: the extractor is not installed.
    """
    extract = _trafilatura() if extractor == "trafilatura" else _resiliparse()
    encoding, trees = need("resiliparse.parse.encoding"), need("resiliparse.parse.html")
    if not charset and not _is_utf8(data):
        charset = encoding.detect_encoding(data, from_html_meta=True)
    try:
        markup = encoding.bytes_to_str(data, charset or "utf-8")
    except LookupError:  # a charset of the server's own
        markup = encoding.bytes_to_str(data, "utf-8")
    try:
        tree = trees.HTMLTree.parse(markup)
        if markup.count("<") > MAX_DEPTH and _depth(tree, trees) > MAX_DEPTH:
            raise Refused("too_deep")
        text = extract(markup, tree)
        root, title = tree.document.query_selector("html"), (tree.title or "").strip()
        language = (root.getattr("lang") or "").strip() if root else ""
    except Refused:
        raise
    except Exception as error:  # hostile input, in other people's parsers: never fatal
        raise Refused("extraction_failed") from error
    if not text:
        raise Refused("no_main_content")
    return {"text": text, "language": language, "metadata": {"title": title} if title else {}}


def _is_utf8(data: bytes) -> bool:
    """Whether it is plainly so: other encodings of more than ASCII hardly ever look like it, while
    a few letters are too few to guess from."""
    if data.isascii():  # or one that shifts, as ISO-2022-JP does
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _depth(tree: Any, trees: ModuleType) -> int:
    deepest = 0

    def enter(element: Any) -> None:
        nonlocal deepest
        deepest = max(deepest, element.depth)

    trees.traverse_dom(tree.body, enter, elements_only=True)
    return deepest


def _resiliparse() -> Extract:
    extract = need("resiliparse.extract.html2text").extract_plain_text
    settings = {"preserve_formatting": True, "main_content": True, "alt_texts": False}
    return lambda markup, tree: extract(tree, **settings).strip()


def _trafilatura() -> Extract:
    extract = need("trafilatura").extract
    return lambda markup, tree: (extract(markup, include_comments=False) or "").strip()
