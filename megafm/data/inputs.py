"""The units that a source is read in: runs of neighbouring shards, listed once per job in a file.

A run ends where the hash of a shard's name says so, with a probability in proportion to its size:
a file that comes or goes changes its own run and leaves the others as they were.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from megafm.config import config_hash, from_dict, to_dict
from megafm.data.document import Document, Drop
from megafm.data.sources import Shard, Source, list_shards, read_shard
from megafm.files import write_text

FILE_NAME = "inputs.json"
TARGET_BYTES = 8 << 20
MAX_TARGETS = 4  # in a run
RANGE_BYTES = 64 << 20


@dataclass(frozen=True)
class Run:
    """Shards that are read one after the other; `key` changes when their contents may have."""

    name: str
    key: str
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Inputs:
    """All that a source holds.

    Attributes:
        dropped: what was left out when it was listed.
        num_ranges: of hashes that the corpus is exchanged in, a power of two: a range holds about
            RANGE_BYTES.
    """

    corpus: str
    source: Source
    runs: tuple[Run, ...]
    dropped: dict[str, int]
    skipped_packages: dict[str, str]
    num_ranges: int

    @property
    def where(self) -> str:
        """The settings that say where documents are looked for."""
        source = self.source
        if source.kind == "python_installation":
            return f"source.kind={source.kind}"
        return f"source.path={source.path} source.pattern={source.pattern}"

    @functools.cached_property
    def by_name(self) -> dict[str, Run]:
        return {run.name: run for run in self.runs}

    def read(self, run: str) -> Iterator[Document | Drop]:
        for shard in self.by_name[run].shards:
            yield from read_shard(self.source, shard)


def list_inputs(source: Source) -> Inputs:
    listing = list_shards(source)
    settings = config_hash(source)
    runs = tuple(
        Run(_name(run[0]), _key(settings, run), tuple(run)) for run in _cut(listing.shards)
    )
    dropped = dict(sorted(listing.dropped.items()))
    size = sum(shard.size for shard in listing.shards)
    num_ranges = 1 << max(0, -(-size // RANGE_BYTES) - 1).bit_length()
    return Inputs(listing.corpus, source, runs, dropped, listing.skipped_packages, num_ranges)


def save(inputs: Inputs, root: Path) -> None:
    write_text(root / FILE_NAME, json.dumps(to_dict(inputs), ensure_ascii=False) + "\n")


def load(root: Path) -> Inputs:
    """What `save` wrote, read once a process and again when it changes."""
    path = root / FILE_NAME
    return _load(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _load(path: Path, modified_ns: int) -> Inputs:
    return from_dict(Inputs, json.loads(path.read_text(encoding="utf-8")))


def _cut(shards: Iterable[Shard]) -> Iterator[list[Shard]]:
    run: list[Shard] = []
    size = 0
    for shard in shards:
        run.append(shard)
        size += shard.size
        ends = _hash(shard) * TARGET_BYTES < shard.size << 64
        if ends or size >= MAX_TARGETS * TARGET_BYTES:
            yield run
            run, size = [], 0
    if run:
        yield run


def _name(shard: Shard) -> str:
    """Readable, as it stands in errors, and unique; of letters that every file system takes."""
    return f"{re.sub('[^A-Za-z0-9.-]+', '_', shard.name)[-60:]}-{_hash(shard):016x}"


def _key(settings: str, run: Iterable[Shard]) -> str:
    rows = [dataclasses.asdict(shard) for shard in run]
    for row in rows:
        del row["location"]  # which is of this machine; the name is not
    return hashlib.sha256(json.dumps([settings, rows]).encode()).hexdigest()


def _hash(shard: Shard) -> int:
    digest = hashlib.sha256(f"{shard.name}\0{shard.part}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
