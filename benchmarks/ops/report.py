"""A result as JSON, CSV and a table, and its verdicts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.ops.bars import MEMORY_BAR, NOT_SLOWER, bar_of
from benchmarks.ops.providers import OURS
from megafm.files import write_text


@dataclass(frozen=True)
class Summary:
    """One case in one line.

    Attributes:
        ours: our time, of the process whose allocator is tuned as megafm's jobs tune theirs.
        best, best_malloc: the fastest peer over both allocator settings.
        ratio: the best peer's time over ours.
        quiet_ratio: the same of the 20% quantiles, which work by others disturbs less.
        eager_ratio: as `ratio`, against torch eager alone.
        bar: the ratio asked for; None: nothing is.
    """

    ours: float
    best: str
    best_malloc: str
    ratio: float
    quiet_ratio: float
    eager_ratio: float
    bar: float | None

    @property
    def met(self) -> bool:
        return self.eager_ratio >= NOT_SLOWER and self.ratio >= (self.bar or 0)


def timed(cell: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in cell["providers"] if "median_s" in row]


def summarise(op: str, cell: dict[str, Any]) -> Summary | None:
    """None where we, or all peers, were not measured."""
    rows = timed(cell)
    ours = [r for r in rows if r["name"] == OURS and r["malloc"] == "tuned"]
    peers = [r for r in rows if r["kind"] != "ours"]
    if not ours or not peers:
        return None
    seconds = ours[0]["median_s"]
    best = min(peers, key=lambda row: row["median_s"])
    eager = [r["median_s"] for r in peers if r["kind"] == "eager"]
    return Summary(
        ours=seconds,
        best=best["name"],
        best_malloc=best["malloc"],
        ratio=best["median_s"] / seconds,
        quiet_ratio=min(row["q20_s"] for row in peers) / ours[0]["q20_s"],
        eager_ratio=min(eager, default=float("inf")) / seconds,
        bar=bar_of(op, cell["dtype"], cell["mode"], cell["shape"]),
    )


def verdicts(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Every case with its summary, for the JSON."""
    rows = []
    for cell in result["cells"]:
        summary = summarise(result["op"], cell)
        if summary is not None:
            case = {key: cell[key] for key in ("shape", "dtype", "threads", "mode")}
            limit = {"at_most": at_most(result, cell, summary)}
            rows.append(case | asdict(summary) | limit | {"met": summary.met})
    return rows


def at_most(result: dict[str, Any], cell: dict[str, Any], summary: Summary) -> float:
    """The largest ratio that a kernel could reach: the best peer's time over that at the ceiling.

    The ceiling is of memory, or of the matrix product: what stays in a cache can pass it.
    """
    return summary.ratio / rate(result, cell, summary.ours)[2]


def rate(result: dict[str, Any], cell: dict[str, Any], seconds: float) -> tuple[float, str, float]:
    """What was reached, its unit, and the share of the ceiling measured in the same run."""
    key = (cell["threads"], cell["dtype"])
    ceiling = next(c for c in result["ceilings"] if (c["threads"], c["dtype"]) == key)
    if cell["flops"]:
        reached = cell["flops"] / seconds
        return reached / 1e9, "GFLOP/s", reached / ceiling["matmul_flops_per_s"]
    reached = cell["bytes"] / seconds
    return reached / 1e9, "GB/s", reached / ceiling["copy_bytes_per_s"]


