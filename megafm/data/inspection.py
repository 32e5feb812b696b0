"""action=inspect, stats, sample and lookup: a data folder as tables and texts on the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import islice

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from megafm.data.document import SPLITS, Document, read_documents
from megafm.data.lookup import lookup
from megafm.data.manifest import Manifest
from megafm.data.statistics import Statistics

MAX_SOURCES = 25
HEADS = 3
SAMPLE_CHARS = 2000


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


def stats(data_dir: str, console: Console | None = None) -> None:
    """Print what became of the documents, and the quartiles of the signals."""
    console = console or Console()
    manifest, found = Manifest.load(data_dir), Statistics.load(data_dir)
    console.print(_splits(manifest))
    table = _table("stage", reason="left", documents="right", megabytes="right")
    table.add_row("read", "", f"{found.read:,}", "")
    for loss in found.funnel:
        for reason, count in loss.dropped.items():
            size = f"-{loss.bytes[reason] / 1e6:,.3f}" if reason in loss.bytes else ""
            table.add_row(loss.stage, reason, f"-{count:,}", size)
    documents = sum(split.documents for split in manifest.splits.values())
    megabytes = sum(split.bytes for split in manifest.splits.values()) / 1e6
    table.add_row("left", "", f"{documents:,}", f"{megabytes:,.3f}")
    console.print(table)
    table = _table("language", documents="right", megabytes="right")
    for name, (count, total) in found.languages.items():
        table.add_row(name or "not stated", f"{count:,}", f"{total / 1e6:.2f}")
    console.print(table)
    if found.signals:
        table = _table("signal", **dict.fromkeys(("25%", "50%", "75%"), "right"))
        for name, counts in found.signals.items():
            table.add_row(name, *(f"{quantile(counts, q):g}" for q in (0.25, 0.5, 0.75)))
        console.print(table)


def sample(data_dir: str, split: str, count: int, console: Console | None = None) -> None:
    """Print the first documents of a split: it is shuffled, so that they are a fair sample."""
    console = console or Console()
    for document in islice(read_documents(data_dir, split), count):
        _header(console, document)
        console.print(escape(document.text[:SAMPLE_CHARS]), highlight=False)


def show_token(
    data_dir: str, split: str, token: int | None, console: Console | None = None
) -> None:
    """Print where a token is from.

    Raises:
        ValueError: no token is named, or there is none such.
    """
    console = console or Console()
    if token is None:
        raise ValueError("data.token=null: action=lookup needs a position; set data.token=0")
    place = lookup(data_dir, split, token)
    console.print(
        f"token {token} of {split} is {place.offset} of {place.num_tokens} of its document"
    )
    _header(console, place.document)


def quantile(counts: Mapping[str, int], share: float) -> float:
    """Of values (as text, ascending) that so many documents have."""
    left = share * sum(counts.values())
    for value, count in counts.items():
        left -= count
        if left <= 0:
            return float(value)
    return math.nan


def _header(console: Console, document: Document) -> None:
    console.print(f"[bold]{escape(document.id)}[/bold]", soft_wrap=True)
    fields = ("source", "path", "licence", "language", "timestamp")
    facts = [(name, getattr(document, name)) for name in fields]
    facts += [*document.metadata.items(), *document.notes.items()]
    stated = ", ".join(f"{name} {value}" for name, value in facts if value)
    console.print(f"[dim]{escape(stated)}[/dim]", highlight=False, soft_wrap=True)


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
