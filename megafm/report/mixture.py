"""report.html of a mixture: what was asked of each part, and what it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from megafm.data.mixing import COLUMNS, rows
from megafm.data.mixture import Share
from megafm.files import write_text
from megafm.report.page import html, section
from megafm.report.series import si
from megafm.report.svg import bar_chart
from megafm.report.tables import table

NUMBERS = tuple(range(1, len(COLUMNS)))
NAME_CHARS = 20


def write_mixture_report(plan: Mapping[str, Sequence[Share]], out: str | Path) -> Path:
    """Write report.html into `out`; returns its path."""
    sections = [section(f"Stage {name}", _stage(shares)) for name, shares in plan.items()]
    if len(plan) > 1:
        sections.append(section("All stages", _epochs(plan)))
    head = '<header>\n<p class="kicker">megafm data report</p>\n<h1>Mixture</h1>\n</header>\n'
    path = Path(out) / "report.html"
    write_text(path, html("mixture: megafm data report", head + "".join(sections)))
    return path


def _stage(shares: Sequence[Share]) -> str:
    """A bar for what was asked of each part, and one for what it gives."""
    bars = []
    for share in shares:
        bars.append((_name(share), 100 * share.asked, "baseline"))
        bars.append(("given", 100 * share.weight, "model"))
    chart = bar_chart(bars, label="asked and given shares", value_text="{:.2f}%".format)
    return f'<div class="panel">{chart}{table(COLUMNS, rows(shares), NUMBERS)}</div>'


def _epochs(plan: Mapping[str, Sequence[Share]]) -> str:
    tokens: dict[str, float] = {}
    size: dict[str, int] = {}
    for shares in plan.values():
        for share in shares:
            tokens[share.part.dir] = tokens.get(share.part.dir, 0.0) + share.tokens
            size[share.part.dir] = share.part.tokens
    found = [
        [name, si(total), si(size[name]), f"{total / size[name]:.2f}"]
        for name, total in tokens.items()
    ]
    return f'<div class="panel">{table(["part", "tokens", "of", "epochs"], found, (1, 2, 3))}</div>'


def _name(share: Share) -> str:
    """Of the folder what there is room for."""
    folder = share.part.dir
    return folder if len(folder) <= NAME_CHARS else f"...{folder[3 - NAME_CHARS :]}"
