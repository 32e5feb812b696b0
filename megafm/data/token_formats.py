"""Token files of other libraries, found by what lies in a folder: datatrove's .ds, MDS of
mosaicml-streaming, headerless .npy of OLMo; and our own Megatron shards."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megafm.data.indexed import IndexedDataset, shard_paths
from megafm.data.token_files import FileTokens, Tokens, mapped, signed
from megafm.files import atomic_open

COLUMNS = ("tokens", "input_ids")  # of MDS samples, in this order
REMEDY = "fetch it again"


@dataclass(frozen=True)
class Headerless:
    """What files do not say of themselves: the type of their tokens ("" is the usual one of the
    format) and the id behind which documents end."""

    dtype: str = ""
    eod_id: int | None = None


Reader = Callable[[Path, Headerless], FileTokens]


def open_tokens(prefix: str | Path, headerless: Headerless | None = None) -> Tokens:
    """The shard PREFIX.bin and PREFIX.idx; where there is none, the files of another format in the
    folder PREFIX or in the one that PREFIX is in.

    Raises:
        ValueError: there is nothing of the kind, or it is cut off.
    """
    settings = headerless or Headerless()
    reader = find_format(Path(prefix))
    if reader is None:
        return IndexedDataset(prefix)
    read, folder = reader
    return read(folder, settings)


def find_format(prefix: Path) -> tuple[Reader, Path] | None:
    """The function that reads another format, and the folder to read, or None."""
    if shard_paths(prefix)[1].is_file():
        return None
    # A folder without parts holds training data: it never passes for a validation shard.
    for folder in (prefix, prefix.parent) if prefix.name == "train" else (prefix,):
        if (folder / "index.json").is_file():
            return read_mds, folder
        if any(folder.glob("*.ds")):
            return read_datatrove, folder
        if any(folder.glob("*.npy")):
            return read_npy, folder
    return None


def read_datatrove(folder: Path, settings: Headerless) -> FileTokens:
    """*.ds in the order of their names: tokens of 2 or 4 bytes, and in NAME.ds.index the end of
    each document in tokens, uint64. Source: TokenizedFile of datatrove."""
    paths = sorted(folder.glob("*.ds"))
    files: list[np.ndarray] = []
    counts: list[int] = []
    edges, itemsizes = [np.zeros(1, np.int64)], set()
    for path in paths:
        index = path.with_name(f"{path.name}.index")
        if not index.is_file():
            raise ValueError(f"{path}: no {index.name} beside it; write it with save_index=True")
        ends = np.fromfile(index, "<u8").astype(np.int64)
        size = path.stat().st_size
        count = int(ends[-1]) if len(ends) else 0
        itemsize = size // count if count else 2
        if count * itemsize != size or itemsize not in (2, 4):
            raise ValueError(
                f"{path}: {size} bytes for the {count} tokens of {index.name}; it is cut off, "
                f"{REMEDY}"
            )
        if count:
            itemsizes.add(itemsize)
        edges.append(ends + sum(counts))
        files.append(mapped(path))
        counts.append(count)
    if len(itemsizes) > 1:
        raise ValueError(f"{folder}: .ds files of 2 and of 4 bytes a token; part them in folders")
    dtype = np.dtype("<u2" if itemsizes <= {2} else "<i4")
    segments = np.arange(len(files)), np.zeros(len(files), np.int64), np.array(counts, np.int64)
    return FileTokens(folder, files, segments, dtype, np.concatenate(edges), settings.eod_id)


def read_npy(folder: Path, settings: Headerless) -> FileTokens:
    """*.npy in the order of their names: nothing but tokens, as OLMo writes them (uint16 if nothing
    is set), or with the header of numpy, which is obeyed."""
    paths = sorted(folder.glob("*.npy"))
    files, firsts, counts, dtypes = [], [], [], set()
    for path in paths:
        file = mapped(path)
        dtype, first = np.dtype(settings.dtype or "uint16"), 0
        if file[:6].tobytes() == b"\x93NUMPY":
            array = np.load(path, mmap_mode="r")
            dtype, first = array.dtype, int(array.offset)
        size = len(file) - first
        if size % dtype.itemsize:
            raise ValueError(
                f"{path}: {size} bytes are no whole number of {dtype} tokens; {REMEDY}, or set "
                "data.token_dtype to the type that they were written in"
            )
        dtypes.add(signed(dtype))
        files.append(file)
        firsts.append(first)
        counts.append(size // dtype.itemsize)
    if len(dtypes) > 1:
        raise ValueError(f"{folder}: .npy files of several types; part them in folders")
    segments = np.arange(len(files)), np.array(firsts), np.array(counts)
    return FileTokens(folder, files, segments, dtypes.pop(), None, settings.eod_id)


def read_mds(folder: Path, settings: Headerless) -> FileTokens:
    """The samples of index.json, each a document of tokens: of a column of bytes (int64 if nothing
    is set) or of one-dimensional arrays. A shard is the number of samples and where each begins
    (uint32), the settings, and the samples: the sizes of the columns that vary (uint32), then the
    columns. Source: MDSWriter of mosaicml-streaming.

    Shards that are compressed are unpacked beside themselves, once. Opening reads a page of each
    sample.
    """
    shards = json.loads((folder / "index.json").read_text(encoding="utf-8"))["shards"]
    files, parts, dtypes = [], [], set()
    for number, shard in enumerate(shards):
        if shard.get("format") != "mds":
            raise ValueError(f"{folder}: a shard of format {shard.get('format')}, not mds")
        path = folder / shard["raw_data"]["basename"]
        if not path.is_file():
            _unpack(folder, shard, path)
        file = mapped(path)
        if len(file) != shard["raw_data"]["bytes"]:
            raise ValueError(
                f"{path}: expected {shard['raw_data']['bytes']} bytes, found {len(file)}; {REMEDY}"
            )
        dtype, begins, ends = _mds_samples(path, file, shard, settings)
        dtypes.add(dtype)
        files.append(file)
        parts.append((np.full(len(begins), number), begins, (ends - begins) // dtype.itemsize))
    if len(dtypes) != 1:
        raise ValueError(f"{folder}: {len(dtypes)} types of tokens; one is needed")
    numbers, begins, counts = (np.concatenate(one) for one in zip(*parts, strict=True))
    segments = numbers, begins, counts
    return FileTokens(folder, files, segments, dtypes.pop(), None, settings.eod_id)


def _mds_samples(
    path: Path, file: np.ndarray, shard: dict[str, Any], settings: Headerless
) -> tuple[np.dtype, np.ndarray, np.ndarray]:
    """The type of the tokens of a shard, and of each sample their first byte and their end."""
    names, encodings = shard["column_names"], shard["column_encodings"]
    column = next((name for name in COLUMNS if name in names), names[0])
    which = names.index(column)
    kind, *details = encodings[which].split(":")
    if kind not in ("bytes", "ndarray") or (kind == "ndarray" and not details):
        raise ValueError(
            f"{path}: column {column} is of encoding {encodings[which]}, which is no "
            "type of tokens; write it as bytes or ndarray:uint16"
        )
    dtype = signed(np.dtype(details[0] if details else settings.dtype or "int64"))
    samples = int(shard["samples"])
    begins = file[4 : 4 + 4 * (samples + 1)].view("<u4").astype(np.int64)[:-1]
    varying = [number for number, size in enumerate(shard["column_sizes"]) if size is None]
    starts = begins + 4 * len(varying)
    sizes = np.zeros(samples, np.int64)
    for number in range(which + 1):
        starts = starts + sizes
        fixed = shard["column_sizes"][number]
        sizes = (
            _integers(file, begins + 4 * varying.index(number), 4)
            if fixed is None
            else np.full(samples, fixed, np.int64)
        )
    ends = starts + sizes
    if len(details) == 1:  # the shape stands before the values
        first = file[starts].astype(np.int64)
        starts = starts + 1 + (first >> 2) * (1 << (first & 3))
    return dtype, starts, ends


def _integers(file: np.ndarray, at: np.ndarray, width: int) -> np.ndarray:
    """Little-endian integers of `width` bytes that begin at the bytes `at`: int64."""
    total = np.zeros(len(at), np.int64)
    for k in range(width):
        total |= file[at + k].astype(np.int64) << (8 * k)
    return total


def _unpack(folder: Path, shard: dict[str, Any], raw: Path) -> None:
    packed = shard.get("zip_data")
    compression = str(shard.get("compression") or "")
    if packed is None or not (folder / packed["basename"]).is_file():
        raise ValueError(f"{raw}: no such shard of {folder / 'index.json'}; {REMEDY}")
    if compression.partition(":")[0] != "zstd":
        raise ValueError(f"{folder}: compression {compression}; unpack its shards, or use zstd")
    try:
        zstandard = importlib.import_module("zstandard")
    except ImportError as error:
        raise ValueError(f"{folder}: {error}; pip install 'megafm[data]'") from error
    with (folder / packed["basename"]).open("rb") as source, atomic_open(raw) as out:
        zstandard.ZstdDecompressor().copy_stream(source, out)
