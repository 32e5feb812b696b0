from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from megafm.data.document import (
    Document,
    document_shards,
    documents_folder,
    read_documents,
    write_documents,
)
from megafm.data.lines import open_shard
from tests.data.helpers import document


def test_documents_round_trip_through_jsonl(tmp_path: Path) -> None:
    documents = [document("a", "x = 1\n"), document("b", "\u00e9\u2028\U0001f600 'quoted'\r\n\t")]
    write_documents(tmp_path, "train", documents)
    assert list(read_documents(tmp_path, "train")) == documents


def test_what_a_source_knows_is_kept_and_what_it_does_not_is_empty(tmp_path: Path) -> None:
    known = Document(
        "w:1", "text", "warc", "https://example.org/a", "CC-BY-4.0", "en", "2024-05-01T10:00:00Z",
        {"status": 200, "headers": {"Server": "x"}, "tags": ["a", None]},
    )  # fmt: skip
    plain = Document("t", "text", "files", "t.txt", "unspecified")
    assert (plain.language, plain.timestamp, plain.metadata) == ("", "", {})
    write_documents(tmp_path, "train", [plain, known])
    assert list(read_documents(tmp_path, "train")) == [plain, known]
    assert len({known, plain, plain}) == 2


def test_a_line_of_an_older_format_is_named_with_the_remedy(tmp_path: Path) -> None:
    fields = {"id": "a", "text": "one", "source": "files", "path": "a", "licence": "MIT"}
    path = documents_folder(tmp_path, "train") / "00000.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(fields | {"package": "p", "version": "1"}) + "\n")
    with pytest.raises(ValueError, match="line 1: not a document .*'package'.*run: megafm data"):
        list(read_documents(tmp_path, "train"))


def test_size_and_hash_are_of_the_utf8_bytes() -> None:
    one = document("a", "\u00e9")
    assert one.num_bytes == 2
    assert one.sha256 == hashlib.sha256(b"\xc3\xa9").hexdigest()


def test_a_missing_split_names_the_job_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data.dir=.*run: megafm data data.dir="):
        list(read_documents(tmp_path, "train"))


def test_a_line_that_is_cut_off_is_named(tmp_path: Path) -> None:
    write_documents(tmp_path, "train", [document("a", "one"), document("b", "two")])
    (packed,) = document_shards(tmp_path, "train")
    with open_shard(packed) as lines:
        text = lines.read()
    packed.unlink()
    packed.with_name("00000.jsonl").write_bytes(text[:-10])
    with pytest.raises(ValueError, match="00000.jsonl, line 2: not a document"):
        list(read_documents(tmp_path, "train"))


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    write_documents(tmp_path, "train", [document("a", "one")])
    (path,) = document_shards(tmp_path, "train")
    path.write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=f"{path.name}.*run: megafm data"):
        list(read_documents(tmp_path, "train"))


def test_a_shard_that_is_cut_off_at_any_byte_is_named(tmp_path: Path) -> None:
    write_documents(tmp_path, "train", [document("a", "one " * 50), document("b", "two")])
    (path,) = document_shards(tmp_path, "train")
    whole = path.read_bytes()
    for end in range(1, len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=f"{path.name}: damaged.*run: megafm data"):
            list(read_documents(tmp_path, "train"))
