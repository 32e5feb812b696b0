from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from megafm.data.document import Document, Drop
from megafm.data.read import decode, read
from megafm.data.sources import SourceFile

LIMIT = 1_000_000


def entry(path: Path) -> SourceFile:
    size = path.stat().st_size if path.exists() else 0
    return SourceFile(path, size, 0, "files", path.name, "MIT", "corpus", "1.0")


def texts(path: Path, limit: int = LIMIT) -> list[str | Drop]:
    return [r.text if isinstance(r, Document) else r for r in read(entry(path), limit)]


@pytest.mark.parametrize(
    "data, suffix, expected",
    [
        (b"x = 1\r\ny = 2\r", ".py", "x = 1\ny = 2\n"),
        (b"\xef\xbb\xbfx", ".txt", "x"),
        (b"# -*- coding: latin-1 -*-\n# \xe9\n", ".py", "# -*- coding: latin-1 -*-\n# \u00e9\n"),
        (b"\xe9", ".txt", Drop("undecodable")),
        (b"# coding: klingon\n", ".py", Drop("undecodable")),
        (b"MZ\x00\x01", ".py", Drop("binary")),
        (b"", ".py", ""),
    ],
)
def test_decode(data: bytes, suffix: str, expected: str | Drop) -> None:
    assert decode(data, suffix) == expected


def test_a_file_of_one_50_megabyte_line_is_counted_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "minified.js"
    with path.open("wb") as out:
        out.truncate(50_000_000)
    started = time.monotonic()
    assert texts(path) == [Drop("too_large")]
    assert time.monotonic() - started < 0.5


def test_jsonl_gives_a_document_per_line_and_counts_the_bad_ones(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    lines = [
        json.dumps({"text": "one"}).encode(),
        b"{not json",
        json.dumps({"body": "no text"}).encode(),
        json.dumps({"text": 5}).encode(),
        b'{"text": "\\ud800"}',
        b'{"text": "\xff"}',
        b'{"text": "' + b"x" * 7_000_000 + b'"}',
        b'{"text": ' + b"[" * 100_000,
        json.dumps({"text": "\u00e9"}).encode(),
    ]
    path.write_bytes(b"\n".join(lines))
    bad, undecodable = Drop("no_text"), Drop("undecodable")
    assert texts(path) == [
        *("one", bad, bad, bad, undecodable, undecodable, Drop("too_large"), bad, "\u00e9")
    ]
    assert [r.id for r in read(entry(path), LIMIT) if isinstance(r, Document)] == [
        "corpus.jsonl:1",
        "corpus.jsonl:9",
    ]


def test_escapes_in_jsonl_do_not_count_towards_the_limit_of_a_document(tmp_path: Path) -> None:
    path = tmp_path / "russian.jsonl"
    path.write_text(json.dumps({"text": "\u0434" * 10_000}))  # 60 kB of escapes, 20 kB of text
    assert texts(path, limit=20_000) == ["\u0434" * 10_000]


def test_a_file_that_went_away_is_counted(tmp_path: Path) -> None:
    assert texts(tmp_path / "gone.py") == [Drop("unreadable")]
