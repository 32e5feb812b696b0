"""A PNG per op: how many times faster than the best peer, and where the others stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.ops.report import Summary, rate, summarise, timed

OURS_COLOUR = "#bcd7c7"
MISSED_COLOUR = "#b02020"
# Everyone else: (kind, allocator) -> label, marker, colour; the fastest of each is drawn.
OTHERS = {
    ("eager", "default"): ("torch eager", "o", "#b5533c"),
    ("eager", "tuned"): ("torch eager, tuned malloc", "D", "#d99a3a"),
    ("compiled", "default"): ("torch.compile", "s", "#4a6fa5"),
    ("compiled", "tuned"): ("torch.compile, tuned malloc", "v", "#35a0b5"),
    ("library", "tuned"): ("best library", "^", "#77508a"),
}


def draw(result: dict[str, Any], path: Path) -> None:
    """One panel per mode and dtype (rows) and number of threads (columns)."""
    cells = result["cells"]
    rows = list(dict.fromkeys((cell["mode"], cell["dtype"]) for cell in cells))
    columns = list(dict.fromkeys(cell["threads"] for cell in cells))
    shapes = list(dict.fromkeys(cell["shape"] for cell in cells))
    width = len(columns) * max(4.2, 0.5 * len(shapes) + 1.2)
    size = (max(8.4, width), 2.3 * len(rows) + 1.2)
    options = {"figsize": size, "squeeze": False, "sharex": True}
    figure, panels = plt.subplots(len(rows), len(columns), layout="constrained", **options)
    for panel_row, (mode, dtype) in zip(panels, rows, strict=True):
        for panel, threads in zip(panel_row, columns, strict=True):
            key = (mode, dtype, threads)
            shown = [c for c in cells if (c["mode"], c["dtype"], c["threads"]) == key]
            _panel(panel, result, shown, shapes)
            panel.set_title(f"{mode}, {dtype}, {threads} thread{'s' * (threads > 1)}", fontsize=10)
        top = max(panel.get_ylim()[1] for panel in panel_row)
        for panel in panel_row:
            panel.set_ylim(0, top)
        panel_row[0].set_ylabel(f"times the best peer\n(below it: {_unit(result)} reached)")
    unique = {}
    for panel in panels.flat:
        unique |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=3, fontsize=9)
    figure.suptitle(f"{result['op']}: speed, best peer = 1 ({result['hardware']['device']})")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _unit(result: dict[str, Any]) -> str:
    return rate(result, result["cells"][0], 1)[1]


def _panel(
    panel: Axes, result: dict[str, Any], cells: list[dict[str, Any]], shapes: list[str]
) -> None:
    """`shapes` are those of all panels, which share an axis; one may have cells of a part only."""
    panel.axhline(1, color="#888888", linewidth=1)
    for cell in cells:
        x, summary = shapes.index(cell["shape"]), summarise(result["op"], cell)
        if summary is None:
            continue
        label = "megafm (the backend that auto picks)"
        panel.bar(x, summary.ratio, 0.6, color=OURS_COLOUR, label=label)
        if summary.bar:
            panel.hlines(summary.bar, x - 0.4, x + 0.4, "#111111", "dashed", label="bar to reach")
        _figures(panel, x, summary, rate(result, cell, summary.ours)[0])
        best = summary.ours * summary.ratio
        for (kind, malloc), (label, marker, colour) in OTHERS.items():
            times = [
                r["median_s"] for r in timed(cell) if (r["kind"], r["malloc"]) == (kind, malloc)
            ]
            if times:
                style = {"color": colour, "marker": marker, "edgecolors": "white", "s": 34}
                panel.scatter(x, best / min(times), label=label, zorder=3, **style)
    panel.set_xticks(range(len(shapes)), shapes, rotation=35, ha="right")
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)
    panel.margins(y=0.22)


def _figures(panel: Axes, x: int, summary: Summary, reached: float) -> None:
    """The ratio and the rate, above the column and above the bar to reach."""
    place = {"xy": (x, max(1, summary.ratio, summary.bar or 0)), "ha": "center"}
    place["textcoords"] = "offset points"
    colour = "black" if summary.met else MISSED_COLOUR
    panel.annotate(f"{summary.ratio:.2f}", xytext=(0, 11), fontsize=8, color=colour, **place)
    panel.annotate(f"{reached:.3g}", xytext=(0, 3), fontsize=6.5, color="#666666", **place)
