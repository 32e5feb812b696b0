"""What any model has to beat: bits per byte of the validation documents without a neural network.

Two baselines on the same bytes, each document coded on its own as the model codes it: an
interpolated byte n-gram counted on the training split, and xz of each document. They depend on the
data alone, so they are kept in the data folder, beside the snapshot they belong to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import lzma
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from megafm.data import Manifest, read_documents
from megafm.evaluate.ngram import SMOOTHING, ByteNgram
from megafm.files import write_text

BASELINES_FILE = "baselines.json"
Advance = Callable[[str, int], None]


@dataclass(frozen=True)
class Baseline:
    """Bits per byte of one baseline over `bytes` bytes of validation text."""

    name: str
    method: str
    bits_per_byte: float
    bytes: int
    seconds: float


def measure_baselines(
    data_dir: str | Path, ngram_order: int = 5, advance: Advance | None = None
) -> dict[str, Baseline]:
    """The baselines "ngram" and "xz" of a data folder, from its baselines.json when still true.

    Args:
        ngram_order: the n-gram sees ngram_order - 1 bytes of context.
        advance: called with what is being done and how many bytes of it were just done.
    """
    snapshot = Manifest.load(data_dir).snapshot_id
    path = Path(data_dir) / BASELINES_FILE
    cached = _read_cache(path, snapshot)
    wanted = f"byte {ngram_order}-gram"
    if {"ngram", "xz"} <= cached.keys() and cached["ngram"].name == wanted:
        return cached
    advance = advance or (lambda what, done: None)
    found = {
        "ngram": ngram_baseline(data_dir, ngram_order, advance),
        "xz": xz_baseline(data_dir, advance),
    }
    kept = {name: dataclasses.asdict(baseline) for name, baseline in found.items()}
    with contextlib.suppress(OSError):  # a shared data folder may be read-only
        write_text(path, json.dumps({"snapshot_id": snapshot, "baselines": kept}, indent=2) + "\n")
    return found


def ngram_baseline(data_dir: str | Path, order: int, advance: Advance) -> Baseline:
    """Count the whole training split; code each validation document from an empty context."""
    start = time.perf_counter()
    name = f"byte {order}-gram"
    model = ByteNgram.train(_texts(data_dir, "train", f"counting a {name}", advance), order)
    size = 0

    def validation() -> Iterator[bytes]:
        nonlocal size
        for text in _texts(data_dir, "validation", f"scoring the {name}", advance):
            size += len(text)
            yield text

    bits = model.bits(validation())
    method = f"{SMOOTHING}, {order - 1} bytes of context, trained on the training split"
    return _baseline(name, method, bits, size, start)


def xz_baseline(data_dir: str | Path, advance: Advance) -> Baseline:
    """Compressed size of each validation document as a file of its own."""
    start = time.perf_counter()
    texts = list(_texts(data_dir, "validation", "compressing with xz", advance))
    with ThreadPoolExecutor() as pool:  # lzma releases the GIL
        bits = 8 * sum(pool.map(xz_size, texts))
    return _baseline("xz", "xz -9e of each document", bits, sum(map(len, texts)), start)


def xz_size(data: bytes) -> int:
    """Bytes of `xz -9e` of `data`, container included.

    A dictionary larger than the data cannot help; leaving it at the preset's 64 MiB gives the same
    size and takes seven times as long on source files.
    """
    smallest = max(4096, 1 << (max(len(data), 1) - 1).bit_length())
    preset = 9 | lzma.PRESET_EXTREME
    lzma2 = {"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": min(smallest, 64 << 20)}
    return len(lzma.compress(data, format=lzma.FORMAT_XZ, filters=[lzma2]))


def _baseline(name: str, method: str, bits: float, size: int, start: float) -> Baseline:
    if size == 0:
        raise ValueError("the validation split has no text; run data again with more documents")
    return Baseline(name, method, bits / size, size, round(time.perf_counter() - start, 2))


def _texts(data_dir: str | Path, split: str, what: str, advance: Advance) -> Iterable[bytes]:
    for document in read_documents(data_dir, split):
        text = document.text.encode()
        yield text
        advance(what, len(text))


def _read_cache(path: Path, snapshot: str) -> dict[str, Baseline]:
    """Baselines of this snapshot that were measured before; empty when there are none."""
    try:
        kept = json.loads(path.read_text())
        if kept["snapshot_id"] != snapshot:
            return {}
        return {name: Baseline(**values) for name, values in kept["baselines"].items()}
    except (FileNotFoundError, KeyError, TypeError, json.JSONDecodeError):
        return {}
