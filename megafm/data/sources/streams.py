"""The bytes of a shard: opened here or far away, decompressed and cut into lines within bounds."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any

from megafm.data.frames import ZstandardFrames
from megafm.data.sources.shard import Budget, Refused, need

COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
CHUNK = 1 << 16


def opened(location: str) -> IO[bytes]:
    """Open a path, or a URL by fsspec."""
    if "://" in location:
        return io.BufferedReader(need("fsspec").open(location, "rb").open(), CHUNK)
    return open(location, "rb")


def plain_name(path: str) -> str:
    """The path without the suffix of a compression: what the bytes are once it is undone."""
    expanded = f"{path[:-4]}.tar.gz" if path.lower().endswith(".tgz") else path
    suffix = PurePosixPath(expanded).suffix
    return expanded.removesuffix(suffix) if suffix.lower() in COMPRESSED else path


def decompressed(stream: IO[bytes], path: str, budget: Budget) -> IO[bytes]:
    """The stream, with the compression that its name tells undone.

    Reading it raises Refused: truncated, corrupt, or zip_bomb once the budget is spent.
    """
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in (".gz", ".tgz"):
        return bounded(gzip.GzipFile(fileobj=stream), budget)
    if suffix == ".zst":
        return bounded(ZstandardFrames(need("zstandard"), stream), budget)
    if suffix == ".bz2":
        return bounded(bz2.BZ2File(stream), budget)
    return bounded(lzma.LZMAFile(stream), budget) if suffix == ".xz" else stream


def bounded(stream: Any, budget: Budget) -> IO[bytes]:
    """A buffered stream of what `stream` expands to, within the budget."""
    return io.BufferedReader(_Bounded(stream, budget), CHUNK)


class _Bounded(io.RawIOBase):
    def __init__(self, stream: Any, budget: Budget) -> None:
        self._stream = stream
        self._budget = budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with refusals():
            data = self._stream.read(len(buffer))
        self._budget.spend(len(data))
        buffer[: len(data)] = data
        return len(data)


class refusals:
    """Context manager: what the decompressors raise on bad input, as Refused with its reason."""

    CORRUPT = (
        *(gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, lzma.LZMAError, ValueError),
        NotImplementedError,  # a compression that zipfile does not know
    )

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, EOFError | tarfile.ReadError):
            raise Refused("truncated") from error
        # BZ2File has only OSError for bad data; one of the operating system has a number
        nameless = isinstance(error, OSError) and error.errno is None
        if isinstance(error, self.CORRUPT) or nameless:
            raise Refused("corrupt") from error


def lines(stream: IO[bytes], max_bytes: int) -> Iterator[bytes | None]:
    """The lines of a stream with their ends; None for one of more than `max_bytes`.

    Of such a line no more than `max_bytes` are ever held: the rest is read in chunks and let go.
    """
    while line := stream.readline(max_bytes + 1):
        if len(line) <= max_bytes:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(CHUNK)
        yield None


def whole(stream: IO[bytes], max_bytes: int) -> bytes:
    """All of a stream.

    Raises:
        Refused: it has more than `max_bytes`.
    """
    pieces, room = [], max_bytes
    while piece := stream.read(min(CHUNK, room + 1)):
        pieces.append(piece)
        room -= len(piece)
        if room < 0:
            raise Refused("too_large")
    return b"".join(pieces)
