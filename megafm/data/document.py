"""What the pipeline carries: one document of text and where it comes from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from megafm.data.lines import open_shard, shard_path, to_line, write_shard

SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Document:
    """
    Attributes:
        id: unique in a corpus, the same on every machine: paths in it are relative to the source.
        source: the kind of place that it is from: stdlib, package, files, ...
        path: in that source, or the URL.
        licence: an SPDX expression, or "unspecified".
        language, timestamp: as the source states them (ISO 639, ISO 8601), "" where it does not.
        metadata: what else the source knows, of JSON's types; `package` and `version` name the
            row of the table of sources.
        notes: what the pipeline itself writes of it, apart from all that a source may name: counts
            of what was done to it, language_score.
    """

    id: str
    text: str
    source: str
    path: str
    licence: str
    language: str = ""
    timestamp: str = ""
    metadata: dict[str, Any] = field(default_factory=dict, hash=False)
    notes: dict[str, Any] = field(default_factory=dict, hash=False)

    @cached_property
    def encoded(self) -> bytes:
        return self.text.encode()

    @property
    def num_bytes(self) -> int:
        """Length of the text in UTF-8 bytes."""
        return len(self.encoded)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.encoded).hexdigest()


@dataclass(frozen=True)
class Drop:
    """A document that was left out: the code of the reason, and the id or place of what it was."""

    reason: str
    where: str = field(default="", compare=False)


def documents_folder(data_dir: str | Path, split: str) -> Path:
    """Where the shards of a split are."""
    return Path(data_dir) / "documents" / split


def document_shards(data_dir: str | Path, split: str) -> list[Path]:
    """The shards of a split, in order.

    Raises:
        ValueError: there are none.
    """
    found = sorted(documents_folder(data_dir, split).glob("*.jsonl*"))
    if not found:
        raise ValueError(
            f"data.dir={data_dir}: no documents/{split} there; run: megafm data data.dir={data_dir}"
        )
    return found


def read_documents(data_dir: str | Path, split: str) -> Iterator[Document]:
    """The documents of a split, in the order that they were shuffled to.

    Raises:
        ValueError: the folder holds no documents, or a line is cut off.
    """
    for path in document_shards(data_dir, split):
        yield from read_shard_documents(path)


def read_shard_documents(path: Path) -> Iterator[Document]:
    """The documents of one shard.

    Raises:
        ValueError: a line is cut off; names the file, the line and the remedy.
    """
    number = 0
    try:
        with open_shard(path) as lines:
            for line in lines:
                number += 1
                yield Document(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path}, line {number}: not a document ({error}); "
            f"run: megafm data data.dir={path.parents[2]}"
        ) from error


def write_documents(data_dir: str | Path, split: str, documents: Iterable[Document]) -> None:
    """One shard of a split."""
    folder = documents_folder(data_dir, split)
    folder.mkdir(parents=True, exist_ok=True)
    with write_shard(shard_path(folder, "00000")) as lines:
        for document in documents:
            lines.write(to_line(dataclasses.asdict(document)))
