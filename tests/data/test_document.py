from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from megafm.data.document import documents_path, read_documents, write_documents
from tests.data.helpers import document


def test_documents_round_trip_through_jsonl(tmp_path: Path) -> None:
    documents = [document("a", "x = 1\n"), document("b", "\u00e9\u2028\U0001f600 'quoted'\r\n\t")]
    write_documents(tmp_path, "train", documents)
    assert list(read_documents(tmp_path, "train")) == documents


def test_size_and_hash_are_of_the_utf8_bytes() -> None:
    one = document("a", "\u00e9")
    assert one.num_bytes == 2
    assert one.sha256 == hashlib.sha256(b"\xc3\xa9").hexdigest()


def test_a_missing_split_names_the_job_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data.dir=.*run: megafm data data.dir="):
        list(read_documents(tmp_path, "train"))


def test_a_line_that_is_cut_off_is_named(tmp_path: Path) -> None:
    write_documents(tmp_path, "train", [document("a", "one"), document("b", "two")])
    path = documents_path(tmp_path, "train")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="train.jsonl, line 2: not a document"):
        list(read_documents(tmp_path, "train"))
