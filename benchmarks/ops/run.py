"""The suite: every case of every op asked for, measured in interleaved rounds.

On a CPU there are two measuring processes per number of threads, one with glibc's allocator as it
comes and one tuned to keep freed memory, and both stand side by side in every round: the tunables
alone make some of torch's ops several times faster, so a peer is taken at its better setting.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.machine import ROOT, provenance, slug
from benchmarks.ops import OPS, figure, load, memory, report
from benchmarks.ops.op import DTYPES, Op
from benchmarks.worker import CLOCK, TUNED_MALLOC, Worker
from megafm.bench import BenchJob, choose
from megafm.device import resolve_device
from megafm.ops import auto

MIN_ROUNDS, MAX_ROUNDS = 5, 200
FAR_BEHIND = 5  # times the fastest: two rounds of such a provider are enough
PREPARE_SECONDS = 12  # roughly, a shape and dtype at one number of threads: compile and check


def run(job: BenchJob) -> None:
    """Measure, write JSON, CSV and PNG per op, print the table and what became of the bars."""
    device = resolve_device(job.device)
    names = choose(job.only, OPS)
    out = Path(job.out) if job.out else ROOT / "benchmarks" / "results" / "ops"
    console = Console()
    console.print(f"{_estimate(job, names, device):.0f} minutes, about; results in {out}")
    with _progress(console) as progress:
        total = sum(_num_cells(job, load(name), device) for name in names)
        task = progress.add_task("starting", total=total)
        for name in names:
            path = out / f"{name}_{slug(device)}.json"
            result = measure(job, load(name), device, path, progress, task)
            report.write(result, path)
            figure.draw(result, path.with_suffix(".png"))
            report.show(result, console)


def measure(
    job: BenchJob, op: Op, device: torch.device, path: Path, progress: Progress, task: Any
) -> dict:
    """The result of one op, as its JSON file holds it; written there after every shape too."""
    result = (
        {"op": op.name, "clock": job.clock} | provenance(device) | {"ceilings": [], "cells": []}
    )
    result["auto"] = auto.described(op.name, device.type)
    shapes = op.shapes_on(device, job.quick)
    for threads in _threads(job, device):
        with _workers(device, threads, job.clock) as workers:
            for dtype in _dtypes(job, op):
                ceiling = workers["tuned"].ask("ceilings", dtype=dtype)
                result["ceilings"].append({"threads": threads, "dtype": dtype} | ceiling)
                for shape, sizes in shapes.items():
                    case = {"shape": shape, "dtype": dtype}
                    states = _prepare(workers, op, case, job)
                    for mode in op.modes_of(shape, device):
                        label = f"{op.name} {shape} {dtype} {threads} threads {mode}"
                        progress.update(task, description=label)
                        samples = _sample(workers, states, mode, job)
                        work = op.work_of(sizes, DTYPES[dtype].itemsize, mode)
                        cell = case | {"threads": threads, "mode": mode, "sizes": dict(sizes)}
                        cell |= {"bytes": work.bytes, "flops": work.flops}
                        cell["providers"] = _statistics(samples, states)
                        result["cells"].append(cell)
                        progress.advance(task)
                    report.write(result, path)
    on_cpu = op.name == memory.OP and device.type == "cpu"
    result["memory"] = memory.measure(job.quick) if on_cpu else None
    result["bars"] = report.verdicts(result)
    return result


def _threads(job: BenchJob, device: torch.device) -> tuple[int, ...]:
    return job.threads if device.type == "cpu" else (1,)


def _dtypes(job: BenchJob, op: Op) -> list[str]:
    return [dtype for dtype in job.dtypes if dtype in op.dtypes]


@contextlib.contextmanager
def _workers(device: torch.device, threads: int, clock: str) -> Iterator[dict[str, Worker]]:
    """Measuring processes by allocator setting; a GPU has an allocator of its own."""
    settings = {"tuned": TUNED_MALLOC}
    if device.type == "cpu":
        settings["default"] = {}
    common = {"BENCH_DEVICE": str(device), "BENCH_THREADS": str(threads)}
    common |= {"OMP_NUM_THREADS": str(threads), CLOCK: clock}
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(Worker("benchmarks.ops.worker", common | environment))
            for name, environment in settings.items()
        }


def _prepare(workers: dict[str, Worker], op: Op, case: dict, job: BenchJob) -> dict[str, Any]:
    """provider -> kind and error, as the worker says. One process checks: the code is the same."""
    arguments = case | {"op": op.name, "quick": job.quick, "wanted": list(job.providers)}
    states: dict[str, Any] = {}
    for index, worker in enumerate(workers.values()):
        for name, state in worker.ask("prepare", check=index == 0, **arguments).items():
            if name not in states or state["error"]:
                states[name] = state
    return states


def _sample(
    workers: dict[str, Worker], states: dict[str, Any], mode: str, job: BenchJob
) -> dict[tuple[str, str], list[float]]:
    """(provider, allocator) -> seconds of each round, until the case's time is spent."""
    names = [name for name, state in states.items() if state["error"] is None]
    samples: dict[tuple[str, str], list[float]] = {(n, w): [] for n in names for w in workers}
    if not names:
        return samples
    least, most = (2, 2) if job.quick else (MIN_ROUNDS, MAX_ROUNDS)
    _round(workers, names, mode)  # warm up
    deadline = time.monotonic() + job.seconds
    for index in range(most):
        if index >= least and time.monotonic() > deadline:
            break
        for key, seconds in _round(workers, names, mode).items():
            samples[key].append(seconds)
        if index == 1:
            best = {name: min(min(samples[name, w]) for w in workers) for name in names}
            limit = FAR_BEHIND * min(best.values())
            names = [name for name in names if best[name] <= limit]
    return samples


