from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path

import pytest

from megafm.data import Manifest, read_documents
from megafm.data import prepare as prepare_module
from megafm.data.config import DataJob, Source
from megafm.data.manifest import manifest_path
from megafm.data.prepare import prepare
from megafm.data.sources import Fields
from megafm.paths import DataDir
from tests.data.helpers import contents, data_folder, files_job, program, write_corpus


def silent(text: str) -> None:
    pass


def test_documents_manifest_and_splits_agree(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    manifest = prepare(files_job(corpus, tmp_path / "data"), silent)
    assert Manifest.load(tmp_path / "data") == manifest
    assert manifest.corpus == "files of corpus"
    total = 0
    for name, summary in manifest.splits.items():
        documents = list(read_documents(tmp_path / "data", name))
        assert len(documents) == summary.documents > 0
        assert sum(d.num_bytes for d in documents) == summary.bytes
        assert summary.tokens is None
        total += len(documents)
    assert total == 40 == sum(row.documents for row in manifest.sources)


def test_copies_are_counted_and_the_smallest_id_is_kept(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", 5)
    (corpus / "z_copy.py").write_text(program(3))
    (corpus / "a_near_copy.py").write_text(program(4) + "\nprint('one more line')\n")
    (corpus / "blob.bin").write_bytes(b"\0" * 100)
    (corpus / "latin.txt").write_bytes(b"caf\xe9")
    (corpus / "nothing.py").touch()
    manifest = prepare(files_job(corpus, tmp_path / "data"), silent)
    assert manifest.dropped == {
        "binary": 1,
        "empty": 1,
        "exact_duplicate": 1,
        "near_duplicate": 1,
        "undecodable": 1,
    }
    ids = {d.id for name in manifest.splits for d in read_documents(tmp_path / "data", name)}
    assert ids == {"a_near_copy.py", *(f"program_{number:03}.py" for number in range(4))}


def test_bad_files_of_any_format_are_counted_and_end_no_job(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", 5)
    deep = "[" * 500 + "]" * 500
    bad = {
        "a.jsonl": f'{{"text": "a", "m": {deep}}}\n{{no json\n{{"text": "", "m": NaN}}\n'.encode(),
        "b.csv": b'text\n"never closed',
        "c.parquet": b"PAR1 cut",
        "d.db": b"no database at all",
        "e.warc.gz": gzip.compress(b"WARC/1.0\r\n")[:-3],
        "f.jsonl": b"",
        "g.zip": b"PK",
        "h.pdf": b"%PDF-1.4",
        "i.html": b"",
    }
    for name, data in bad.items():
        (corpus / name).write_bytes(data)
    (corpus / "loop").symlink_to(corpus, target_is_directory=True)
    (corpus / "j.txt").symlink_to("j.txt")
    job = files_job(corpus, tmp_path / "data", fields=Fields(metadata=("m",)))
    manifest = prepare(job, silent)
    assert manifest.dropped == {
        "bad_row": 1, "corrupt": 3, "empty": 1, "linked_folder": 1, "no_documents": 1,
        "no_json": 1, "no_main_content": 1, "too_deep": 1, "truncated": 2, "unreadable": 1,
    }  # fmt: skip
    assert sum(summary.documents for summary in manifest.splits.values()) == 5


def test_related_documents_go_to_one_split(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(20):
        for half in (0, 1):  # two files that share two thirds of their text
            text = program(number, 40) + program(1000 + 2 * number + half, 8)
            (corpus / f"{number:02}_{half}.py").write_text(text)
    manifest = prepare(files_job(corpus, tmp_path / "data", fraction=0.3), silent)
    assert "near_duplicate" not in manifest.dropped
    pairs = [d.id[:2] for d in read_documents(tmp_path / "data", "validation")]
    assert pairs
    assert all(pairs.count(number) == 2 for number in pairs)


def test_the_snapshot_is_of_the_contents_not_the_place(tmp_path: Path) -> None:
    one = prepare(files_job(write_corpus(tmp_path / "corpus"), tmp_path / "one"), silent)
    elsewhere = shutil.copytree(tmp_path / "corpus", tmp_path / "far" / "corpus")
    two = prepare(files_job(elsewhere, tmp_path / "two"), silent)
    assert one.snapshot_id == two.snapshot_id
    (elsewhere / "program_003.py").write_text(program(3) + "\n")
    three = prepare(files_job(elsewhere, tmp_path / "two"), silent)
    assert three.snapshot_id != one.snapshot_id
    four = prepare(files_job(tmp_path / "corpus", tmp_path / "one", fraction=0.2), silent)
    assert four.snapshot_id != one.snapshot_id


def test_the_same_command_again_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = files_job(write_corpus(tmp_path / "corpus"), tmp_path / "data")
    first = prepare(job, silent)
    monkeypatch.setattr(prepare_module.executors, "run", lambda *_: pytest.fail("read again"))
    said: list[str] = []
    assert prepare(job, said.append) == first
    assert "up to date" in said[0]


def test_a_fifo_is_counted_and_not_waited_for(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", 3)
    os.mkfifo(corpus / "pipe")
    manifest = prepare(files_job(corpus, tmp_path / "data"), silent)
    assert manifest.dropped == {"unreadable": 1}


def test_an_empty_corpus_names_the_folder_and_what_was_left_out(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    with pytest.raises(ValueError, match="source.path=.*no document to learn from"):
        prepare(files_job(corpus, tmp_path / "data"), silent)
    (corpus / "blob").write_bytes(b"\0")
    (corpus / "line.txt").write_text("x" * 5_000_000)
    with pytest.raises(ValueError, match="no document.*; left out: 1 binary, 1 long_line;"):
        prepare(files_job(corpus, tmp_path / "data", max_document_bytes=10**7), silent)
    assert not manifest_path(tmp_path / "data").exists()


def test_a_full_disk_leaves_the_old_folder_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = data_folder(tmp_path)
    before = contents(folder)

    def full(made: Path, place: Path) -> None:
        raise OSError(28, "No space left on device", str(place))

    monkeypatch.setattr(prepare_module, "_link", full)
    (tmp_path / "corpus" / "new.py").write_text(program(99))
    with pytest.raises(OSError, match="No space left"):
        prepare(files_job(tmp_path / "corpus", folder), silent)
    assert contents(folder) == before


def test_the_installation_gives_the_same_snapshot_twice(tmp_path: Path) -> None:
    source = Source(packages=("rich",), max_document_bytes=20_000)
    jobs = [DataJob(data=DataDir(str(tmp_path / name)), source=source) for name in "ab"]
    one, two = (prepare(job, silent) for job in jobs)
    assert one == two
    assert {row.package for row in one.sources} == {"python", "rich"}
    assert {row.licence for row in one.sources} == {"PSF-2.0", "MIT"}
