"""What the pipeline carries: one document of text and where it comes from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Document:
    """`id` is unique in a corpus and names no machine: paths are relative to their source."""

    id: str
    text: str
    source: str  # stdlib, package or files
    path: str
    licence: str
    package: str
    version: str

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


@contextmanager
def staging(data_dir: str | Path) -> Iterator[Path]:
    """A folder to build new files of a data folder in; gone afterwards, however it ends."""
    stage = Path(data_dir) / ".partial"
    try:
        stage.mkdir(parents=True, exist_ok=True)
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def publish(stage: Path, data_dir: str | Path) -> None:
    """Move what was built into place, the manifest last: it vouches for the others."""
    files = [path for path in stage.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: (path.name == "manifest.json", path)):
        target = Path(data_dir) / path.relative_to(stage)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)


@contextmanager
def atomic_open(path: Path) -> Iterator[IO[bytes]]:
    """Open `path` for writing; what was there stays until all is on the disk.

    Raises:
        OSError: with the file's name, e.g. of a full disk; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        partial.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)
