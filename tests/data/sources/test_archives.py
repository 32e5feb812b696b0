from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from megafm.data.document import Document
from megafm.data.sources import shard
from tests.data.sources.helpers import documents, outcomes, results

FILES = {
    "one.txt": b"one",
    "deep/two.jsonl": b'{"text": "two"}\n{"text": "three"}\n',
    "four.txt.gz": gzip.compress(b"four"),
    "binary.bin": b"\0\1",
    "inner.zip": b"PK",
    "inner.tar.gz": b"",
}
EXPECTED = ["one", "two", "three", "four", "<binary>", "<nested_archive>", "<nested_archive>"]


def tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz"])
def test_the_files_in_an_archive_are_read_and_archives_in_it_are_not(
    tmp_path: Path, name: str
) -> None:
    mode = {"gz": "w:gz", "tgz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}.get(name.split(".")[-1], "w")
    data = zipped(FILES) if name.endswith("zip") else tar(FILES, mode)
    (tmp_path / name).write_bytes(data)
    assert outcomes(tmp_path) == EXPECTED
    found = [result for result in results(tmp_path) if isinstance(result, Document)]
    assert [d.id for d in found] == [f"{name}:1", f"{name}:2:1", f"{name}:2:2", f"{name}:3"]
    assert found[1].path == f"{name}/deep/two.jsonl"


def test_of_a_kind_the_other_files_in_an_archive_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped(FILES))
    other, nested = "<other_format>", "<nested_archive>"
    assert outcomes(tmp_path, "jsonl") == [other, "two", "three", other, other, nested, nested]


def test_names_that_repeat_or_climb_give_different_ids_and_touch_no_disk(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, text in (("../up.txt", b"a"), ("x.txt", b"b"), ("x.txt", b"c")):
            entry = tarfile.TarInfo(name)
            entry.size = 1
            archive.addfile(entry, io.BytesIO(text))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (folder / "a.tar").write_bytes(out.getvalue())
    found = results(folder)
    assert [d.id for d in found[:3] if isinstance(d, Document)] == ["a.tar:1", "a.tar:2", "a.tar:3"]
    assert outcomes(folder) == ["a", "b", "c", "<linked_file>"]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_a_tar_that_is_cut_off_anywhere_says_so(tmp_path: Path, name: str) -> None:
    noise = {f"{n}.txt": str(pow(7, n + 99, 10**900)).encode() for n in range(30)}
    whole = tar(noise, "w:gz" if name.endswith("gz") else "w")
    for end in (len(whole) // 3, len(whole) // 2 // 512 * 512, len(whole) // 2 // 512 * 512 + 512):
        (tmp_path / name).write_bytes(whole[:end])
        found = outcomes(tmp_path)
        assert "<truncated>" in found, end
        assert all(text.encode() in noise.values() for text in found if text != "<truncated>")


def test_a_zip_that_is_cut_off_or_broken_says_so(tmp_path: Path) -> None:
    data = zipped({"a.txt": b"a" * 1000, "b.txt": b"b" * 1000})
    (tmp_path / "a.zip").write_bytes(data[:-30])
    assert outcomes(tmp_path) == ["<corrupt>"]
    (tmp_path / "a.zip").write_bytes(data.replace(b"a.txt", b"c.txt", 1))
    assert outcomes(tmp_path) == ["<corrupt>", "b" * 1000]


def test_a_compression_that_is_not_known_is_corrupt_and_the_next_member_is_read(
    tmp_path: Path,
) -> None:
    data = bytearray(zipped({"a.txt": b"one", "b.txt": b"two"}))
    for mark, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):  # of the first member
        data[data.index(mark) + place] = 99
    (tmp_path / "a.zip").write_bytes(data)
    assert outcomes(tmp_path) == ["<corrupt>", "two"]


def test_all_members_share_one_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "FREE_EXPANSION", 1_000_000)
    (tmp_path / "a.zip").write_bytes(zipped({f"{n}.txt": b"a" * 90_000 for n in range(20)}))
    found = outcomes(tmp_path, max_expansion=1)
    assert found == ["a" * 90_000] * 11 + ["<zip_bomb>"] * 9
    assert len(documents(tmp_path, max_expansion=2_000)) == 20


def test_a_bomb_within_a_compressed_member_counts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "FREE_EXPANSION", 1_000_000)
    files = {"a.txt.gz": gzip.compress(b"0" * 8_000_000), "b.txt": b"b"}
    (tmp_path / "a.tar").write_bytes(tar(files))
    found = outcomes(tmp_path, max_document_bytes=10**8, max_expansion=1)
    assert found == ["<zip_bomb>", "<zip_bomb>"]
