"""A pool of processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType

from megafm.data.executors.loop import Failure, run_unit
from megafm.data.stages.stage import Stage, Unit

KILLED = "a worker process was killed; is there enough memory?"


class LocalWorkers:
    """Processes that are started when there is more than one unit to do, and kept."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool: ProcessPoolExecutor | None = None
        self._started = False

    def __enter__(self) -> LocalWorkers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def map(self, stage: Stage, units: list[Unit]) -> Iterator[tuple[Unit, Failure | None]]:
        """What is under way when a process is killed is done again, one unit at a time: one that
        kills its process is known by that, and the others have lost no attempt."""
        # Alone here, if it is not known to kill its process.
        if self._count == 1 or (len(units) == 1 and not self._started):
            yield from ((unit, run_unit(stage, unit)) for unit in units)
            return
        waiting, suspects = list(reversed(units)), list[Unit]()
        running: dict[Future[Failure | None], Unit] = {}
        while waiting or running or suspects:
            queue, room = (suspects, 1) if suspects else (waiting, self._count)
            while queue and len(running) < room:
                unit = queue.pop()
                running[self._submit(stage, unit)] = unit
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            try:
                for future in done:
                    result = future.result()
                    yield running.pop(future), result
            except BrokenProcessPool:
                self._close()
                if len(running) == 1:
                    yield running.popitem()[1], Failure(KILLED, final=False)
                suspects += running.values()
                running.clear()

    def _submit(self, stage: Stage, unit: Unit) -> Future[Failure | None]:
        if self._pool is None:
            self._started = True
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._count, context, _end_with_parent)
        try:
            return self._pool.submit(run_unit, stage, unit)
        except BrokenProcessPool:
            self._close()
            return self._submit(stage, unit)

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None


def _end_with_parent() -> None:
    """A worker would wait for work for ever after its parent was killed."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
