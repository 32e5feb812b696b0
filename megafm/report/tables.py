"""The tables of the page: data, checkpoints, versions."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from html import escape
from typing import Any

import torch

import megafm
from megafm.data import Manifest
from megafm.device import device_name, resolve_device
from megafm.report.collect import RunRecord

SOURCES_SHOWN = 12


def table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], numbers: Sequence[int] = ()
) -> str:
    """Escaped cells; integers get thousands separators, columns `numbers` stand to the right."""

    def cell(tag: str, index: int, value: Any) -> str:
        text = f"{value:,}" if isinstance(value, int) else str(value)
        kind = ' class="n"' if index in numbers else ""
        return f"<{tag}{kind}>{escape(text)}</{tag}>"

    def line(tag: str, values: Sequence[Any]) -> str:
        return f"<tr>{''.join(cell(tag, i, value) for i, value in enumerate(values))}</tr>"

    body = "".join(line("td", row) for row in rows)
    head = f"<thead>{line('th', columns)}</thead>" if any(columns) else ""
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def data_tables(record: RunRecord) -> str:
    """Splits, sources with their licences, and what was left out and why."""
    manifest = record.manifest
    if manifest is None:
        return '<p class="note">No manifest found: the data folder is not where the run says.</p>'
    return manifest_tables(manifest)


def manifest_tables(manifest: Manifest) -> str:
    """The same of a data folder."""
    splits = [
        [name, split.documents, split.bytes, "not yet" if split.tokens is None else split.tokens]
        + [f"{split.bytes / split.tokens:.2f}" if split.tokens else ""]
        for name, split in manifest.splits.items()
    ]
    columns = ["split", "documents", "bytes", "tokens", "bytes/token"]
    parts = [f'<div class="panel">{table(columns, splits, range(1, 5))}</div>']
    sources = [
        [f"{source.package} {source.version}", source.licence, source.documents, source.bytes]
        for source in manifest.sources
    ]
    columns = ["package", "licence", "documents", "bytes"]
    shown = table(columns, sources[:SOURCES_SHOWN], (2, 3))
    rest = sources[SOURCES_SHOWN:]
    if rest:
        size = sum(source.bytes for source in manifest.sources[SOURCES_SHOWN:])
        more = f"{len(rest)} more packages, {size / 1e6:,.1f} MB"
        shown += f"<details><summary>{more}</summary>{table(columns, rest, (2, 3))}</details>"
    parts.append(f'<div class="panel">{shown}</div>')
    left_out = sorted(manifest.dropped.items(), key=lambda item: -item[1])
    if left_out:
        rows = [[reason.replace("_", " "), count] for reason, count in left_out]
        body = table(["left out because", "files"], rows, (1,))
        parts.append(f'<div class="panel">{body}</div>')
    if manifest.skipped_packages:
        skipped = ", ".join(f"{name} ({why})" for name, why in manifest.skipped_packages.items())
        parts.append(f'<p class="note">Left out for their licence: {escape(skipped)}.</p>')
    parts.append(f'<p class="note">Snapshot <code>{escape(manifest.snapshot_id)}</code></p>')
    return "".join(parts)


def checkpoint_table(record: RunRecord) -> str:
    if not record.checkpoints:
        return '<p class="note">No checkpoint yet.</p>'
    rows = [
        [c.info.step, c.info.tokens, f"{c.bytes / 1e6:,.1f} MB"]
        + [_short(value) for value in (c.info.config_hash, c.info.tokenizer_hash)]
        + [_short(c.info.snapshot_id), _short(c.info.git_commit)]
        for c in record.checkpoints
    ]
    columns = ["step", "tokens", "size", "config", "tokenizer", "snapshot", "commit"]
    return f'<div class="panel">{table(columns, rows, (0, 1, 2))}</div>'


def version_table(record: RunRecord) -> str:
    """What the run was made with; the machine is that of the evaluation, else this one."""
    info, evaluation = record.latest, record.evaluation
    trained_with = (info.megafm_version, info.torch_version) if info else (None, None)
    rows = [
        ["megafm", trained_with[0] or megafm.__version__],
        ["torch", trained_with[1] or torch.__version__],
        ["Python", platform.python_version()],
        ["system", platform.platform(terse=True)],
        ["device", evaluation["device"] if evaluation else device_name(resolve_device("auto"))],
        ["commit", (info and info.git_commit) or "not a checkout"],
    ]
    return table(["", ""], rows)


def _short(value: str | None) -> str:
    """The first 12 characters of a hash; a commit with local changes says so."""
    if value is None:
        return "unknown"
    return value[:12] + ("+dirty" if value.endswith("+dirty") else "")
