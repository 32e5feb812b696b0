"""report.html of a data folder: where the documents went, and what is left of them."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from itertools import islice
from pathlib import Path

from megafm.data import Manifest, read_documents
from megafm.data.document import Document
from megafm.data.statistics import Statistics
from megafm.files import write_text
from megafm.report.page import html, section
from megafm.report.series import si
from megafm.report.svg import bar_chart, column_chart
from megafm.report.tables import manifest_tables, table

KEPT_SHOWN = 4
TEXT_CHARS = 400
BINS = 30


def write_data_report(data_dir: str | Path) -> Path:
    """Write report.html into a data folder; returns its path.

    Raises:
        ValueError: there is no manifest, or no statistics.
    """
    manifest, statistics = Manifest.load(data_dir), Statistics.load(data_dir)
    kept = list(islice(read_documents(data_dir, "train"), KEPT_SHOWN))
    path = Path(data_dir) / "report.html"
    write_text(path, page(manifest, statistics, kept))
    return path


def page(manifest: Manifest, statistics: Statistics, kept: list[Document]) -> str:
    """The whole document; nothing in it is fetched from anywhere."""
    sections = [
        _header(manifest, statistics),
        section("From read to kept", _funnel(manifest, statistics)),
        section("Lengths", _lengths(statistics)),
        section("Signals", _signals(statistics)),
        section("Languages", _languages(statistics)),
        section("Splits, sources and licences", manifest_tables(manifest)),
        section("Clusters of near-duplicates", _clusters(statistics)),
        section("Examples that were left out or cut", _dropped(statistics)),
        section("Examples that stay", _kept(kept)),
    ]
    return html(f"{manifest.corpus}: megafm data report", "".join(sections))


def _header(manifest: Manifest, statistics: Statistics) -> str:
    documents = sum(split.documents for split in manifest.splits.values())
    size = sum(split.bytes for split in manifest.splits.values())
    found = [("documents read", si(statistics.read)), ("documents kept", si(documents))]
    found.append(("bytes kept", f"{si(size)}B"))
    if manifest.tokens:
        found.append(("tokens", si(sum(manifest.tokens.values()))))
    boxes = "".join(
        f'<div class="card"><span>{escape(name)}</span><strong>{escape(value)}</strong></div>'
        for name, value in found
    )
    return (
        f'<header>\n<p class="kicker">megafm data report</p>\n<h1>{escape(manifest.corpus)}</h1>\n'
        f'<p class="note">Snapshot <code>{escape(manifest.snapshot_id)}</code></p>\n'
        f'<div class="cards">{boxes}</div></header>\n'
    )


def _funnel(manifest: Manifest, statistics: Statistics) -> str:
    """What is left after each step, in documents and bytes; then what was left out, and why."""
    bars = [(left.step, float(left.bytes), "model") for left in statistics.left]
    label = "bytes left after each step"
    chart = bar_chart(bars, label=label, value_text=lambda size: f"{si(size)}B")
    steps = [["", "read, with what cannot be taken", statistics.read, ""]]
    steps += [[left.stage, left.step, left.documents, left.bytes] for left in statistics.left]
    after = table(["stage", "after", "documents", "bytes"], steps, (2, 3))
    reasons = [
        [loss.stage, reason.replace("_", " "), count, loss.bytes.get(reason, "")]
        for loss in statistics.funnel
        for reason, count in loss.dropped.items()
    ]
    why = table(["stage", "left out because", "documents", "bytes"], reasons, (2, 3))
    return "".join(f'<div class="panel">{part}</div>' for part in (chart, after, why))


def _lengths(statistics: Statistics) -> str:
    charts = []
    for split, counts in statistics.lengths.items():
        if counts:
            columns = [
                (_power_of_two(bits - 1) if bits else "0 B", counts.get(bits, 0))
                for bits in range(min(counts), max(counts) + 1)
            ]
            label = f"documents of {split} by bytes, from each power of two on"
            charts.append(f"<h3>{escape(label)}</h3>{column_chart(columns, label=label)}")
    return f'<div class="panel">{"".join(charts)}</div>'


def _power_of_two(exponent: int) -> str:
    """2**exponent bytes: 512 B, 1 KiB, ..."""
    unit, rest = divmod(exponent, 10)
    return f"{1 << rest} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[unit]}"


def _signals(statistics: Statistics) -> str:
    if not statistics.signals:
        return '<p class="note">None was measured: set steps=web or another group.</p>'
    charts, constant = [], []
    for name, counts in statistics.signals.items():
        if len(counts) == 1:
            constant.append(f"{name} {next(iter(counts))}")
            continue
        columns = _binned(counts)
        charts.append(f"<h3>{escape(name)}</h3>{column_chart(columns, label=name, height=110)}")
    if constant:
        charts.append(f'<p class="note">The same of all: {escape(", ".join(constant))}.</p>')
    return f'<div class="panel">{"".join(charts)}</div>'


def _binned(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """BINS columns of equal width, of two values or more."""
    values = [float(value) for value in counts]
    low, high = min(values), max(values)
    bins = [0] * BINS
    for value, count in zip(values, counts.values(), strict=True):
        bins[min(BINS - 1, int((value - low) / (high - low) * BINS))] += count
    width = (high - low) / BINS
    return [(f"{low + place * width:.3g}", count) for place, count in enumerate(bins)]


def _languages(statistics: Statistics) -> str:
    rows = [
        [name or "not stated", documents, size]
        for name, (documents, size) in statistics.languages.items()
    ]
    return f'<div class="panel">{table(["language", "documents", "bytes"], rows, (1, 2))}</div>'


def _clusters(statistics: Statistics) -> str:
    if not statistics.clusters:
        return '<p class="note">There is none.</p>'
    rows = [[c.size, c.removed, ", ".join(c.ids)] for c in statistics.clusters]
    columns = ["documents", "removed", "the first, the smallest id before the others"]
    shown = [f'<div class="panel">{table(columns, rows, (0, 1))}</div>']
    for cluster in statistics.clusters:
        if cluster.texts:
            stays, goes = cluster.texts
            shown.append(_example(f"near duplicates: {cluster.ids[0]} stays", stays, goes))
    return "".join(shown)


def _dropped(statistics: Statistics) -> str:
    if not statistics.examples:
        return '<p class="note">Nothing that had been read was left out or cut.</p>'
    return "".join(
        _example(f"{example.reason.replace('_', ' ')}: {example.where}", example.text, example.kept)
        for example in statistics.examples
    )


def _kept(documents: list[Document]) -> str:
    return "".join(_example(document.id, document.text[:TEXT_CHARS]) for document in documents)


def _example(title: str, *texts: str) -> str:
    body = "".join(f"<pre>{escape(text)}</pre>" for text in texts if text)
    return f'<div class="panel"><h3>{escape(title)}</h3>{body}</div>'
