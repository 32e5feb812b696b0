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

from megafm.files import atomic_open

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
    """

    id: str
    text: str
    source: str
    path: str
    licence: str
    language: str = ""
    timestamp: str = ""
    metadata: dict[str, Any] = field(default_factory=dict, hash=False)

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


def documents_path(data_dir: str | Path, split: str) -> Path:
    return Path(data_dir) / "documents" / f"{split}.jsonl"


def read_documents(data_dir: str | Path, split: str) -> Iterator[Document]:
    """The documents of a split in the order of their ids.

    Raises:
        ValueError: the folder holds no documents, or a line is cut off.
    """
    path = documents_path(data_dir, split)
    remedy = f"run: megafm data data.dir={data_dir}"
    if not path.is_file():
        raise ValueError(f"data.dir={data_dir}: no {path.name} in its documents/; {remedy}")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield Document(**json.loads(line))
            except (json.JSONDecodeError, TypeError) as error:
                message = f"{path}, line {number}: not a document ({error}); {remedy}"
                raise ValueError(message) from error


def write_documents(data_dir: str | Path, split: str, documents: Iterable[Document]) -> None:
    with atomic_open(documents_path(data_dir, split)) as out:
        for document in documents:
            line = json.dumps(dataclasses.asdict(document), ensure_ascii=False)
            out.write(line.encode() + b"\n")
