"""All that `make gpu` measured in one folder, as tables and a picture, against the targets.

python -m benchmarks.gpu.summary FOLDER       writes FOLDER/summary.md and summary.png
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.ops.op import BACKWARD, BOTH, FORWARD
from benchmarks.ops.report import rate, timed

OWN = ("cuda", "triton")  # our kernels; other backends of ours are others' kernels
STEP_TARGET = 0.5  # MFU
PICTURE = "summary.png"


@dataclass(frozen=True)
class Target:
    """
    Attributes:
        share: of the ceiling that was measured in the same run, at least.
        peer: whose time over ours has to be at least 1.
        shapes: where it holds, a prefix.
    """

    op: str
    modes: tuple[str, ...]
    share: float | None = None
    peer: str | None = None
    shapes: str = ""


TARGETS = (
    Target("attention", (FORWARD, BACKWARD), peer="cuDNN SDPA", shapes="S"),
    Target("rms_norm", (FORWARD, BACKWARD), share=0.9),
    Target("rope", (FORWARD, BACKWARD), share=0.9),
    Target("swiglu", (FORWARD, BACKWARD), share=0.9),
    Target("cross_entropy", (BOTH,), share=0.8),
    Target("adamw", ("step",), share=0.9),
)


@dataclass(frozen=True)
class Row:
    """One shape in one mode: seconds and share of the ceiling of the best of each."""

    op: str
    shape: str
    mode: str
    unit: str
    own: dict[str, tuple[float, float, float]]  # backend -> seconds, reached, share
    peer: tuple[str, float, float, float] | None  # the fastest: name, seconds, reached, share
    target: str
    met: bool | None  # None: there is no target, or nothing to hold to it


def rows_of(result: dict[str, Any]) -> Iterator[Row]:
    """The cells of an op's result."""
    for cell in result["cells"]:
        times = {row["name"]: row["median_s"] for row in timed(cell)}
        kinds = {row["name"]: row["kind"] for row in timed(cell)}
        own = {b: times[f"megafm {b}"] for b in OWN if f"megafm {b}" in times}
        peers = {name: s for name, s in times.items() if kinds[name] != "ours"}
        rates = {s: rate(result, cell, s) for s in times.values()}
        unit = next((unit for _, unit, _ in rates.values()), "")
        best = min(peers, key=lambda name: peers[name]) if peers else None
        target = _target(result["op"], cell["mode"], cell["shape"])
        yield Row(
            result["op"],
            cell["shape"],
            cell["mode"],
            unit,
            {b: (s, rates[s][0], rates[s][2]) for b, s in own.items()},
            best and (best, peers[best], rates[peers[best]][0], rates[peers[best]][2]),
            _described(target),
            _met(target, own, times, {s: r[2] for s, r in rates.items()}),
        )


def _target(op: str, mode: str, shape: str) -> Target | None:
    fitting = (t for t in TARGETS if t.op == op and mode in t.modes and shape.startswith(t.shapes))
    return next(fitting, None)


def _described(target: Target | None) -> str:
    if target is None:
        return ""
    return f"{target.share:.0%} of the ceiling" if target.share else f"1.0x {target.peer}"


def _met(
    target: Target | None,
    own: dict[str, float],
    times: dict[str, float],
    shares: dict[float, float],
) -> bool | None:
    if target is None or not own:
        return None
    ours = min(own.values())
    if target.share is not None:
        return shares[ours] >= target.share
    return times[target.peer] >= ours if target.peer in times else None


def read(folder: Path, pattern: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(pattern))]


def results(folder: Path) -> list[dict[str, Any]]:
    """Of the ops."""
    return [result for result in read(folder, "*.json") if "cells" in result]


def tables(folder: Path) -> str:
    """Markdown: ceilings, ops, steps, and what became of the parts."""
    found, steps = results(folder), read(folder, "step_*.json")
    parts = read(folder, "parts.json")
    blocks = [_head(found or steps), _ceilings(found), _ops(found), _steps(steps), _parts(parts)]
    return "\n\n".join(filter(None, blocks))


def _head(found: list[dict[str, Any]]) -> str:
    if not found:
        return "Nothing was measured."
    first = found[0]
    versions = ", ".join(f"{name} {v}" for name, v in first["versions"].items())
    return f"{first['hardware']['device']}, {first['date']}, commit {first['commit']}; {versions}."


