from __future__ import annotations

from pathlib import Path

import pytest

from megafm.data.document import Document
from megafm.data.manifest import Manifest, manifest_path, snapshot_id, summarise_sources
from tests.data.helpers import data_folder, document

DOCUMENTS = [document(name, name) for name in "abc"]


def test_the_snapshot_id_knows_contents_split_and_rules_but_no_order() -> None:
    train, validation = DOCUMENTS[:2], DOCUMENTS[2:]
    base = snapshot_id({"train": train, "validation": validation}, ["rule/1"])
    assert base == snapshot_id({"validation": validation, "train": train[::-1]}, ["rule/1"])
    assert base != snapshot_id({"train": validation, "validation": train}, ["rule/1"])
    assert base != snapshot_id({"train": train, "validation": validation}, ["rule/2"])
    changed = [document("a", "other"), train[1]]
    assert base != snapshot_id({"train": changed, "validation": validation}, ["rule/1"])


def test_sources_add_up() -> None:
    (row,) = summarise_sources(DOCUMENTS)
    assert (row.package, row.licence, row.documents, row.bytes) == ("corpus", "MIT", 3, 3)
    (row,) = summarise_sources(
        [Document("w:1", "text", "warc", "https://a.example/", "unspecified")]
    )
    assert (row.source, row.package, row.version, row.bytes) == ("warc", "warc", "", 4)


def test_tokens_come_and_go(tmp_path: Path) -> None:
    manifest = Manifest.load(data_folder(tmp_path))
    tokenized = manifest.with_tokens({"train": 5, "validation": 2}, "hash")
    assert tokenized.tokens == {"train": 5, "validation": 2}
    assert tokenized.splits["train"].tokens == 5
    assert tokenized.without_tokens() == manifest


def test_a_missing_or_broken_manifest_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data.dir=.*no manifest.json.*run: megafm data"):
        Manifest.load(tmp_path)
    for text in ("{", "[]", '{"corpus": "x"}'):
        manifest_path(tmp_path).write_text(text)
        with pytest.raises(ValueError, match="manifest.json: not a manifest.*run: megafm data"):
            Manifest.load(tmp_path)
