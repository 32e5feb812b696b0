"""The result of the suite: tokens per second, verdicts, a table and a figure."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.train.providers import OURS
from megafm.files import write_text

BARS = {("fp32", 1): 1.35, ("fp32", 2): 1.7}  # (dtype, cores) -> times the best peer


def tokens_per_s(result: dict[str, Any], case: dict[str, Any]) -> float:
    return result["tokens_per_step"] / statistics.median(case["seconds"])


def verdicts(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Ours against the best peer, each at its best layout, for every dtype and number of cores."""
    rows = []
    for dtype, cores in dict.fromkeys((c["dtype"], c["cores"]) for c in result["cases"]):
        cases = [c for c in result["cases"] if (c["dtype"], c["cores"]) == (dtype, cores)]
        ours = [tokens_per_s(result, c) for c in cases if c["name"] == OURS]
        peers = {c["name"]: 0.0 for c in cases if c["name"] != OURS}
        for case in cases:
            if case["name"] in peers:
                peers[case["name"]] = max(peers[case["name"]], tokens_per_s(result, case))
        if ours and peers:
            best = max(peers, key=lambda name: peers[name])
            row = {"dtype": dtype, "cores": cores, "ours": max(ours), "best": best}
            row |= {"peer": peers[best], "ratio": max(ours) / peers[best]}
            rows.append(row | {"bar": BARS.get((dtype, cores))})
    return rows


def write(result: dict[str, Any], path: Path) -> None:
    """The JSON file, and a PNG beside it."""
    write_text(path, json.dumps(result, indent=1) + "\n")
    profiles = [case for case in result["cases"] if "profile" in case]
    figure, (speeds, parts) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    _draw_speeds(speeds, result)
    _draw_profiles(parts, profiles)
    figure.suptitle(f"Training a Llama of 10 M parameters ({result['hardware']['device']})")
    figure.savefig(path.with_suffix(".png"), dpi=110)
    plt.close(figure)


def _draw_speeds(panel: Axes, result: dict[str, Any]) -> None:
    cases = result["cases"]
    labels = [f"{c['name']}, {c['dtype']}, {c['threads']} thr x {c['ranks']} ranks" for c in cases]
    colours = ["#2f6f4f" if case["name"] == OURS else "#b9b2a7" for case in cases]
    values = [tokens_per_s(result, case) for case in cases]
    bars = panel.barh(labels, values, color=colours)
    panel.bar_label(bars, fmt="%.0f", fontsize=8, padding=2)
    panel.invert_yaxis()
    panel.tick_params(labelsize=8)
    panel.set_xlabel("tokens per second")
    panel.spines[["top", "right"]].set_visible(False)


def _draw_profiles(panel: Axes, cases: list[dict[str, Any]]) -> None:
    """A stacked bar per profile of ours: milliseconds of a step by kind of work."""
    kinds = list(dict.fromkeys(k for c in cases for k in c["profile"]["kinds_s"]))
    colours = plt.get_cmap("tab20").colors
    for row, case in enumerate(cases):
        left = 0.0
        for index, kind in enumerate(kinds):
            width = 1e3 * case["profile"]["kinds_s"].get(kind, 0.0)
            label = kind if row == 0 else None
            panel.barh(row, width, left=left, color=colours[index % 20], label=label)
            if width > 0.05 * 1e3 * case["profile"]["profiled_step_s"]:
                panel.text(left + width / 2, row, f"{width:.0f}", ha="center", va="center")
            left += width
    labels = [f"{case['dtype']}, {case['threads']} threads" for case in cases]
    panel.set_yticks(range(len(cases)), labels)
    panel.set_xlabel("where a step of ours goes, ms")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)


def show(result: dict[str, Any], console: Console) -> None:
    table = Table(title=f"training on {result['hardware']['device']}", box=SIMPLE)
    for column in ("provider", "dtype", "threads x ranks", "tokens/s", "s a step", "steps", "loss"):
        table.add_column(column, no_wrap=True)
    for case in result["cases"]:
        table.add_row(
            case["name"],
            case["dtype"],
            f"{case['threads']} x {case['ranks']}",
            f"{tokens_per_s(result, case):,.0f}",
            f"{statistics.median(case['seconds']):.3f}",
            str(len(case["seconds"])),
            f"{case['losses'][0]:.2f} to {case['losses'][-1]:.2f}",
        )
    console.print(table)
    for label, reason in result["missing"].items():
        console.print(f"  {label}: not measured: {reason}", markup=False)
    for row in result["bars"]:
        console.print(_verdict(row), markup=False)


def _verdict(row: dict[str, Any]) -> str:
    line = f"{row['dtype']}, {row['cores']} cores: {row['ratio']:.2f} times {row['best']}"
    if row["bar"] is None:
        return line
    return f"{line}; bar {row['bar']}: {'met' if row['ratio'] >= row['bar'] else 'MISSED'}"
