"""README.md of a data folder: where its documents are from, under which terms, what was done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from megafm.data.manifest import Manifest
from megafm.data.statistics import Statistics

FILE_NAME = "README.md"
SOURCES_SHOWN = 200


def card(manifest: Manifest, statistics: Statistics) -> str:
    """The dataset card, Markdown."""
    splits = [
        [name, _number(split.documents), _number(split.bytes)]
        for name, split in manifest.splits.items()
    ]
    licences: Counter[str] = Counter()
    documents: Counter[str] = Counter()
    for row in manifest.sources:
        licences[row.licence] += row.bytes
        documents[row.licence] += row.documents
    terms = [[n, _number(documents[n]), _number(size)] for n, size in licences.most_common()]
    sources = [
        [row.source, row.package, row.version, row.licence, _number(row.documents)]
        + [_number(row.bytes)]
        for row in manifest.sources[:SOURCES_SHOWN]
    ]
    more = len(manifest.sources) - len(sources)
    losses = [
        [loss.stage, reason, _number(count)]
        for loss in statistics.funnel
        for reason, count in loss.dropped.items()
    ]
    parts = [
        f"# {manifest.corpus}",
        f"Snapshot `{manifest.snapshot_id}`: the same documents in the same splits have the same "
        "one on every machine. `manifest.json` has the sha256 of each shard, which "
        "`action=verify` compares.",
        "## Splits",
        _table(("split", "documents", "bytes"), splits),
        "## Licences",
        _table(("licence", "documents", "bytes"), terms),
        "## Sources",
        _table(("source", "package", "version", "licence", "documents", "bytes"), sources),
        *([f"and {more} more, in `manifest.json`."] if more else []),
        "## Left out",
        f"Of {_number(statistics.read)} documents that were read, and files that were not:",
        _table(("stage", "reason", "documents"), losses),
    ]
    if manifest.skipped_packages:
        skipped = ", ".join(f"{name} ({why})" for name, why in manifest.skipped_packages.items())
        parts += [f"Packages left out for their licence: {skipped}."]
    if statistics.steps:
        steps = [[name, _number(count)] for name, count in statistics.steps.items()]
        parts += ["## Changed", _table(("step", "count"), steps)]
    parts += ["## Made by", "\n".join(f"- `{rule}`" for rule in manifest.rules)]
    return "\n\n".join(parts) + "\n"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines)


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")


def _number(value: int) -> str:
    return f"{value:,}"
