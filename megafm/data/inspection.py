"""action=inspect: the manifest as tables, and how some documents begin."""

from __future__ import annotations

from itertools import islice

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from megafm.data.document import SPLITS, read_documents
from megafm.data.manifest import Manifest

MAX_SOURCES = 25
HEADS = 3


def inspect(data_dir: str, console: Console | None = None) -> None:
    """Print what a data folder holds."""
    console = console or Console()
    manifest = Manifest.load(data_dir)
    console.print(f"[bold]{escape(manifest.corpus)}[/bold]\nsnapshot {manifest.snapshot_id}")
    console.print(f"tokenizer {manifest.tokenizer_hash or 'none yet: action=tokenize'}\n")
    console.print(_splits(manifest))
    console.print(_sources(manifest))
    console.print(_dropped(manifest))
    for split in SPLITS:
        for document in islice(read_documents(data_dir, split), HEADS):
            head = " ".join(document.text[:160].split())
            console.print(f"[bold]{split}[/bold] {escape(document.id)}: {escape(head)}")


def _splits(manifest: Manifest) -> Table:
    table = _table("split", documents="right", megabytes="right", tokens="right")
    for name, summary in manifest.splits.items():
        tokens = "-" if summary.tokens is None else f"{summary.tokens:,}"
        table.add_row(name, f"{summary.documents:,}", f"{summary.bytes / 1e6:.2f}", tokens)
    return table


def _sources(manifest: Manifest) -> Table:
    table = _table("package", version="left", licence="left", documents="right", megabytes="right")
    for row in manifest.sources[:MAX_SOURCES]:
        size = f"{row.bytes / 1e6:.2f}"
        table.add_row(row.package, row.version, row.licence, f"{row.documents:,}", size)
    rest = manifest.sources[MAX_SOURCES:]
    if rest:
        documents = sum(row.documents for row in rest)
        megabytes = sum(row.bytes for row in rest) / 1e6
        table.add_row(f"{len(rest)} more", "", "", f"{documents:,}", f"{megabytes:.2f}")
    return table


def _dropped(manifest: Manifest) -> Table:
    table = _table("left out", documents="right", packages="left")
    for reason, count in manifest.dropped.items():
        skipped = ", ".join(
            f"{name} ({terms})" for name, terms in manifest.skipped_packages.items()
        )
        table.add_row(reason, f"{count:,}", skipped if reason == "licence" else "")
    return table


def _table(first: str, **columns: str) -> Table:
    table = Table(first)
    for name, justify in columns.items():
        table.add_column(name, justify="right" if justify == "right" else "left")
    return table
