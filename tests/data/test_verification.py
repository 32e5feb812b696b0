from __future__ import annotations

from pathlib import Path

import pytest

from megafm.data.manifest import Manifest
from megafm.data.prepare import prepare
from megafm.data.tokenization import tokenize
from megafm.data.verification import verify
from tests.data.helpers import files_job, small_tokenizer, write_corpus


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verify")
    prepare(files_job(write_corpus(path / "corpus"), path / "data"), lambda text: None)
    tokenize(str(path / "data"), small_tokenizer(), lambda text: None)
    return path / "data"


def paths(folder: Path) -> list[Path]:
    shards = sorted((folder / "documents").rglob("*.jsonl*"))
    return [*shards, *(folder / name for name in Manifest.load(folder).token_files)]


def test_an_untouched_folder_is_what_its_manifest_says(folder: Path) -> None:
    said: list[str] = []
    verify(str(folder), said.append)
    assert "2 shards of documents and 4 files of tokens are" in said[0]


@pytest.mark.parametrize("number", range(6))
def test_a_byte_of_any_file_is_found(folder: Path, number: int) -> None:
    path = paths(folder)[number]
    before = path.read_bytes()
    message = f"not what the manifest says: {path}; remove {'them' if number > 1 else folder},"
    try:
        path.write_bytes(before[:-9] + bytes([before[-9] ^ 1]) + before[-8:])
        with pytest.raises(ValueError, match=message):
            verify(str(folder))
        path.unlink()
        with pytest.raises(ValueError, match=message):
            verify(str(folder))
    finally:
        path.write_bytes(before)


def test_shards_of_tokens_that_were_removed_are_made_again(folder: Path) -> None:
    for name in Manifest.load(folder).token_files:
        (folder / name).unlink()
        tokenize(str(folder), small_tokenizer(), lambda text: None)
        verify(str(folder))


def test_documents_that_stay_keep_their_tokens(folder: Path) -> None:
    before = Manifest.load(folder)
    prepare(
        files_job(folder.parent / "corpus", folder, max_document_bytes=2**30), lambda text: None
    )
    after = Manifest.load(folder)
    assert after.rules != before.rules and after.token_files == before.token_files != {}
