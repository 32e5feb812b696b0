from __future__ import annotations

from pathlib import Path

from megafm.data.document import Document
from megafm.data.manifest import snapshot_id
from megafm.data.stages.summary import Summariser, Summary, merge
from tests.data.helpers import document

DOCUMENTS = [document(name, name) for name in "abc"]


def summary(split: str, documents: list[Document]) -> Summary:
    adding = Summariser(split)
    for one in documents:
        adding.add(one, b"a line\n")
    return adding.summary


def snapshot(train: list[Document], validation: list[Document], rule: str = "rule/1") -> str:
    together = merge([summary("train", train), summary("validation", validation)])
    return snapshot_id(together.fingerprint, [rule])


def test_the_snapshot_id_knows_contents_split_and_rules_but_no_order() -> None:
    train, validation = DOCUMENTS[:2], DOCUMENTS[2:]
    base = snapshot(train, validation)
    assert base == snapshot(train[::-1], validation)
    assert base != snapshot(validation, train)
    assert base != snapshot(train, validation, "rule/2")
    assert base != snapshot([document("a", "other"), train[1]], validation)
    assert base != snapshot([train[0], train[0]], validation)


def test_ranges_add_up(tmp_path: Path) -> None:
    web = Document("w:1", "text", "warc", "https://a.example/", "unspecified", "en")
    parts = [summary("train", DOCUMENTS[:1]), summary("train", [*DOCUMENTS[1:], web])]
    whole = merge(parts)
    assert whole.fingerprint == summary("train", [web, *DOCUMENTS]).fingerprint
    assert (whole.num_documents, whole.num_bytes) == (4, 7)
    assert whole.lengths == {1: 3, 3: 1}
    first, second = whole.sources()
    assert (first.source, first.package, first.version, first.bytes) == ("warc", "warc", "", 4)
    assert (second.package, second.licence, second.documents, second.bytes) == (
        "corpus",
        "MIT",
        3,
        3,
    )
    parts[0].save(tmp_path)
    assert Summary.load(tmp_path) == parts[0]