def write(result: dict[str, Any], path: Path) -> Path:
    """The JSON file, and beside it the same as CSV with a row per provider and case."""
    write_text(path, json.dumps(result, indent=1) + "\n")
    text = io.StringIO()
    rows = list(_flat(result))
    table = csv.DictWriter(text, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    write_text(path.with_suffix(".csv"), text.getvalue())
    return path


def _flat(result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for cell in result["cells"]:
        for row in cell["providers"]:
            flat = {"op": result["op"]}
            flat |= {key: cell[key] for key in ("shape", "dtype", "threads", "mode")}
            flat |= {"provider": row["name"]}
            for key in ("malloc", "rounds", "median_s", "q20_s", "q80_s"):
                flat[key] = row.get(key, "")
            reached = rate(result, cell, row["median_s"]) if "median_s" in row else ("", "", "")
            flat |= dict(zip(("reached", "unit", "share_of_ceiling"), reached, strict=True))
            yield flat | {"error": row.get("error", "")}


def show(result: dict[str, Any], console: Console) -> None:
    """The table of an op, then what was not measured, memory, and the verdict in a line."""
    table = Table(title=f"{result['op']} on {result['hardware']['device']}", box=SIMPLE)
    for column in (
        "shape",
        "",
        "ours ms",
        "20-80%",
        "best peer",
        "ms",
        "x",
        "at most",
        "x q20",
        "x eager",
        "reached",
    ):
        table.add_column(column, justify="right" if "ms" in column else "left", no_wrap=True)
    for cell in result["cells"]:
        table.add_row(*_cells(result, cell))
    console.print(table)
    console.print(
        "  x: best peer / ours, of the bar (at most: were we at the ceiling; q20: of the 20% "
        "quantiles); %: of the ceiling measured in this run"
    )
    for name, error in sorted(_errors(result)):
        console.print(f"  {name}: not ranked: {error}", markup=False)
    show_memory(result, console)
    console.print(verdict(result), markup=False)


def _cells(result: dict[str, Any], cell: dict[str, Any]) -> Iterator[str]:
    yield cell["shape"]
    yield f"{cell['dtype']} {cell['threads']}t {cell['mode']}"
    summary = summarise(result["op"], cell)
    if summary is None:
        return
    mine = next(r for r in timed(cell) if r["name"] == OURS and r["malloc"] == "tuned")
    reached, unit, share = rate(result, cell, summary.ours)
    colour, bar = "green" if summary.met else "red", f" of {summary.bar}" if summary.bar else ""
    yield f"{1e3 * summary.ours:.3g}"
    yield f"{1e3 * mine['q20_s']:.3g}-{1e3 * mine['q80_s']:.3g}"
    yield summary.best + (" (tuned malloc)" if summary.best_malloc == "tuned" else "")
    yield f"{1e3 * summary.ours * summary.ratio:.3g}"
    yield f"[{colour}]{summary.ratio:.2f}{bar}[/]"
    yield f"{at_most(result, cell, summary):.2f}"
    yield f"{summary.quiet_ratio:.2f}"
    yield f"{summary.eager_ratio:.2f}"
    yield f"{reached:.3g} {unit}, {share:.0%}"


def _errors(result: dict[str, Any]) -> set[tuple[str, str]]:
    return {
        (f"{row['name']} ({cell['dtype']})", row["error"])
        for cell in result["cells"]
        for row in cell["providers"]
        if "error" in row
    }


def show_memory(result: dict[str, Any], console: Console) -> None:
    for row in result["memory"] or ():
        console.print(f"  peak memory, {row['name']}: {row['peak_bytes'] / 2**20:,.0f} MiB")


def verdict(result: dict[str, Any]) -> str:
    """Bars met and missed, in one line."""
    judged = [row for row in result["bars"] if row["bar"]]
    missed = [
        f"{r['shape']} {r['dtype']} {r['threads']}t {r['ratio']:.2f} < {r['bar']}"
        for r in judged
        if r["ratio"] < r["bar"]
    ]
    slower = [
        f"{r['shape']} {r['dtype']} {r['threads']}t {r['mode']} {r['eager_ratio']:.2f}"
        for r in result["bars"]
        if r["eager_ratio"] < NOT_SLOWER
    ]
    parts = [f"bars: {len(judged) - len(missed)} of {len(judged)} met"]
    if missed:
        parts.append("missed: " + "; ".join(missed))
    if slower:
        parts.append("slower than eager: " + "; ".join(slower))
    if result["memory"]:
        share = memory_share(result["memory"])
        parts.append(f"memory {share:.3f} of unfused, {'met' if share < MEMORY_BAR else 'MISSED'}")
    return f"{result['op']}: " + ". ".join(parts)


def memory_share(rows: list[dict[str, Any]]) -> float:
    """Our peak over the smallest of the peers."""
    ours = next(row["peak_bytes"] for row in rows if row["name"] == OURS)
    return ours / min(row["peak_bytes"] for row in rows if row["name"] != OURS)
