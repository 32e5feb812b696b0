"""report.png: the loss curve and the bits per byte beside the baselines, for a README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megafm.picture import BASELINE, INK, MODEL, SOFT, VALIDATION, picture
from megafm.report.collect import RunRecord
from megafm.report.series import loss_ceiling, si, smooth


def write_figure(record: RunRecord, path: Path) -> None:
    with picture(path) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        for axes in (left, right):
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.spines[["left", "bottom"]].set_color("#d5d5cf")
        _draw_loss(record, left)
        _draw_bits_per_byte(record, right)


def _draw_loss(record: RunRecord, axes: Any) -> None:
    axes.set_title("loss, nats per token", loc="left", fontsize=11)
    if not record.training:
        return _say(axes, "no training step yet")
    tokens = [line["tokens"] for line in record.training]
    losses = [line["loss"] for line in record.training]
    smoothed = smooth(losses)
    axes.plot(tokens, losses, color=MODEL, alpha=0.25, linewidth=0.8)
    axes.plot(tokens, smoothed, color=MODEL, linewidth=1.8, label="training")
    lowest = min(losses)
    if record.validation:
        x = [line["tokens"] for line in record.validation]
        y = [line["val_loss"] for line in record.validation]
        axes.plot(x, y, "o-", color=VALIDATION, linewidth=1.5, markersize=4, label="validation")
        lowest = min([lowest, *y])
    top = loss_ceiling(smoothed)
    margin = 0.04 * max(top - lowest, 1e-3)
    axes.set_ylim(lowest - margin, max(top, lowest) + margin)
    axes.xaxis.set_major_formatter(lambda value, position: si(value))
    axes.set_xlabel("training tokens")
    axes.grid(axis="y", color="#ecece8")
    axes.legend(frameon=False)


def _draw_bits_per_byte(record: RunRecord, axes: Any) -> None:
    axes.set_title("bits per byte of validation text, lower is better", loc="left", fontsize=11)
    if record.evaluation is None:
        return _say(axes, "not evaluated yet")
    others = record.evaluation["baselines"].values()
    names = ["this model", *(other["name"] for other in others)]
    values = [record.evaluation["model"]["bits_per_byte"]]
    values += [other["bits_per_byte"] for other in others]
    colours = [MODEL] + [BASELINE] * len(others)
    bars = axes.barh(names, values, color=colours, height=0.45)
    axes.bar_label(bars, labels=[f"{value:.3f}" for value in values], padding=6, color=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(values))
    axes.tick_params(axis="y", length=0, labelcolor=INK)


def _say(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", color=SOFT, transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])
