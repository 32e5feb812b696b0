"""What a unit hands to the units of a later stage: bytes for each of many parts, in one file.

The bytes of a part lie in pieces, in the order in which they were added; at the end of the file
stands an index of the pieces: part, offset and length (int64 each), and their number. Memory: one
buffer, whatever the size of the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

BUFFER_BYTES = 32 << 20


class PartWriter:
    """A context manager; `add` may be called with any part at any time."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._buffers: dict[int, bytearray] = {}
        self._buffered = 0
        self._pieces: list[tuple[int, int, int]] = []

    def __enter__(self) -> PartWriter:
        return self

    def add(self, part: int, data: bytes) -> None:
        self._buffers.setdefault(part, bytearray()).extend(data)
        self._buffered += len(data)
        if self._buffered >= BUFFER_BYTES:
            self._flush()

    def add_records(self, parts: np.ndarray, records: np.ndarray) -> None:
        """Add each record of a structured or plain array to the part beside it."""
        order = np.argsort(parts, kind="stable")
        found, starts = np.unique(parts[order], return_index=True)
        for part, own in zip(found.tolist(), np.split(records[order], starts[1:]), strict=False):
            self.add(part, own.tobytes())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._file:
            if error is None:
                self._flush()
                index = np.array(self._pieces, "<i8").reshape(-1, 3)
                self._file.write(index.tobytes() + np.int64(len(index)).astype("<i8").tobytes())

    def _flush(self) -> None:
        for part, data in sorted(self._buffers.items()):
            self._pieces.append((part, self._file.tell(), len(data)))
            self._file.write(data)
        self._buffers, self._buffered = {}, 0


def read_part(path: Path, part: int) -> Iterator[bytes]:
    """The pieces of a part; a record may not be cut by them, as `add` is never."""
    with path.open("rb") as file:
        end = file.seek(-8, os.SEEK_END)
        count = int(np.frombuffer(file.read(8), "<i8")[0])
        file.seek(end - 24 * count)
        index = np.frombuffer(file.read(24 * count), "<i8").reshape(-1, 3)
        for _, offset, length in index[index[:, 0] == part].tolist():
            file.seek(offset)
            yield file.read(length)


def read_records(path: Path, part: int, dtype: np.dtype) -> np.ndarray:
    return np.frombuffer(b"".join(read_part(path, part)), dtype)


def part_of(value: int, num_parts: int) -> int:
    """Which of equal ranges a hash of 64 bits is in."""
    return value * num_parts >> 64


def parts_of(values: np.ndarray, num_parts: int) -> np.ndarray:
    """The same of an array of uint64; `num_parts` is a power of two."""
    bits = num_parts.bit_length() - 1
    return (values >> np.uint64(64 - bits)) if bits else np.zeros(len(values), np.uint64)
