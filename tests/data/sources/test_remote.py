from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from megafm.data.document import Document
from megafm.data.sources import shard
from megafm.paths import DataDir
from tests.data.sources.helpers import documents, outcomes, results
from tests.data.sources.test_archives import zipped


@pytest.fixture
def url() -> Iterator[str]:
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/web/a.jsonl.gz", gzip.compress(b'{"text": "one"}\n'))
    memory.pipe("/bucket/web/deep/b.txt", b"two")
    yield "memory://bucket/web"
    memory.rm("/bucket", recursive=True)


def test_a_url_reads_like_a_folder(url: str) -> None:
    found = documents(url)
    assert [(d.id, d.text) for d in found] == [("a.jsonl.gz:1", "one"), ("deep/b.txt", "two")]
    assert [d.text for d in documents(f"{url}/deep/b.txt", "text")] == ["two"]
    with pytest.raises(ValueError, match="source.path=memory://none: no such .*set source.path"):
        documents("memory://none")


def test_a_url_of_an_archive_and_of_what_is_damaged_reads_like_a_file(url: str) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/bad/a.zip", zipped({"x.txt": b"x", "y.txt": b"\xff"}))
    memory.pipe("/bucket/bad/b.jsonl.gz", gzip.compress(b'{"text": "one"}\n' * 9)[:-9])
    memory.pipe("/bucket/bad/c.parquet", b"PAR1")
    memory.pipe("/bucket/bad/d.db", b"SQLite format 3\0")
    memory.pipe("/bucket/bad/e.txt", b"")
    found = outcomes("memory://bucket/bad")
    reasons = ["<truncated>", "<corrupt>", "<not_local>"]
    assert found[:2] == ["x", "<undecodable>"] and found[-4:] == [*reasons, ""]


def test_a_protocol_without_its_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ValueError, match=r"source.path=s3://.*pip install 'fsspec\[s3\]'"):
        documents("s3://bucket/folder")
    with pytest.raises(ValueError, match="source.path=nonesuch://x: .*set source.path=DIR"):
        documents("nonesuch://x")


def test_shards_are_not_written_to_a_url() -> None:
    with pytest.raises(ValueError, match="data.dir=memory://out: .*set data.dir=DIR"):
        DataDir("memory://out")


def test_a_package_that_is_missing_names_its_extra() -> None:
    with pytest.raises(ValueError, match=r"needs the package nonesuch.*megafm\[data\]"):
        shard.need("nonesuch")


def test_conversations_of_both_forms_keep_their_messages(tmp_path: Path) -> None:
    rows = [
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
        {"messages": []},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    expected = ["user: hi\n\nassistant: yo", "user: a", "<no_messages>"]
    assert outcomes(tmp_path, "conversations") == expected
    first = results(tmp_path, "conversations")[0]
    assert isinstance(first, Document)
    assert first.metadata["messages"][1] == {"role": "assistant", "content": "yo"}
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "b.json").write_text(json.dumps(rows, indent=1))
    assert outcomes(tmp_path, "conversations") == expected
    (tmp_path / "b.json").write_text(json.dumps(rows)[:-9])
    assert outcomes(tmp_path, "conversations")[-1] == "<no_json>"
