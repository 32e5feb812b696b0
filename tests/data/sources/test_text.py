from __future__ import annotations

from pathlib import Path

import pytest

from megafm.data.sources import Source, list_shards, read_shard
from megafm.data.sources.shard import Refused
from megafm.data.sources.text import decode
from tests.data.sources.helpers import documents, outcomes


@pytest.mark.parametrize(
    "data, suffix, expected",
    [
        (b"x = 1\r\ny = 2\r", ".py", "x = 1\ny = 2\n"),
        (b"\xef\xbb\xbfx", ".txt", "x"),
        (b"# -*- coding: latin-1 -*-\n# \xe9\n", ".py", "# -*- coding: latin-1 -*-\n# \u00e9\n"),
        (b"", ".py", ""),
    ],
)
def test_decode(data: bytes, suffix: str, expected: str) -> None:
    assert decode(data, suffix) == expected


@pytest.mark.parametrize(
    "data, suffix, reason",
    [
        (b"\xe9", ".txt", "undecodable"),
        (b"# coding: klingon\n", ".py", "undecodable"),
        (b"MZ\x00\x01", ".py", "binary"),
    ],
)
def test_what_is_no_text_is_refused_with_the_reason(data: bytes, suffix: str, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        decode(data, suffix)


def test_a_file_over_the_limit_is_counted_without_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "minified.js").open("wb") as out:
        out.truncate(50_000_000)
    monkeypatch.setattr("megafm.data.sources.text.whole", lambda *_: pytest.fail("was read"))
    assert outcomes(tmp_path) == ["<too_large>"]


def test_a_file_that_went_away_is_counted(tmp_path: Path) -> None:
    (tmp_path / "gone.py").write_text("x")
    source = Source(kind="files", path=str(tmp_path))
    (shard,) = list_shards(source).shards
    (tmp_path / "gone.py").unlink()
    (drop,) = read_shard(source, shard)
    assert (drop.reason, drop.where) == ("unreadable", "gone.py")


def test_one_file_is_a_source_too_and_its_document_says_where_it_is_from(tmp_path: Path) -> None:
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "one.txt").write_text("It was a dark night.")
    (tmp_path / "books" / "two.md").write_text("# Two")
    (one,) = documents(tmp_path / "books" / "one.txt", "text", licence="CC0-1.0")
    assert (one.id, one.path, one.source, one.licence) == ("one.txt",) * 2 + ("text", "CC0-1.0")
    assert one.metadata == {"package": "books"}
    assert outcomes(tmp_path / "books", "text") == ["It was a dark night."]
