"""The text that a benchmark reads, and providers that take turns with it."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.worker import clock


def read_texts(path: Path) -> list[str]:
    """Of a file with a document a line, {"text": ...}."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def identity(path: Path, texts: list[str]) -> dict[str, Any]:
    """What a result says of its text."""
    return {
        "name": path.name,
        "documents": len(texts),
        "bytes": num_bytes(texts),
        "sha256": hashlib.sha256("\0".join(texts).encode()).hexdigest(),
    }


def num_bytes(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def take_turns(
    providers: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each provider in each round, after one that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in providers}
    for number in range(rounds + 1):
        for name, run in providers.items():
            started = clock()
            run()
            if number > 0:
                seconds[name].append(clock() - started)
    return seconds


def throughputs(seconds: dict[str, list[float]], texts: list[str]) -> list[dict[str, Any]]:
    """A case for each provider, by its median."""
    size, cases = num_bytes(texts), []
    for name, times in seconds.items():
        median = statistics.median(times)
        cases.append(
            {
                "name": name,
                "docs_per_s": round(len(texts) / median),
                "mb_per_s": round(size / median / 1e6, 2),
                "seconds": [round(time, 5) for time in times],
            }
        )
    return cases
