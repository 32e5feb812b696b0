"""Shards of documents: one JSON object a line, compressed where zstandard is installed."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from megafm.data.frames import ZstandardFrames

try:
    import zstandard
except ImportError:  # shards are then plain
    zstandard = None  # type: ignore[assignment]

LEVEL = 3


def shard_path(folder: Path, name: str) -> Path:
    """Where a new shard goes."""
    return folder / f"{name}.jsonl{'.zst' if zstandard else ''}"


def find_shard(folder: Path, name: str) -> Path:
    """A shard that was written here, or on another machine with or without zstandard."""
    plain = folder / f"{name}.jsonl"
    return plain if plain.exists() else plain.with_name(f"{plain.name}.zst")


@contextmanager
def open_shard(path: Path) -> Iterator[IO[bytes]]:
    """The shard's lines, to be read.

    Raises:
        ValueError: it is compressed and zstandard is not installed, or it is damaged.
        OSError: it cannot be read.
    """
    if path.suffix != ".zst":
        with path.open("rb") as lines:
            yield lines
    elif zstandard is None:
        raise ValueError(f"{path}: compressed; run: pip install zstandard")
    else:
        with path.open("rb") as file:
            yield io.BufferedReader(_Shard(path, file), 1 << 20)


class _Shard(ZstandardFrames):
    """Says which shard is damaged."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        super().__init__(zstandard, file)
        self._path = path

    def readinto(self, buffer: Any) -> int:
        try:
            return super().readinto(buffer)
        except (EOFError, ValueError) as error:
            raise ValueError(f"{self._path}: damaged ({error})") from error


@contextmanager
def write_shard(path: Path) -> Iterator[IO[bytes]]:
    if path.suffix != ".zst":
        with path.open("wb") as out:
            yield out
    else:
        compressor = zstandard.ZstdCompressor(level=LEVEL)
        with path.open("wb") as file, compressor.stream_writer(file) as out:
            yield out


def to_line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"
