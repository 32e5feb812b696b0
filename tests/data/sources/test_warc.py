"""Crawls, single pages and PDF."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from megafm.data.document import Document
from tests.data.sources.helpers import documents, outcomes, results

MAIN = "The main text of this page is long enough. " * 20
PAGE = (
    "<html lang='de'><head><title>T</title></head><body><nav><a href='/'>Home</a></nav>"
    f"<main><p>{MAIN}</p></main></body></html>"
).encode()


def record(number: int, body: bytes, kind: str = "text/html", status: str = "200 OK") -> bytes:
    """A response as a crawler writes it."""
    body = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n\r\n".encode() + body
    head = (
        "WARC/1.0\r\nWARC-Type: response\r\n"
        f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{number:012}>\r\n"
        f"WARC-Date: 2024-05-01T10:00:0{number}Z\r\n"
        f"WARC-Target-URI: https://example.org/{number}\r\n"
        "Content-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body + b"\r\n\r\n"


WET = (
    b"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: https://example.org/9\r\n"
    b"WARC-Identified-Content-Language: eng\r\nContent-Type: text/plain\r\n"
    b"WARC-Date: 2024-05-01T10:00:09Z\r\nContent-Length: 8\r\n\r\nwet text\r\n\r\n"
)
CRAWL = (
    record(1, PAGE)
    + record(2, PAGE, status="404 Not Found")
    + record(3, b"\x89PNG", "image/png")
    + WET
)


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.warc.wet"])
def test_a_crawl_gives_pages_with_their_url_time_and_language(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(CRAWL) if name.endswith("gz") else CRAWL)
    one, wrong, image, wet = results(tmp_path, "warc")
    assert isinstance(one, Document) and isinstance(wet, Document)
    assert (one.id, one.text, one.path) == (f"{name}:1", MAIN.strip(), "https://example.org/1")
    assert (one.timestamp, one.language) == ("2024-05-01T10:00:01Z", "de")
    assert one.metadata["title"] == "T"
    assert one.metadata["record_id"].startswith("<urn:uuid:")
    assert (wet.text, wet.language) == ("wet text", "eng")
    assert [wrong.reason, image.reason] == ["http_status", "not_html"]


@pytest.mark.parametrize("cut", [6, 100, 230])
def test_a_crawl_that_is_cut_off_says_so_once(tmp_path: Path, cut: int) -> None:
    (tmp_path / "a.warc").write_bytes(CRAWL[:-cut])
    found = outcomes(tmp_path, "warc")
    assert found[0] == MAIN.strip()
    assert found.count("<truncated>") == 1
    (tmp_path / "a.warc").write_bytes(b"garbage " * 99)
    assert outcomes(tmp_path, "warc") == ["<corrupt>"]


@pytest.mark.parametrize("extractor", ["resiliparse", "trafilatura"])
def test_the_main_content_of_a_page(tmp_path: Path, extractor: str) -> None:
    (tmp_path / "a.html").write_bytes(PAGE)
    (page,) = documents(tmp_path, "html", extractor=extractor)
    assert (page.text, page.language, page.metadata["title"]) == (MAIN.strip(), "de", "T")


def test_pages_without_text_or_too_deep_are_survived(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes(b"<div>" * 50_000 + b"x")
    (tmp_path / "b.html").write_bytes(b"<html></html>")
    (tmp_path / "c.html").write_bytes(b"<div>" * 1000 + b"x")
    assert outcomes(tmp_path, "html") == ["<too_deep>", "<no_main_content>", "x"]


def test_a_pdf_that_is_none_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4 broken")
    (tmp_path / "b.pdf").write_bytes(b"")
    assert outcomes(tmp_path, "pdf") == ["<corrupt>", "<corrupt>"]
