"""What is in a range of documents, in numbers that add up over ranges."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from megafm.config import from_dict, to_dict
from megafm.data.document import Document
from megafm.data.manifest import SourceSummary

FILE_NAME = "summary.json"


@dataclass
class Summary:
    """
    Attributes:
        fingerprint: hexadecimal, the sum modulo 2**256 of a sha256 of each document's id, text and
            split: the same in any order and for any cut into ranges (Bellare, Micciancio, A New
            Paradigm for Collision-Free Hashing, 1997).
        lines_hash: the sha256 of the lines, uncompressed.
        documents, bytes: by source, package, version, licence and language, a JSON list.
        lengths: documents by the number of binary digits of their size in bytes.
    """

    fingerprint: str = "0"
    lines_hash: str = ""
    documents: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    lengths: dict[int, int] = field(default_factory=dict)

    @property
    def num_documents(self) -> int:
        return sum(self.documents.values())

    @property
    def num_bytes(self) -> int:
        return sum(self.bytes.values())

    def save(self, folder: Path) -> None:
        text = json.dumps(to_dict(self), ensure_ascii=False, indent=1)
        (folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Summary:
        return from_dict(cls, json.loads((folder / FILE_NAME).read_text(encoding="utf-8")))

    def sources(self) -> tuple[SourceSummary, ...]:
        """One row per package, the largest first."""
        documents: Counter[tuple[str, str, str, str]] = Counter()
        size: Counter[tuple[str, str, str, str]] = Counter()
        for key, count in self.documents.items():
            source, package, version, licence, _ = json.loads(key)
            documents[source, package, version, licence] += count
            size[source, package, version, licence] += self.bytes[key]
        table = [SourceSummary(*row, documents[row], size[row]) for row in documents]
        return tuple(sorted(table, key=lambda row: (-row.bytes, row.package, row.licence)))


class Summariser:
    """Adds up the `summary` of documents of one split, one after the other."""

    def __init__(self, split: str) -> None:
        self._split = split
        self._sum = 0
        self._lines = hashlib.sha256()
        self._documents: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._lengths: Counter[int] = Counter()

    def add(self, document: Document, line: bytes) -> None:
        identity = "\0".join((document.id, document.sha256, self._split))
        self._sum += int.from_bytes(hashlib.sha256(identity.encode()).digest(), "big")
        self._lines.update(line)
        package = str(document.metadata.get("package", document.source))
        version = str(document.metadata.get("version", ""))
        row = [document.source, package, version, document.licence, document.language]
        key = json.dumps(row, ensure_ascii=False)
        self._documents[key] += 1
        self._bytes[key] += document.num_bytes
        self._lengths[document.num_bytes.bit_length()] += 1

    @property
    def summary(self) -> Summary:
        documents = dict(sorted(self._documents.items()))
        size = dict(sorted(self._bytes.items()))
        lengths = dict(sorted(self._lengths.items()))
        return Summary(_hex(self._sum), self._lines.hexdigest(), documents, size, lengths)


def merge(summaries: Iterable[Summary]) -> Summary:
    """Of all together; there are no lines of them."""
    total = 0
    documents: Counter[str] = Counter()
    size: Counter[str] = Counter()
    lengths: Counter[int] = Counter()
    for summary in summaries:
        total += int(summary.fingerprint, 16)
        documents.update(summary.documents)
        size.update(summary.bytes)
        lengths.update(summary.lengths)
    return Summary(_hex(total), "", dict(documents), dict(size), dict(lengths))


def _hex(value: int) -> str:
    return f"{value % 2**256:064x}"
