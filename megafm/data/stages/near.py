"""Near-duplicates, from signatures to compared pairs: two exchanges by ranges of hashes.

    sign    a shard          the keys of its bands, to the range of each key
    match   a range of keys  pairs of equal keys, to the range of each pair; and to each shard which
                             of its documents are in a pair
    sets    a shard          the sets of shingles of those, end to end in a file
    verify  a range of pairs each pair once, with its exact similarity

A row is a document: the number of its shard in the upper 32 bits, its line in the lower.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from megafm.data import near_duplicates
from megafm.data.config import NearDuplicates
from megafm.data.document import Document
from megafm.data.lines import to_line
from megafm.data.permutation import mix
from megafm.data.stages.cleaning import Decide, Read, documents
from megafm.data.stages.exact import LINES, Exact, unique_rows
from megafm.data.stages.exchange import PartWriter, parts_of, read_records
from megafm.data.stages.stage import Stage

KEYS = np.dtype([("key", "<u8"), ("id_hash", "<u4"), ("line", "<u4")])
PAIRS = np.dtype([("i", "<i8"), ("j", "<i8")])
SIMILAR = np.dtype([("i", "<i8"), ("j", "<i8"), ("similarity", "<f8")])
SETS = np.dtype([("line", "<u4"), ("offset", "<i8"), ("length", "<i8")])
BATCH_BYTES = 4 << 20  # of texts that are taken together
BATCH_SHINGLES = 4 << 20  # of sets that are compared together


@dataclass(frozen=True)
class Sign(Stage):
    exact: Exact
    config: NearDuplicates
    kind: ClassVar[str] = "sign"

    @property
    def decide(self) -> Decide:
        return self.exact.decide

    @property
    def read(self) -> Read:
        return self.decide.read

    @property
    def rule(self) -> str:
        return f"{near_duplicates.VERSION} {shingle_rule(self.config)}"

    def names(self) -> list[str]:
        return self.read.names()

    def same(self) -> tuple[Stage, ...]:
        return (self.read, self.decide)

    def whole(self) -> tuple[Stage, ...]:
        return (self.exact,)

    def work(self, unit: str, out: Path) -> Counter[str]:
        rows = unique_rows(self.decide, self.exact, unit)
        place = 0
        with PartWriter(out / "keys.parts") as parts:
            for batch in batches(documents(self.read, unit, rows["line"].tolist())):
                own = rows[place : place + len(batch)]
                place += len(batch)
                texts = [document.encoded for _, document in batch]
                signatures = near_duplicates.signatures(texts, self.config)
                with_words = (signatures != self._without_words()).any(axis=1)
                signatures, own = signatures[with_words], own[with_words]
                keys = near_duplicates.band_keys(signatures, self.config)
                records = np.empty(keys.shape, KEYS)
                records["key"] = keys
                records["id_hash"] = (own["id_hash"] >> np.uint64(32))[:, None]
                records["line"] = own["line"][:, None]
                parts.add_records(parts_of(keys.ravel(), self.decide.num_ranges), records.ravel())
        return Counter({"documents": len(rows)})

    def _without_words(self) -> np.ndarray:
        """The signature of a text without a word, as of any other: no sign that two are alike."""
        return near_duplicates.signatures([b""], self.config)


@dataclass(frozen=True)
class Match(Stage):
    sign: Sign
    kind: ClassVar[str] = "match"

    @property
    def rule(self) -> str:
        return f"match/1 {near_duplicates.MAX_BUCKET}"

    def names(self) -> list[str]:
        return self.sign.exact.names()

    def whole(self) -> tuple[Stage, ...]:
        return (self.sign,)

    def work(self, unit: str, out: Path) -> Counter[str]:
        keys, rows = self._records(int(unit))
        pairs = np.sort(rows[near_duplicates.candidates(keys)], axis=1)
        records = np.unique(as_records(pairs, PAIRS))
        with PartWriter(out / "pairs.parts") as parts:
            hashes = mix(mix(records["i"].astype(np.uint64)) ^ records["j"].astype(np.uint64))
            parts.add_records(parts_of(hashes, len(self.names())), records)
        with PartWriter(out / "lines.parts") as parts:
            shards, lines = split_rows(np.unique(pairs))
            parts.add_records(shards, lines)
        return Counter({"pairs": len(records)})

    def _records(self, part: int) -> tuple[np.ndarray, np.ndarray]:
        """Keys and rows of a range, in an order that no cut into shards changes."""
        found = []
        for shard, output in enumerate(self.sign.outputs()):
            own = read_records(output.folder / "keys.parts", part, KEYS)
            found.append((own["key"], own["id_hash"], shard << 32 | own["line"].astype(np.int64)))
        keys, id_hashes, rows = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.lexsort((rows, id_hashes))
        return keys[order], rows[order]


@dataclass(frozen=True)
class Sets(Stage):
    """sets.bin: shingles, uint64, ascending; sets.npy: whose, and where; ids.jsonl: their ids."""

    match: Match
    kind: ClassVar[str] = "sets"

    @property
    def rule(self) -> str:
        config = self.match.sign.config
        return f"sets/2 {near_duplicates.VERSION} {shingle_rule(config)}"

    def names(self) -> list[str]:
        return self.match.sign.names()

    def same(self) -> tuple[Stage, ...]:
        return (self.match.sign.read,)

    def whole(self) -> tuple[Stage, ...]:
        return (self.match,)

    def work(self, unit: str, out: Path) -> Counter[str]:
        sign = self.match.sign
        shard = self.names().index(unit)
        paths = [output.folder / "lines.parts" for output in self.match.outputs()]
        lines = np.unique(np.concatenate([read_records(path, shard, LINES) for path in paths]))
        rows: list[tuple[int, int, int]] = []
        offset = 0
        with (out / "sets.bin").open("wb") as sets, (out / "ids.jsonl").open("wb") as ids:
            for batch in batches(documents(sign.read, unit, lines.tolist())):
                texts = [document.encoded for _, document in batch]
                flat, offsets = near_duplicates.shingles(texts, sign.config)
                sets.write(flat.astype("<u8").tobytes())
                starts, lengths = (offsets[:-1] + offset).tolist(), np.diff(offsets).tolist()
                rows += zip((line for line, _ in batch), starts, lengths, strict=True)
                offset += len(flat)
                ids.writelines(to_line(document.id) for _, document in batch)
        np.save(out / "sets.npy", np.array(rows, SETS))
        return Counter({"documents": len(rows)})


@dataclass(frozen=True)
class Verify(Stage):
    """similar.npy: the pairs of a range that reach `cluster_at`."""

    sets: Sets
    kind: ClassVar[str] = "verify"

    @property
    def config(self) -> NearDuplicates:
        return self.sets.match.sign.config

    @property
    def exact(self) -> Exact:
        return self.sets.match.sign.exact

    @property
    def decide(self) -> Decide:
        return self.exact.decide

    @property
    def rule(self) -> str:
        return f"verify/1 {self.config.cluster_at}"

    def names(self) -> list[str]:
        return self.sets.match.names()

    def whole(self) -> tuple[Stage, ...]:
        return (self.sets.match, self.sets)

    def work(self, unit: str, out: Path) -> Counter[str]:
        paths = [output.folder / "pairs.parts" for output in self.sets.match.outputs()]
        pairs = np.unique(np.concatenate([read_records(p, int(unit), PAIRS) for p in paths]))
        rows, places = np.unique(as_columns(pairs), return_inverse=True)
        places = places.reshape(-1, 2)
        shelf = _Shelf(self.sets, rows)
        similarity = np.empty(len(pairs))
        for begin, end in shelf.chunks(places):
            own, local = np.unique(places[begin:end], return_inverse=True)
            flat, offsets = shelf.read(own)
            local = np.ascontiguousarray(local.reshape(-1, 2))
            similarity[begin:end] = near_duplicates.jaccard(flat, offsets, local)
        reached = similarity >= self.config.cluster_at
        similar = np.empty(int(reached.sum()), SIMILAR)
        similar["i"], similar["j"] = pairs["i"][reached], pairs["j"][reached]
        similar["similarity"] = similarity[reached]
        np.save(out / "similar.npy", similar)
        return Counter({"compared": len(pairs), "similar": len(similar)})


class _Shelf:
    """The sets of some rows, on disk: where each is, and any of them when asked for."""

    def __init__(self, sets: Sets, rows: np.ndarray) -> None:
        self._paths = [output.folder / "sets.bin" for output in sets.outputs()]
        self._shards, lines = split_rows(rows)
        self._offsets = np.zeros(len(rows), np.int64)
        self.lengths = np.zeros(len(rows), np.int64)
        for shard in np.unique(self._shards).tolist():
            table = np.load(self._paths[shard].with_name("sets.npy"))
            own = self._shards == shard
            at = np.searchsorted(table["line"], lines[own])
            self._offsets[own], self.lengths[own] = table["offset"][at], table["length"][at]

    def chunks(self, places: np.ndarray) -> Iterator[tuple[int, int]]:
        """Ranges of pairs whose sets fit into memory together."""
        sizes = np.cumsum(self.lengths[places].sum(axis=1))
        begin = 0
        while begin < len(places):
            before = sizes[begin - 1] if begin else 0
            end = int(np.searchsorted(sizes, before + BATCH_SHINGLES, side="right"))
            yield begin, max(begin + 1, end)
            begin = max(begin + 1, end)

    def read(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The sets of ascending places, end to end, and their offsets."""
        pieces = []
        for shard in np.unique(self._shards[places]).tolist():
            with self._paths[shard].open("rb", buffering=0) as file:
                for place in places[self._shards[places] == shard].tolist():
                    length = 8 * int(self.lengths[place])
                    pieces.append(os.pread(file.fileno(), length, 8 * int(self._offsets[place])))
        flat = np.frombuffer(b"".join(pieces), "<u8").astype(np.uint64)
        return flat, np.concatenate(([0], np.cumsum(self.lengths[places])))


def shingle_rule(config: NearDuplicates) -> str:
    """The settings that decide a signature."""
    shingle = f"{config.width} {config.unit} lowercase={config.lowercase}"
    return f"{shingle} {config.num_bands}x{config.band_rows}"


def batches(found: Iterable[tuple[int, Document]]) -> Iterator[list[tuple[int, Document]]]:
    """Runs of documents of a few megabytes."""
    batch: list[tuple[int, Document]] = []
    size = 0
    for line, document in found:
        batch.append((line, document))
        size += document.num_bytes
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def split_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shard, int64, and the line, uint32, of each row."""
    return rows >> 32, (rows & 0xFFFFFFFF).astype(LINES)


def as_records(pairs: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return np.ascontiguousarray(pairs, "<i8").view(dtype).reshape(-1)


def as_columns(records: np.ndarray) -> np.ndarray:
    return np.stack([records["i"], records["j"]], axis=1)
