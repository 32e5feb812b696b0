"""A run in one page: report.html, which needs nothing beside itself, and report.png."""

from __future__ import annotations

from pathlib import Path

from megafm.files import write_text
from megafm.report.collect import RunRecord, collect
from megafm.report.figure import write_figure
from megafm.report.page import page

__all__ = ["RunRecord", "collect", "write_report"]


def write_report(run_dir: str | Path, data_dir: str | Path | None = None) -> Path:
    """Write report.html and report.png into a run folder; returns the path of the page.

    What the run does not have yet (an evaluation, samples) is shown as such.

    Args:
        data_dir: where the manifest is; None looks where config.yaml says.

    Raises:
        ValueError: `run_dir` has neither a config.yaml nor a metrics.jsonl.
    """
    record = collect(run_dir, data_dir)
    path = Path(run_dir) / "report.html"
    write_text(path, page(record))
    write_figure(record, path.with_suffix(".png"))
    return path
