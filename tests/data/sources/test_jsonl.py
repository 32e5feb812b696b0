from __future__ import annotations

import json
from pathlib import Path

import pytest

from megafm.data.document import Document
from megafm.data.sources import Fields
from tests.data.sources.helpers import documents, outcomes, results


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
    found = results(path, "jsonl")
    assert [r.text if isinstance(r, Document) else r.reason for r in found] == [
        *("one", "no_json", "no_text", "no_text", "undecodable", "undecodable"),
        *("too_large", "no_json", "\u00e9"),
    ]
    assert found[0].id == "corpus.jsonl:1"
    assert found[8].id == "corpus.jsonl:9"
    assert found[3].where == "corpus.jsonl:4"


def test_escapes_in_jsonl_do_not_count_towards_the_limit_of_a_document(tmp_path: Path) -> None:
    path = tmp_path / "russian.jsonl"
    path.write_text(json.dumps({"text": "\u0434" * 10_000}))  # 60 kB of escapes, 20 kB of text
    assert outcomes(path, max_document_bytes=20_000) == ["\u0434" * 10_000]


def test_the_fields_are_where_the_settings_say(tmp_path: Path) -> None:
    record = {
        "uid": 7,
        "body": {"content": "one"},
        "meta": {"url": "https://a.example/1", "lang": "de", "score": 0.5, "tags": ["x"]},
        "terms": "CC-BY-4.0",
        "date": "2024-05-01",
    }
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n" + json.dumps({"uid": None}))
    fields = Fields(
        text="body.content", id="uid", path="meta.url", licence="terms", language="meta.lang",
        timestamp="date", metadata=("meta.score", "meta.tags", "nonesuch"),
    )  # fmt: skip
    one, two = results(tmp_path, "jsonl", fields=fields)
    assert (one.id, one.text, one.path) == ("a.jsonl:7", "one", "https://a.example/1")
    assert (one.licence, one.language, one.timestamp) == ("CC-BY-4.0", "de", "2024-05-01")
    expected = {"package": tmp_path.name, "meta.score": 0.5, "meta.tags": ["x"]}
    assert one.metadata == expected
    assert (two.reason, two.where) == ("no_text", "a.jsonl:2")


def test_a_lone_surrogate_in_metadata_is_counted(tmp_path: Path) -> None:
    lines = ['{"text": "one", "tags": ["\\udfff"]}', '{"text": "one", "date": "\\ud800"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    fields = Fields(metadata=("tags",), timestamp="date")
    assert outcomes(tmp_path, "jsonl", fields=fields) == ["<undecodable>"] * 2


def test_a_record_without_the_id_that_the_settings_name_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}')
    assert outcomes(tmp_path, "jsonl", fields=Fields(id="uid")) == ["<no_id>"]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 11])
def test_a_list_reads_the_same_in_chunks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """Where a chunk ends with an element, too."""
    monkeypatch.setattr("megafm.data.sources.jsonl.CHUNK", chunk)
    rows = [{"text": str(number) * number} for number in range(1, 30)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert outcomes(tmp_path, "jsonl") == [row["text"] for row in rows]


def test_files_of_another_format_are_left_out_unless_the_pattern_names_them(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}')
    (tmp_path / "b.data").write_text('{"text": "two"}')
    assert outcomes(tmp_path, "jsonl") == ["one"]
    assert [d.text for d in documents(tmp_path, "jsonl", pattern="*.data")] == ["two"]
