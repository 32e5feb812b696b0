"""Pictures of a job: one look, written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from megafm.files import atomic_open

MODEL, VALIDATION, BASELINE, INK, SOFT = "#2f6fde", "#d9622b", "#a9afb8", "#1c1e21", "#646a73"


@contextmanager
def picture(path: Path) -> Iterator[Figure]:
    """A figure of 1200 x 450 pixels, to be drawn in the block, and then written to `path`."""
    style: dict[Any, Any] = {"font.size": 10, "font.family": "DejaVu Sans", "text.color": INK}
    style |= {"axes.labelcolor": SOFT, "xtick.color": SOFT, "ytick.color": SOFT}
    with matplotlib.rc_context(style):
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
        figure = Figure(figsize=(12, 4.5), dpi=100, layout=layout, facecolor="white")
        FigureCanvasAgg(figure)
        yield figure
        with atomic_open(path) as out:
            figure.savefig(out, format="png")
