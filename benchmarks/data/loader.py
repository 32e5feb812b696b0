"""The loader beside a step that takes a million tokens a second: how long the step waits for data.

    python -m benchmarks.data.loader

A shard of made-up documents is read as a training run does, as windows, packed documents and a
blend of both halves; between batches the process sleeps, as while a device works, so long that all
in all it would see a million tokens a second. Two figures each: tokens per second with nothing
between the batches, and the share of the time that `batch` took of a step, one batch ahead as in
training. Writes benchmarks/results/data/loader_MACHINE.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import provenance, slug, write_result
from megafm.data import IndexedDatasetWriter, Samples, TrainingData, training_samples
from megafm.data.ahead import Ahead
from megafm.data.config import BlendPart

RATE = 1e6  # tokens a second, of a process
SEQ_LEN, BATCH = 2048, 8
BAR = 0.01


def write_shards(folder: Path, num_tokens: int) -> list[Path]:
    """Two folders with a train shard of uneven documents each."""
    rng = np.random.default_rng(0)
    folders = [folder / name for name in ("web", "code")]
    for one in folders:
        one.mkdir()
        with IndexedDatasetWriter(one / "train", np.uint16) as writer:
            left = num_tokens // 2
            while left > 0:
                count = min(left, int(rng.lognormal(6, 1)) + 2)
                writer.add_document(rng.integers(0, 50_000, count))
                left -= count
    return folders


def kinds(folders: list[Path]) -> dict[str, TrainingData]:
    web, code = map(str, folders)
    blend = (BlendPart(web, 0.7), BlendPart(code, 0.3))
    return {
        "windows": TrainingData(web),
        "packed": TrainingData(web, packing="best_fit"),
        "blend of windows": TrainingData(web, blend),
        "blend of packed": TrainingData(web, blend, "best_fit"),
    }


def throughput(samples: Samples, seconds: float) -> float:
    """Tokens a second of one thread, nothing between the batches."""
    samples.batch(0, BATCH)
    started, first = time.perf_counter(), BATCH
    while time.perf_counter() - started < seconds:
        samples.batch(first, BATCH)
        first += BATCH
    return (first - BATCH) * SEQ_LEN / (time.perf_counter() - started)


def wait_share(samples: Samples, seconds: float) -> float:
    """Time in `batch` over time in all, in steps of BATCH x SEQ_LEN / RATE seconds."""
    step = BATCH * SEQ_LEN / RATE
    waits, first = [], 0
    for _ in range(max(4, int(seconds / step))):
        started = time.perf_counter()
        samples.batch(first, BATCH)
        waits.append(time.perf_counter() - started)
        time.sleep(max(0.0, step - waits[-1]))
        first += BATCH
    return sum(waits[2:]) / (len(waits[2:]) * step)  # the first two are made when asked for


def main() -> None:
    parser = argparse.ArgumentParser(description="The loader at a million tokens a second.")
    parser.add_argument("--tokens", type=int, default=200_000_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, data in kinds(write_shards(Path(folder), options.tokens)).items():
            samples = training_samples(data, SEQ_LEN, 1)
            case = {
                "name": name,
                "tokens_per_s": round(throughput(samples, options.seconds)),
                "wait_share": round(wait_share(Ahead(samples), options.seconds), 5),
                "wait_share_not_ahead": round(wait_share(samples, options.seconds), 5),
            }
            cases.append(case)
            print(
                f"{name:18} {case['tokens_per_s'] / 1e6:8.1f} M tokens/s, waits "
                f"{case['wait_share']:.3%} of a step, {case['wait_share_not_ahead']:.3%} if the "
                "batch is not made ahead"
            )
    worst = max(case["wait_share"] for case in cases)
    print(f"largest wait {worst:.3%} (bar {BAR:.0%})")
    found = {
        **provenance(torch.device("cpu")),
        "tokens": options.tokens,
        "seq_len": SEQ_LEN,
        "batch": BATCH,
        "rate": RATE,
        "cases": cases,
        "bar": {"wait_share": worst, "bar": BAR},
    }
    write_result(f"data/loader_{slug(torch.device('cpu'))}", found)


if __name__ == "__main__":
    main()
