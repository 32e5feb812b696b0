"""Token shards in Megatron's indexed format: PREFIX.bin holds tokens, PREFIX.idx where they are.

PREFIX.idx, little-endian: the magic "MMIDIDX\\0\\0", the version (uint64, 1), a code of the token
type (uint8), the number of sequences (uint64), the number of document indices (uint64), then for
each sequence its length (int32), for each its byte offset in the .bin (int64), and the document
indices (int64): the first sequence of each document, and at the end the number of sequences.
Source: megatron/core/datasets/indexed_dataset.py of NVIDIA/Megatron-LM.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

from megafm.files import atomic_open

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
_DTYPES = {
    code: np.dtype(name).newbyteorder("<")
    for code, name in enumerate(("u1", "i1", "i2", "i4", "i8", "f8", "f4", "u2"), start=1)
}
REBUILD = "rebuild it with: megafm data action=tokenize data.dir={}"


def shard_paths(prefix: str | Path) -> tuple[Path, Path]:
    """The .bin and .idx of a prefix."""
    return Path(f"{prefix}.bin"), Path(f"{prefix}.idx")


def token_dtype(vocab_size: int) -> np.dtype:
    """The type Megatron picks for a vocabulary: uint16 where every id fits with room to spare."""
    return np.dtype(np.uint16 if vocab_size < 65500 else np.int32)


class IndexedDataset:
    """Random access to the sequences of a shard, memory-mapped.

    `dataset[i]` is sequence i, `tokens` all of them end to end (both views on the file, in its
    dtype); `document_indices` int64, `edges` where sequences start in `tokens`, and their end.

    Raises:
        ValueError: a file is missing, cut off or of another format; names the file, expected
            and actual, and the command that rebuilds it.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.bin_path, self.idx_path = shard_paths(prefix)
        self._remedy = REBUILD.format(Path(prefix).parent)
        for path in (self.bin_path, self.idx_path):
            if not path.is_file():
                raise ValueError(f"{path}: no such shard; {self._remedy}")
        index = self.idx_path.read_bytes()
        self.dtype, sequences, documents = self._read_header(index)
        expected = _HEADER.size + sequences * (4 + 8) + documents * 8
        if len(index) < expected:
            self._fail(self.idx_path, f"truncated, expected {expected} bytes, found {len(index)}")
        arrays = memoryview(index)[_HEADER.size :]
        self.lengths = np.frombuffer(arrays, "<i4", sequences)
        self.pointers = np.frombuffer(arrays, "<i8", sequences, offset=4 * sequences)
        self.document_indices = np.frombuffer(arrays, "<i8", documents, offset=12 * sequences)
        expected = int(self.lengths.sum(dtype=np.int64)) * self.dtype.itemsize
        actual = self.bin_path.stat().st_size
        if actual != expected:
            how = "truncated" if actual < expected else "too long"
            self._fail(self.bin_path, f"{how}, expected {expected} bytes, found {actual}")
        empty = np.zeros(0, self.dtype)  # an empty file cannot be mapped
        self.tokens = np.memmap(self.bin_path, self.dtype, "r") if actual else empty
        self.edges = np.concatenate(([0], np.cumsum(self.lengths, dtype=np.int64)))
        if (self.pointers != self.edges[:-1] * self.dtype.itemsize).any():
            self._fail(self.idx_path, "its sequences do not follow each other in the .bin")

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        first = int(self.pointers[index]) // self.dtype.itemsize
        return self.tokens[first : first + int(self.lengths[index])]

    @property
    def path(self) -> Path:
        return self.bin_path

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def document_edges(self) -> np.ndarray:
        """Where each document starts in `tokens`, and the end of the last: int64. A document may
        have several sequences."""
        return self.edges[self.document_indices]

    def gather(self, starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `token_files.Tokens`: nothing is copied."""
        return self.tokens, starts

    def _read_header(self, index: bytes) -> tuple[np.dtype, int, int]:
        if len(index) < _HEADER.size:
            self._fail(
                self.idx_path,
                f"truncated, expected at least {_HEADER.size} bytes, found {len(index)}",
            )
        magic, version, code, sequences, documents = _HEADER.unpack_from(index)
        if magic != MAGIC:
            self._fail(
                self.idx_path, f"not an index, expected {MAGIC!r} at its start, found {magic!r}"
            )
        if version != VERSION:
            self._fail(self.idx_path, f"expected version {VERSION}, found {version}")
        if code not in _DTYPES:
            self._fail(
                self.idx_path, f"expected a token type code of 1 to {len(_DTYPES)}, found {code}"
            )
        return _DTYPES[code], sequences, documents

    def _fail(self, path: Path, problem: str) -> None:
        raise ValueError(f"{path}: {problem}; {self._remedy}")


class IndexedDatasetWriter:
    """Write a shard: a context manager; an older shard stays in place until all is written.

    with IndexedDatasetWriter(prefix, np.uint16) as writer:
        writer.add_document(ids)
    """

    def __init__(self, prefix: str | Path, dtype: np.typing.DTypeLike) -> None:
        self.bin_path, self.idx_path = shard_paths(prefix)
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self._lengths: list[int] = []
        self._document_indices = [0]

    @property
    def num_tokens(self) -> int:
        return sum(self._lengths)

    def __enter__(self) -> IndexedDatasetWriter:
        self._files = ExitStack()
        # Closed in reverse: the .bin is complete before the .idx appears.
        self._idx = self._files.enter_context(atomic_open(self.idx_path))
        self._bin = self._files.enter_context(atomic_open(self.bin_path))
        return self

    def add_document(self, *sequences: Sequence[int] | np.ndarray) -> None:
        """Append the token ids of a document's sequences, usually one."""
        for ids in sequences:
            tokens = np.asarray(ids, dtype=self.dtype)
            self._bin.write(tokens.tobytes())
            self._lengths.append(len(tokens))
        self._document_indices.append(len(self._lengths))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            try:
                self._write_index()
            except BaseException as failed:
                self._files.__exit__(type(failed), failed, failed.__traceback__)
                raise
        self._files.__exit__(kind, error, traceback)

    def _write_index(self) -> None:
        lengths = np.array(self._lengths, "<i4")
        ends = np.cumsum(lengths, dtype="<i8") * self.dtype.itemsize
        pointers = np.concatenate((np.zeros(1, "<i8"), ends))[: len(lengths)].astype("<i8")
        counts = len(lengths), len(self._document_indices)
        self._idx.write(_HEADER.pack(MAGIC, VERSION, _code(self.dtype), *counts))
        self._idx.write(lengths.tobytes())
        self._idx.write(pointers.tobytes())
        self._idx.write(np.array(self._document_indices, "<i8").tobytes())


def merge(prefix: str | Path, parts: Sequence[str | Path]) -> int:
    """Write one shard of all documents of the parts, in their order; returns its tokens.

    Memory: the index of one part.

    Raises:
        ValueError: a part is missing, cut off or of another dtype.
    """
    shards = [IndexedDataset(part) for part in parts]
    dtypes = {shard.dtype for shard in shards}
    if len(dtypes) > 1:
        raise ValueError(f"{prefix}: its parts have token types {', '.join(map(str, dtypes))}")
    num_sequences = sum(map(len, shards))
    num_tokens = sum(shard.num_tokens for shard in shards)
    num_documents = sum(len(shard.document_indices) - 1 for shard in shards)
    bin_path, idx_path = shard_paths(prefix)
    with atomic_open(idx_path) as idx, atomic_open(bin_path) as tokens:
        for shard in shards:
            with shard.bin_path.open("rb") as part:
                shutil.copyfileobj(part, tokens, 16 << 20)
        counts = num_sequences, num_documents + 1
        idx.write(_HEADER.pack(MAGIC, VERSION, _code(shards[0].dtype), *counts))
        for shard in shards:
            idx.write(shard.lengths.tobytes())
        offset = 0
        for shard in shards:
            idx.write((shard.pointers + offset).tobytes())
            offset += shard.num_tokens * shard.dtype.itemsize
        sequence = 0
        for shard in shards:
            idx.write((shard.document_indices[:-1] + sequence).tobytes())
            sequence += len(shard)
        idx.write(np.array([sequence], "<i8").tobytes())
    return num_tokens


def _code(dtype: np.dtype) -> int:
    return next(code for code, known in _DTYPES.items() if known == dtype)