def _ceilings(found: list[dict[str, Any]]) -> str:
    known = [ceiling for result in found for ceiling in result["ceilings"]]
    if not known:
        return ""
    copy = max(ceiling["copy_bytes_per_s"] for ceiling in known) / 1e12
    dtypes = {ceiling["dtype"] for ceiling in known}
    products = ", ".join(
        f"{max(c['matmul_flops_per_s'] for c in known if c['dtype'] == dtype) / 1e12:.0f} ({dtype})"
        for dtype in sorted(dtypes)
    )
    return f"Ceilings of these runs: copies {copy:.2f} TB/s, matrix products {products} TFLOP/s."


def _ops(found: list[dict[str, Any]]) -> str:
    if not found:
        return ""
    lines = [
        "| op | shape | mode | CUDA | Triton | best peer | peer / ours | target | met |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in found:
        for row in rows_of(result):
            own = [_cell(row.own.get(backend), row.unit) for backend in OWN]
            peer, ratio = "", ""
            if row.peer is not None:
                peer = f"{_cell(row.peer[1:], row.unit)} ({row.peer[0]})"
                if row.own:
                    ratio = f"{row.peer[1] / min(s for s, _, _ in row.own.values()):.2f}"
            met = "" if row.met is None else "yes" if row.met else "no"
            cells = [f"`{row.op}`", row.shape, row.mode, *own, peer, ratio, row.target, met]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + (
        "\n\nMedian ms, what was reached, and its share of the ceiling measured beside it; "
        "ours is the faster of CUDA and Triton. bwd is the backward alone."
    )


def _cell(measured: tuple[float, float, float] | None, unit: str) -> str:
    if measured is None:
        return ""
    seconds, reached, share = measured
    return f"{1e3 * seconds:.3g} ms, {reached:,.0f} {unit}, {share:.0%}"


def _steps(steps: list[dict[str, Any]]) -> str:
    if not steps:
        return ""
    lines = [
        "| training step | parameters | tokens/s | MFU | peak memory | target | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for step in steps:
        mfu, memory = step["mfu"], step["peak_memory_bytes"]
        ours = step["name"].startswith("megafm")
        cells = [
            step["name"],
            f"{step['parameters'] / 1e6:,.0f} M",
            f"{step['tokens_per_s']:,.0f}",
            "n/a" if mfu is None else f"{mfu:.1%}",
            "n/a" if memory is None else f"{memory / 2**30:.1f} GiB",
            f"MFU {STEP_TARGET:.0%}" if ours else "",
            "" if mfu is None or not ours else "yes" if mfu >= STEP_TARGET else "no",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _parts(records: list[dict[str, Any]]) -> str:
    if not records:
        return ""
    lines = ["| part | ended | seconds | of |", "|---|---|---|---|"]
    for part in records[0]["parts"]:
        lines.append(f"| {part['name']} | {part['status']} | {part['seconds']} | {part['limit']} |")
        if part["name"] == "tests" and part["last_lines"]:
            lines[-1] = lines[-1].replace("tests", f"tests: {part['last_lines'][-1].strip('= ')}")
    return "\n".join(lines)


def draw(folder: Path) -> None:
    """Shares of the ceiling, by op, shape and mode: CUDA, Triton and the best peer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [row for result in results(folder) for row in rows_of(result)]
    figure, panel = plt.subplots(figsize=(9, 0.32 * len(rows) + 1.5), layout="constrained")
    series = {
        "megafm cuda": [row.own.get("cuda") for row in rows],
        "megafm triton": [row.own.get("triton") for row in rows],
        "best peer": [row.peer and row.peer[1:] for row in rows],
    }
    for offset, (label, measured) in enumerate(series.items()):
        places = [y + 0.25 * offset for y in range(len(rows))]
        panel.barh(places, [m[2] if m else 0 for m in measured], 0.25, label=label)
    labels = [f"{row.op} {row.shape} {row.mode}" for row in rows]
    panel.set_yticks([y + 0.25 for y in range(len(rows))], labels, fontsize=7)
    panel.set_xlabel("share of the ceiling measured in the same run")
    panel.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(folder / PICTURE, dpi=110)
    plt.close(figure)


def main() -> None:
    folder = Path(sys.argv[1])
    text = tables(folder)
    (folder / "summary.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    if results(folder):
        draw(folder)


if __name__ == "__main__":
    main()