def _round(workers: dict[str, Worker], names: list[str], mode: str) -> dict[tuple[str, str], float]:
    return {
        (name, setting): seconds
        for setting, worker in workers.items()
        for name, seconds in worker.ask("round", mode=mode, names=names).items()
    }


def _statistics(
    samples: dict[tuple[str, str], list[float]], states: dict[str, Any]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"name": name} | state for name, state in states.items() if state["error"]
    ]
    for (name, malloc), seconds in samples.items():
        low, median, high = quantiles(seconds)
        rows.append(
            {
                "name": name,
                "kind": states[name]["kind"],
                "malloc": malloc,
                "rounds": len(seconds),
                "median_s": median,
                "q20_s": low,
                "q80_s": high,
            }
        )
    return rows


def quantiles(seconds: list[float]) -> tuple[float, float, float]:
    """The 20% quantile, the median and the 80% quantile, interpolated."""
    fifths = statistics.quantiles(seconds, n=5, method="inclusive")
    return fifths[0], statistics.median(seconds), fifths[-1]


def _num_cases(job: BenchJob, op: Op, device: torch.device) -> int:
    """Combinations of dtype and number of threads: each shape is prepared once in each."""
    return len(_dtypes(job, op)) * len(_threads(job, device))


def _num_cells(job: BenchJob, op: Op, device: torch.device) -> int:
    shapes = op.shapes_on(device, job.quick)
    num_modes = sum(len(op.modes_of(shape, device)) for shape in shapes)
    return _num_cases(job, op, device) * num_modes


def _estimate(job: BenchJob, names: tuple[str, ...], device: torch.device) -> float:
    """Minutes."""
    seconds = 0.0
    for op in map(load, names):
        shapes = op.shapes_on(device, job.quick)
        seconds += _num_cases(job, op, device) * len(shapes) * PREPARE_SECONDS
        seconds += 0.0 if job.quick else _num_cells(job, op, device) * job.seconds
    return seconds / 60


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
