"""Tokens that lie in files, as one stream of documents: what every format is read as."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

SCAN = 2**24  # tokens looked at in one go for the ends of documents


class Tokens(Protocol):
    """Random access to a stream of tokens.

    Attributes:
        path: the file or folder, for messages.
        num_tokens: of all documents.
    """

    @property
    def path(self) -> Path: ...

    @property
    def num_tokens(self) -> int: ...

    @property
    def document_edges(self) -> np.ndarray:
        """Where each document starts in the stream, and the end of the last: int64 (n + 1,)."""

    def gather(self, starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each piece of the stream the same tokens at another place.

        Args:
            starts, counts: int64, of each piece, in tokens.

        Returns:
            tokens, places: piece i is tokens[places[i] : places[i] + counts[i]].
        """


class FileTokens:
    """Pieces of several files as one stream. Source of no format: the readers say where they are.

    Memory: 24 bytes a segment, and 8 a document where segments are not the documents.

    Args:
        path: for messages.
        files: the bytes of each, uint8, memory-mapped.
        segments: of each run of tokens the file, the first byte in it and the number of tokens.
        dtype: of the tokens in all of them.
        document_edges: in tokens; None where every segment is a document.
        eod_id: where given, documents end behind it, wherever segments do.

    Raises:
        ValueError: a segment goes beyond the end of its file.
    """

    def __init__(
        self,
        path: Path,
        files: Sequence[np.ndarray],
        segments: tuple[np.ndarray, np.ndarray, np.ndarray],
        dtype: np.dtype,
        document_edges: np.ndarray | None = None,
        eod_id: int | None = None,
    ) -> None:
        self.path = path
        self.dtype = dtype
        self._files = files
        self._file, self._first, counts = (np.asarray(one, np.int64) for one in segments)
        sizes = np.array([len(file) for file in files], np.int64)
        beyond = (counts < 0) | (self._first + counts * dtype.itemsize > sizes[self._file])
        if beyond.any():
            number = int(np.argmax(beyond))
            raise ValueError(
                f"{path}: run {number} of tokens goes beyond the end of its file; it is cut off, "
                "fetch it again"
            )
        self._edges = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        self._document_edges = self._edges if document_edges is None else document_edges
        self._eod_id = eod_id

    @property
    def num_tokens(self) -> int:
        return int(self._edges[-1])

    @cached_property
    def document_edges(self) -> np.ndarray:
        if self._eod_id is None:
            return self._document_edges
        ends = [np.zeros(1, np.int64)]
        for start in range(0, self.num_tokens, SCAN):
            count = min(SCAN, self.num_tokens - start)
            tokens, _ = self.gather(np.array([start]), np.array([count]))
            ends.append(np.flatnonzero(tokens == self._eod_id) + start + 1)
        edges = np.concatenate(ends)
        return edges if edges[-1] == self.num_tokens else np.append(edges, self.num_tokens)

    def gather(self, starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        places = np.concatenate(([0], np.cumsum(counts)))
        out = np.empty(int(places[-1]), self.dtype)
        segments = np.searchsorted(self._edges, starts, "right") - 1
        for piece, segment in enumerate(segments.tolist()):
            start, at, end = int(starts[piece]), int(places[piece]), int(places[piece + 1])
            while at < end:
                here = min(end - at, int(self._edges[segment + 1]) - start)
                skipped = (start - int(self._edges[segment])) * self.dtype.itemsize
                first = int(self._first[segment]) + skipped
                file = self._files[self._file[segment]]
                out[at : at + here] = file[first : first + here * self.dtype.itemsize].view(
                    self.dtype
                )
                start, at, segment = start + here, at + here, segment + 1
        return out, places[:-1]


def mapped(path: Path) -> np.ndarray:
    """The bytes of a file, uint8, memory-mapped."""
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.zeros(0, np.uint8)
    return np.memmap(path, np.uint8, "r")


def signed(dtype: np.dtype) -> np.dtype:
    """The little-endian type by which ids are read: uint32 and uint64 as signed, no id is as large.

    Raises:
        ValueError: it holds no integers.
    """
    if dtype.kind not in "iu":
        raise ValueError(f"tokens of dtype {dtype}: must be integers; set data.token_dtype=uint16")
    name = f"i{dtype.itemsize}" if dtype.itemsize >= 4 else dtype.str[1:]
    return np.dtype(name).newbyteorder("<")
