"""action=diff: what one data folder has that another has not."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from megafm.data.document import SPLITS, read_documents
from megafm.data.lines import to_line
from megafm.data.manifest import Manifest
from megafm.data.stages.cleaning import hash_id
from megafm.data.stages.exchange import PartWriter, part_of, read_part

PART_DOCUMENTS = 1 << 18  # that are compared in memory
KINDS = ("added", "removed", "changed", "moved")
IDS_SHOWN = 10


@dataclass
class Difference:
    """
    Attributes:
        counts: documents by kind: added, removed, changed (another text), moved (another split).
        ids: the first of each kind.
        dropped: how many more documents were left out for each reason.
        rules: those of the one (-) or of the other (+) alone.
    """

    counts: Counter[str] = field(default_factory=Counter)
    ids: dict[str, list[str]] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    rules: tuple[str, ...] = ()

    def add(self, kind: str, name: str) -> None:
        self.counts[kind] += 1
        shown = self.ids.setdefault(kind, [])
        if len(shown) < IDS_SHOWN:
            shown.append(name)


def compare(before_dir: str, after_dir: str) -> Difference:
    """From one data folder to another. Memory: PART_DOCUMENTS ids and hashes of each.

    Raises:
        ValueError: a folder has no documents.
    """
    before, after = Manifest.load(before_dir), Manifest.load(after_dir)
    reasons = sorted({*before.dropped, *after.dropped})
    change = {r: after.dropped.get(r, 0) - before.dropped.get(r, 0) for r in reasons}
    difference = Difference(
        dropped={reason: count for reason, count in change.items() if count},
        rules=tuple(
            [f"- {rule}" for rule in before.rules if rule not in after.rules]
            + [f"+ {rule}" for rule in after.rules if rule not in before.rules]
        ),
    )
    documents = max(sum(s.documents for s in m.splits.values()) for m in (before, after))
    num_parts = -(-documents // PART_DOCUMENTS) or 1
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("before", "after")]
        for path, data_dir in zip(paths, (before_dir, after_dir), strict=True):
            _scatter(path, data_dir, num_parts)
        for part in range(num_parts):
            one, two = (dict(_rows(path, part)) for path in paths)
            for name in sorted({*one, *two}):
                kind = _kind(one.get(name), two.get(name))
                if kind is not None:
                    difference.add(kind, name)
    return difference


def diff(before_dir: str, after_dir: str, console: Console | None = None) -> None:
    """Print it."""
    console = console or Console()
    found = compare(before_dir, after_dir)
    console.print(f"from {escape(before_dir)} to {escape(after_dir)}")
    table = Table("documents", "count", "first ids")
    for kind in KINDS:
        table.add_row(kind, f"{found.counts[kind]:,}", escape("\n".join(found.ids.get(kind, []))))
    console.print(table)
    if found.dropped:
        table = Table("left out because", "change")
        for reason, count in found.dropped.items():
            table.add_row(escape(reason), f"{count:+,}")
        console.print(table)
    for rule in found.rules:
        console.print(escape(rule), soft_wrap=True)


def _kind(one: tuple[str, str] | None, two: tuple[str, str] | None) -> str | None:
    if one is None or two is None:
        return "added" if one is None else "removed"
    if one[0] != two[0]:
        return "changed"
    return None if one[1] == two[1] else "moved"


def _scatter(path: Path, data_dir: str, num_parts: int) -> None:
    with PartWriter(path) as parts:
        for split in SPLITS:
            for document in read_documents(data_dir, split):
                record = to_line([document.id, document.sha256, split])
                parts.add(part_of(hash_id(document.id), num_parts), record)


def _rows(path: Path, part: int) -> Iterator[tuple[str, tuple[str, str]]]:
    for piece in read_part(path, part):
        for line in piece.splitlines():
            name, text_hash, split = json.loads(line)
            yield name, (text_hash, split)
