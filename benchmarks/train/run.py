"""The suite: every provider in processes of its own, asked for a step in turn.

One core is one thread. Two cores are two threads, or two ranks of one thread that average their
gradients over gloo; whichever is faster counts, for each provider. All run under the allocator
that `megafm train` sets, which is the better one for all.
"""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.machine import ROOT, provenance, slug
from benchmarks.train import report
from benchmarks.train.providers import FULL, NAMES, OURS, QUICK, missing
from benchmarks.worker import CLOCK, TUNED_MALLOC, Worker, WorkerError
from megafm.bench import BenchJob, choose
from megafm.model import num_parameters

ROUNDS = 7
FAR_BEHIND = 1.3  # times the fastest peer so far: one step of such a peer is enough
LAYOUTS = {1: ((1, 1),), 2: ((2, 1), (1, 2))}  # cores -> (threads, ranks)


@dataclass
class Entrant:
    """A provider under one layout: its ranks, and what they measured."""

    name: str
    threads: int
    ranks: int
    workers: list[Worker]
    seconds: list[float]
    losses: list[float]

    def ask(self, request: str, **arguments: Any) -> list[Any]:
        """Of all ranks at once; their answers."""
        for worker in self.workers:
            worker.send(request, **arguments)
        return [worker.receive() for worker in self.workers]

    def step(self) -> None:
        answers = self.ask("step")
        self.seconds.append(max(answer["seconds"] for answer in answers))
        self.losses.append(sum(answer["loss"] for answer in answers) / self.ranks)

    def close(self) -> None:
        for worker in self.workers:
            worker.close()


def run(job: BenchJob) -> None:
    """Measure, write JSON and PNG, print the table and what became of the bars."""
    names = choose(job.only, NAMES)
    device = torch.device("cpu")
    console = Console()
    size = QUICK if job.quick else FULL
    result = provenance(device) | {
        "clock": job.clock,
        "parameters": num_parameters(size.model),
        "cases": [],
    }
    result |= {"tokens_per_step": size.batch * size.seq_len, "missing": {}}
    for dtype in job.dtypes:
        for cores in job.threads:
            if cores not in LAYOUTS:
                raise ValueError(f"threads=[{cores}]: the suite has layouts for 1 and 2 cores")
            result["cases"] += measure(names, cores, dtype, job, result, console)
    result["bars"] = report.verdicts(result)
    out = Path(job.out) if job.out else ROOT / "benchmarks" / "results" / "train"
    report.write(result, out / f"llama_10m_{slug(device)}.json")
    report.show(result, console)


def measure(
    names: tuple[str, ...],
    cores: int,
    dtype: str,
    job: BenchJob,
    result: dict[str, Any],
    console: Console,
) -> list[dict[str, Any]]:
    """Interleaved steps of all providers and layouts on so many cores."""
    entrants: list[Entrant] = []
    with contextlib.ExitStack() as stack:
        for name in names:
            for threads, ranks in LAYOUTS[cores]:
                entrant = _start(name, threads, ranks, dtype, job, result, console)
                if entrant is not None:
                    stack.callback(entrant.close)
                    entrants.append(entrant)
                for slow in filter(lambda e: _far_behind(e, entrants), entrants):
                    slow.close()  # at once: together they would not fit into the memory
        running = [e for e in entrants if not _far_behind(e, entrants)]
        for index in range(1 if job.quick else ROUNDS):
            for entrant in running[index % len(running) :] + running[: index % len(running)]:
                entrant.step()
            console.print(
                f"  {dtype}, {cores} cores: round {index + 1} of {ROUNDS}", highlight=False
            )
        return [_case(entrant, cores, dtype) for entrant in entrants]


def _start(
    name: str,
    threads: int,
    ranks: int,
    dtype: str,
    job: BenchJob,
    result: dict[str, Any],
    console: Console,
) -> Entrant | None:
    """Built, checked and warmed up; None where it cannot run, and `result` says why."""
    label = f"{name}, {threads} threads x {ranks} ranks"
    reason = missing(name)
    if reason is None:
        entrant = Entrant(name, threads, ranks, _spawn(threads, ranks, job.clock), [], [])
        try:
            started = time.monotonic()
            counts = entrant.ask("build", name=name, dtype=dtype, quick=job.quick)
            if set(counts) == {result["parameters"]}:
                entrant.step()
                entrant.step()
                entrant.seconds, entrant.losses = entrant.seconds[1:], entrant.losses[1:]
                took = time.monotonic() - started
                console.print(
                    f"  {label}: {entrant.seconds[0]:.2f} s a step ({took:.0f} s to start)"
                )
                return entrant
            reason = f"{counts[0]} parameters instead of {result['parameters']}"
        except WorkerError as error:
            reason = str(error).strip().splitlines()[-1]
        entrant.close()
    result["missing"][f"{label}, {dtype}"] = reason
    console.print(f"  {label}: not measured: {reason}", markup=False)
    return None


def _spawn(threads: int, ranks: int, clock: str) -> list[Worker]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = TUNED_MALLOC | {
        "BENCH_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
        CLOCK: clock,
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return [
        Worker("benchmarks.train.worker", common | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(ranks)
    ]


def _far_behind(entrant: Entrant, entrants: list[Entrant]) -> bool:
    if entrant.name == OURS:
        return False
    return entrant.seconds[0] > FAR_BEHIND * min(e.seconds[0] for e in entrants if e.name != OURS)


def _case(entrant: Entrant, cores: int, dtype: str) -> dict[str, Any]:
    case = {
        "name": entrant.name,
        "cores": cores,
        "threads": entrant.threads,
        "ranks": entrant.ranks,
        "dtype": dtype,
        "seconds": entrant.seconds,
        "losses": entrant.losses,
    }
    if entrant.name == OURS and entrant.ranks == 1:
        case["profile"] = entrant.ask("profile")[0]
    return case
