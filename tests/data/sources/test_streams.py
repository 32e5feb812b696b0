"""What is compressed, cut off, too long or made to explode."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tracemalloc
from pathlib import Path
from typing import IO, Any

import pytest
import zstandard

from megafm.data.sources import shard
from megafm.data.sources.streams import lines, plain_name
from tests.data.sources.helpers import documents, outcomes, results

TEXTS = [f"document {number} " * 40 for number in range(200)]
JSONL = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
NOISE = [str(pow(3, number + 99, 2**521 - 1)) for number in range(600)]
COMPRESS = {
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_lines_are_those_of_the_plain_file(tmp_path: Path, suffix: str) -> None:
    half = len(JSONL) // 2  # two members, or frames, in one file
    data = COMPRESS[suffix](JSONL[:half]) + COMPRESS[suffix](JSONL[half:])
    (tmp_path / f"a.jsonl{suffix}").write_bytes(data)
    found = documents(tmp_path, "jsonl")
    assert [document.text for document in found] == TEXTS
    assert found[4].id == f"a.jsonl{suffix}:5"


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_compressed_file_that_is_cut_off_gives_what_is_whole_and_says_so(
    tmp_path: Path, suffix: str
) -> None:
    noise = "".join(json.dumps({"text": text}) + "\n" for text in NOISE).encode()
    data = COMPRESS[suffix](noise)
    for end in (len(data) // 2, len(data) - 3):
        (tmp_path / f"a.jsonl{suffix}").write_bytes(data[:end])
        found = outcomes(tmp_path, "jsonl")
        assert found[-1] == "<truncated>"
        assert found[:-1] == NOISE[: len(found) - 1]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_what_is_not_compressed_as_its_name_says_is_corrupt(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a.txt{suffix}").write_bytes(b"plain text that nobody compressed")
    assert outcomes(tmp_path) == ["<corrupt>"]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_bomb_is_stopped_by_its_ratio_and_by_the_bytes(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "FREE_EXPANSION", 2_000_000)
    line = json.dumps({"text": "a" * 99_000}).encode() + b"\n"
    (tmp_path / f"a.jsonl{suffix}").write_bytes(COMPRESS[suffix](line * 40))
    for limits in ({}, {"max_expansion": 10**6, "max_expanded_bytes": 2_000_000}):
        found = outcomes(tmp_path, "jsonl", **limits)
        assert found[-1] == "<zip_bomb>"
        assert 18 <= len(found) <= 21
    assert len(documents(tmp_path, "jsonl", max_expansion=10**6)) == 40


class Zeros(io.RawIOBase):
    """So many zero bytes without a line end; knows how many were asked for at once."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.largest = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self.left)
        self.largest = max(self.largest, count)
        buffer[:count] = bytes(count)
        self.left -= count
        return count


def test_a_line_of_a_gigabyte_is_read_in_chunks_and_never_held() -> None:
    zeros = Zeros(10**9)
    tracemalloc.start()
    found = list(lines(io.BufferedReader(zeros, 1 << 20), 1_000_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [None]
    assert zeros.left == 0
    assert zeros.largest <= 1 << 20
    assert peak < 8_000_000


def test_lines_up_to_the_limit_are_whole_and_the_ones_after_a_long_one_too() -> None:
    data = b"a" * 9 + b"\n" + b"b" * 10 + b"\n" + b"\n" + b"c" * 500_000 + b"\nlast"
    found = list(lines(io.BufferedReader(io.BytesIO(data)), 10))
    assert found == [b"a" * 9 + b"\n", None, b"\n", None, b"last"]


def test_a_sparse_file_of_one_line_is_counted(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("wb") as out:
        out.truncate(20_000_000)
        out.seek(0, 2)
        out.write(b'\n{"text": "after"}\n')
    assert outcomes(tmp_path, "jsonl", max_document_bytes=1000) == ["<too_large>", "after"]


def test_a_file_that_may_not_be_read_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name)

    def guarded(location: str) -> IO[bytes]:
        if location.endswith("b.txt"):  # root may read everything
            raise PermissionError(13, "Permission denied", location)
        return open(location, "rb")

    monkeypatch.setattr("megafm.data.sources.opened", guarded)
    assert outcomes(tmp_path) == ["a", "<unreadable>", "c"]
    assert results(tmp_path)[1].where == "b.txt"


@pytest.mark.parametrize(
    "path, plain",
    [("a.jsonl.gz", "a.jsonl"), ("a.TGZ", "a.tar"), ("a.gz", "a"), ("a.b.txt", "a.b.txt")],
)
def test_the_plain_name(path: str, plain: str) -> None:
    assert plain_name(path) == plain
