"""Peak memory of every stage of `megafm data` on a corpus and on one four times as large.

    python -m benchmarks.data.memory --megabytes 128

One process does all units, so that its peak (VmHWM, reset before each stage) is that of the
largest unit. Writes benchmarks/results/data/memory.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import re
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import provenance, write_result
from megafm.data import inputs
from megafm.data.config import DataJob, Executor, Source, Steps
from megafm.data.executors import run
from megafm.data.prepare import finish
from megafm.data.stages import pipeline
from megafm.data.stages.stage import stages_folder
from megafm.data.steps.registry import CORPUS
from megafm.data.tokenization import tokenize
from megafm.paths import DataDir
from megafm.tokenizer import train

FILE_BYTES = 16_000_000
TIMES = 4


def write_corpus(folder: Path, num_bytes: int) -> None:
    """JSON lines of made-up words, 3 kB a document; of twenty one is a copy and one nearly so."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(50_000)]
    folder.mkdir(parents=True)
    text = ""
    for number in range(-(-num_bytes // FILE_BYTES)):
        with (folder / f"{number:05}.jsonl").open("w") as lines:
            while lines.tell() < FILE_BYTES:
                kind = rng.random()
                if kind < 0.05:
                    text += " and one more word"
                elif kind > 0.1:
                    text = " ".join(rng.choices(words, k=500))
                lines.write(json.dumps({"text": text}) + "\n")


def measure(corpus: str, data_dir: str, queue: Any) -> None:
    """In a process of its own: the peak of each stage in bytes, its seconds and its units."""
    job = DataJob(
        data=DataDir(data_dir),
        source=Source(kind="jsonl", path=corpus, max_document_bytes=1_000_000),
        executor=Executor(workers=1),
    )
    rows = _stages(job)
    steps = Steps(corpus={name: {} for name in CORPUS})  # which leave less to the other stages
    rows |= _stages(replace(job, steps=steps, data=DataDir(f"{data_dir}_corpus")), last="score")
    started = _reset()
    manifest = finish(job)
    rows["publish"] = _row(started)
    texts = (" ".join(str(n) for n in range(i, i + 200)) for i in range(50))
    tokenizer = train(texts, 300)
    started = _reset()
    tokenize(data_dir, tokenizer, say=lambda text: None, executor=job.executor)
    rows["tokenize"] = _row(started)
    queue.put({"documents": {n: s.documents for n, s in manifest.splits.items()}, "stages": rows})


def _stages(job: DataJob, last: str = "") -> dict[str, dict[str, Any]]:
    rows = {}
    inputs.save(inputs.list_inputs(job.source), stages_folder(job.data.dir))
    for stage in pipeline(job):
        if stage.name == last:
            break
        started = _reset()
        run([stage], job.executor)
        rows[stage.name] = _row(started) | {"units": len(stage.names())}
    return rows


def _reset() -> float:
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    return time.perf_counter()


def _row(started: float) -> dict[str, Any]:
    status = Path("/proc/self/status").read_text()
    peak = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024
    return {"peak_mib": round(peak / 2**20, 1), "seconds": round(time.perf_counter() - started, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of the stages at 1x and 4x.")
    parser.add_argument("--megabytes", type=int, default=128)
    options = parser.parse_args()
    runs = []
    for times in (1, TIMES):
        with tempfile.TemporaryDirectory() as folder:
            write_corpus(Path(folder) / "corpus", times * options.megabytes * 10**6)
            context = multiprocessing.get_context("spawn")
            queue = context.Queue()
            arguments = (f"{folder}/corpus", f"{folder}/data", queue)
            process = context.Process(target=measure, args=arguments)
            process.start()
            found = queue.get()
            process.join()
        runs.append({"megabytes": times * options.megabytes} | found)
    for name, row in runs[0]["stages"].items():
        print(
            f"{name:10} {row['peak_mib']:8.1f} MiB {runs[1]['stages'][name]['peak_mib']:8.1f} MiB"
        )
    write_result("data/memory", provenance(torch.device("cpu")) | {"runs": runs})


if __name__ == "__main__":
    main()
