"""The memory of a rank over a step, by category, with its peak marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from megafm.picture import INK, SOFT, picture
from megafm.plan.memory import CATEGORIES
from megafm.plan.report import RankReport, size
from megafm.plan.step import Observed

COLOURS = ("#2f6fde", "#7aa5ee", "#d9622b", "#8d6fc2", "#f0b45c", "#a9afb8")  # of CATEGORIES
NUM_POINTS = 1500  # more than the picture has room for


def write_figure(observed: Observed, report: RankReport, path: Path) -> None:
    with picture(path) as figure:
        _draw(observed, report, figure.subplots())


def _draw(observed: Observed, report: RankReport, axes: Any) -> None:
    events = _shown(observed)
    alive = observed.alive[events]
    title = f"memory of rank {report.rank} of {report.world_size:,} over one step"
    axes.set_title(title, loc="left", fontsize=11)
    axes.stackplot(events, alive.T, labels=CATEGORIES, colors=COLOURS, linewidth=0)
    axes.plot(observed.peak_event, observed.peak, "v", color=INK, markersize=7, clip_on=False)
    axes.annotate(
        f"peak {size(observed.peak)}",
        (observed.peak_event, observed.peak),
        xytext=(0, 9),
        textcoords="offset points",
        ha="center",
    )
    for name, event in observed.phases if len(observed.phases) < 12 else ():
        axes.axvline(event, color=SOFT, linewidth=0.6, linestyle=":")
        axes.text(event, -0.02, f" {name}", transform=axes.get_xaxis_transform(), va="top")
    axes.set_ylim(0, 1.15 * observed.peak)
    axes.set_xlim(events[0], events[-1])
    axes.set_xticks([])
    axes.yaxis.set_major_formatter(lambda value, position: size(value))
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
    axes.legend(handles[::-1], labels[::-1], frameon=False, **place)


def _shown(observed: Observed) -> np.ndarray:
    """Of the events, in order: where each of NUM_POINTS equal spans is highest."""
    total = observed.alive.sum(axis=1)
    spans = np.array_split(np.arange(len(total)), min(NUM_POINTS, len(total)))
    return np.array([span[total[span].argmax()] for span in spans])
