"""What was measured of the data pipeline, as the README's table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEAD = [
    "| | megafm | best peer | bar |",
    "|---|---|---|---|",
]


def table(results: Path) -> str:
    """Rows of the results that were committed under `results`/data and `results`/tokenizer."""
    found = {
        kind: json.loads(path.read_text(encoding="utf-8"))
        for kind, path in _newest(results).items()
    }
    rows = [row for kind, of in ROWS.items() if kind in found for row in of(found[kind])]
    if not rows:
        return "Not yet measured on a quiet machine."
    devices = sorted({result["hardware"]["device"] for result in found.values()})
    return "\n".join([*HEAD, *rows]) + (
        f"\n\nOn {', '.join(devices)}: the tokenizer on all cores, the others on one, the "
        "loader beside steps of a million tokens a second. From `benchmarks/results/data` and "
        "`benchmarks/results/tokenizer`, which hold every step."
    )


def _newest(results: Path) -> dict[str, Path]:
    return {
        kind: path for kind, pattern in PATTERNS.items() for path in sorted(results.glob(pattern))
    }


def _minhash(result: dict[str, Any]) -> Iterator[str]:
    ours, *peers = sorted(result["cases"], key=lambda case: case["name"] != "megafm")
    best = max(peers, key=lambda case: case["docs_per_s"])
    ratio, bar = result["bar"]["ratio"], result["bar"]["bar"]
    yield (
        f"| MinHash, from text to signature | {ours['docs_per_s']:,} documents/s "
        f"| {best['docs_per_s']:,} ({best['name']}) | {ratio:.1f} of {bar:.0f} times |"
    )


def _steps(result: dict[str, Any]) -> Iterator[str]:
    speeds = {case["name"]: case["mb_per_s"] for case in result["cases"]}
    for name, ours in speeds.items():
        peer = speeds.get(f"datatrove {name}")
        if peer is not None:
            yield f"| `{name}` | {ours:.1f} MB/s | {peer:.1f} (datatrove) | |"


def _tokenizer(result: dict[str, Any]) -> Iterator[str]:
    cases = {
        "train": "training",
        "encode": "encoding",
        "encode_cl100k_base": "encoding by gigatoken",
    }
    for name in (name for name in cases if name in result):
        speeds, bar = result[name], result[name]["bar"]
        yield (
            f"| byte-level BPE, {cases[name]} | {speeds['megafm']['mb_per_s']:.1f} MB/s "
            f"| {speeds['tokenizers']['mb_per_s']:.1f} (tokenizers) "
            f"| {bar['ratio']:.2f} of {bar['bar']:.2f} times |"
        )


def _loader(result: dict[str, Any]) -> Iterator[str]:
    worst, bar = result["bar"]["wait_share"], result["bar"]["bar"]
    yield f"| wait for the loader, of a step | {worst:.2%} | | at most {bar:.0%} |"


ROWS = {"minhash": _minhash, "steps": _steps, "tokenizer": _tokenizer, "loader": _loader}
PATTERNS = {
    "minhash": "data/minhash_*.json",
    "steps": "data/steps_*.json",
    "tokenizer": "tokenizer/*.json",
    "loader": "data/loader_*.json",
}
