"""A pool of processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import Progress, TaskID

from megafm import cpus
from megafm.data.config import Executor
from megafm.data.stages.stage import Stage, Unit


class StageFailed(ValueError):
    """Some units failed; names each with its own error."""


@dataclass(frozen=True)
class Failure:
    """`final`: another attempt would fail likewise, as the settings are at fault."""

    message: str
    final: bool


def run(stages: Sequence[Stage], config: Executor) -> None:
    """Do what is not done yet of all stages.

    Raises:
        StageFailed: after all other units of the stage are done.
    """
    console = Console(stderr=True)
    with (
        Progress(console=console, disable=not console.is_terminal) as progress,
        _Workers(config.workers or cpus.num_cpus()) as workers,
    ):
        for stage in stages:
            units = stage.pending()
            bar = progress.add_task(stage.name, total=len(units))
            failed = _attempt(stage, units, workers, progress, bar)
            for _ in range(config.retries):
                again = [unit for unit, failure in failed.items() if not failure.final]
                for unit in again:  # alone: it may have taken a worker and its neighbours along
                    del failed[unit]
                    failed |= _attempt(stage, [unit], workers, progress, bar)
            if failed:
                raise StageFailed(_describe(stage, len(units), failed))


def _attempt(
    stage: Stage, units: list[Unit], workers: _Workers, progress: Progress, bar: TaskID
) -> dict[Unit, Failure]:
    """Try each unit once; returns those that failed."""
    failed = {}
    for unit, failure in workers.map(stage, units):
        if failure is None:
            progress.advance(bar)
        else:
            failed[unit] = failure
    return failed


class _Workers:
    """Processes that are started when there is more than one unit to do, and kept."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> _Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def map(self, stage: Stage, units: list[Unit]) -> Iterator[tuple[Unit, Failure | None]]:
        """Each unit as soon as it is done or has failed."""
        if self._count == 1 or (len(units) == 1 and self._pool is None):
            yield from ((unit, run_unit(stage, unit)) for unit in units)
            return
        waiting = list(reversed(units))
        running: dict[Future[Failure | None], Unit] = {}
        while waiting or running:
            while waiting and len(running) < self._count:
                unit = waiting.pop()
                running[self._submit(stage, unit)] = unit
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), self._result(future)

    def _submit(self, stage: Stage, unit: Unit) -> Future[Failure | None]:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._count, context, _end_with_parent)
        try:
            return self._pool.submit(run_unit, stage, unit)
        except BrokenProcessPool:
            self._close()
            return self._submit(stage, unit)

    def _result(self, future: Future[Failure | None]) -> Failure | None:
        try:
            return future.result()
        except BrokenProcessPool:
            self._close()
            return Failure("a worker process was killed; is there enough memory?", final=False)

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None


def run_unit(stage: Stage, unit: Unit) -> Failure | None:
    """Do a unit; returns why it failed."""
    try:
        stage.run_unit(unit)
    except Exception as error:
        return Failure(f"{type(error).__name__}: {error}", final=isinstance(error, ValueError))
    return None


def _end_with_parent() -> None:
    """A worker would wait for work for ever after its parent was killed."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _describe(stage: Stage, count: int, failed: dict[Unit, Failure]) -> str:
    named = "; ".join(f"{unit.name}: {failure.message}" for unit, failure in failed.items())
    return f"stage {stage.name}: {len(failed)} of {count} shards failed: {named}"
