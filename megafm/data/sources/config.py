"""The settings of a source of documents, `source.*`."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, fields
from typing import Literal

Kind = Literal[
    "python_installation", "files", "text", "markdown", "html", "pdf", "warc", "jsonl",
    "conversations", "csv", "parquet", "sqlite", "sql", "code", "git", "datasets",
]  # fmt: skip

_TABLES = {"files", "jsonl", "csv", "parquet", "sqlite", "sql", "datasets"}
# The settings that only some kinds read.
_READ_BY = {
    "packages": {"python_installation"},
    "stdlib_tests": {"python_installation"},
    "package_tests": {"python_installation"},
    "max_package_bytes": {"python_installation"},
    "fields": _TABLES | {"conversations"},
    "extractor": {"files", "html", "warc"},
    "table": {"files", "sqlite", "sql"},
    "subset": {"datasets"},
    "split": {"datasets"},
}


@dataclass(frozen=True)
class Fields:
    """Which columns of a table, or fields of a JSON object, make a document; "" for none.

    A field of a JSON object may lie in another: meta.url. The value of `id` must be unique in its
    file; without one, documents are numbered. The `metadata` fields are kept with the document;
    of those, tables and rules take what domain, package and version say as their own.
    """

    text: str = "text"
    id: str = ""
    path: str = ""
    licence: str = ""
    language: str = ""
    timestamp: str = ""
    metadata: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.text:
            raise ValueError("source.fields.text='': a document needs one; set it to a column")


@dataclass(frozen=True)
class Source:
    """Where documents come from, and what is too large or too odd to be one.

    Attributes:
        kind: files takes each file by its suffix, the others are of one format; datasets are
            those of Hugging Face.
        path: a folder, a file, a URL that fsspec knows (s3://bucket/folder), or a data set's name.
        pattern: which of its files, as a shell pattern on the relative path.
        licence: of documents that state none.
        extractor: of the main content of HTML; trafilatura is slower and often better.
        table: of a database; null where it has one only.
        subset, split: of a data set.
        packages, stdlib_tests, package_tests, max_package_bytes: of the installed Python; required
            are the packages that megafm itself needs, whatever else is installed. No package
            dominates: which of its files are taken is by the hash of their path.
        max_expansion: how many times its size a compressed input may grow to, from 64 MB on.
        max_expanded_bytes: and at most to how many bytes.
    """

    kind: Kind = "python_installation"
    path: str | None = None
    pattern: str = "*"
    licence: str = "unspecified"
    fields: Fields = field(default_factory=Fields)
    extractor: Literal["resiliparse", "trafilatura"] = "resiliparse"
    table: str | None = None
    subset: str | None = None
    split: str = "train"
    packages: tuple[str, ...] | Literal["all", "required"] = "required"
    stdlib_tests: bool = False
    package_tests: bool = False
    max_package_bytes: int = 2_000_000
    max_document_bytes: int = 1_000_000
    max_line_bytes: int = 5_000
    max_expansion: int = 200
    max_expanded_bytes: int = 1_000_000_000_000

    def __post_init__(self) -> None:
        if self.kind != "python_installation" and not self.path:
            raise ValueError(
                f"source.path=null: source.kind={self.kind} reads a folder, a file or a URL; "
                "set source.path=DIR"
            )
        if not self.licence:
            raise ValueError("source.licence='': set source.licence=unspecified or an SPDX name")
        for setting in fields(self):
            if not setting.name.startswith("max_"):
                continue
            if getattr(self, setting.name) < 1:
                value = getattr(self, setting.name)
                raise ValueError(
                    f"source.{setting.name}={value}: must be positive; "
                    f"set source.{setting.name}={setting.default}"
                )
        self._warn_of_settings_without_effect()

    def _warn_of_settings_without_effect(self) -> None:
        for setting in fields(self):
            default = Fields() if setting.name == "fields" else setting.default
            value = getattr(self, setting.name)
            kinds = _READ_BY.get(setting.name, {self.kind})
            if self.kind not in kinds and value != default:
                warnings.warn(
                    f"source.{setting.name}={value} has no effect with source.kind={self.kind}: "
                    f"it is read by {', '.join(sorted(kinds))}",
                    stacklevel=4,
                )
