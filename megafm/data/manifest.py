"""manifest.json: what a data folder holds, where it comes from, and the ID of its contents."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from megafm.config import from_dict, to_dict
from megafm.files import write_text

FORMAT_VERSION = 2
FILE_NAME = "manifest.json"


@dataclass(frozen=True)
class SplitSummary:
    """`tokens` counts the end-of-document tokens too; None before action=tokenize."""

    documents: int
    bytes: int
    tokens: int | None = None


@dataclass(frozen=True)
class FileSummary:
    """A shard of documents: the sha256 of its lines, uncompressed."""

    sha256: str
    documents: int
    bytes: int


@dataclass(frozen=True)
class SourceSummary:
    """One row of the data table: what was kept of one package, or else of one kind of source."""

    source: str
    package: str
    version: str
    licence: str
    documents: int
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """`inputs_hash` says what the folder was made from (sizes and times of files, settings):
    when it is unchanged there is nothing to do. `snapshot_id` says what it holds, and is the
    same on every machine with the same documents. `files` has the shards of documents,
    SPLIT/NUMBER, in order; `token_files` the sha256 of {train,validation}.{bin,idx}."""

    corpus: str
    snapshot_id: str
    inputs_hash: str
    rules: tuple[str, ...]
    splits: dict[str, SplitSummary]
    sources: tuple[SourceSummary, ...]
    dropped: dict[str, int]
    skipped_packages: dict[str, str]
    files: dict[str, FileSummary] = field(default_factory=dict)
    tokenizer_hash: str | None = None
    token_files: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @classmethod
    def load(cls, data_dir: str | Path) -> Manifest:
        """Read the manifest of a data folder.

        Raises:
            ValueError: there is none, or it cannot be read.
        """
        path = manifest_path(data_dir)
        remedy = f"run: megafm data data.dir={data_dir}"
        if not path.is_file():
            raise ValueError(f"data.dir={data_dir}: no manifest.json there; {remedy}")
        try:
            return from_dict(cls, dict(json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: not a manifest ({error}); {remedy}") from error

    def save(self, data_dir: str | Path) -> None:
        text = json.dumps(to_dict(self), indent=1, ensure_ascii=False)
        write_text(manifest_path(data_dir), text + "\n")

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens of each split; empty before action=tokenize."""
        return {n: s.tokens for n, s in self.splits.items() if s.tokens is not None}

    def with_tokens(
        self, tokens: dict[str, int], tokenizer_hash: str, files: dict[str, str]
    ) -> Manifest:
        splits = {
            name: dataclasses.replace(summary, tokens=tokens[name])
            for name, summary in self.splits.items()
        }
        return dataclasses.replace(
            self, splits=splits, tokenizer_hash=tokenizer_hash, token_files=files
        )

    def without_tokens(self) -> Manifest:
        splits = {n: dataclasses.replace(s, tokens=None) for n, s in self.splits.items()}
        return dataclasses.replace(self, splits=splits, tokenizer_hash=None, token_files={})


def manifest_path(data_dir: str | Path) -> Path:
    return Path(data_dir) / FILE_NAME


def snapshot_id(fingerprint: str, rules: Iterable[str]) -> str:
    """A sha256 over the rules and the fingerprint of all documents, see `stages.summary`."""
    return hashlib.sha256("\n".join([*rules, fingerprint]).encode()).hexdigest()
