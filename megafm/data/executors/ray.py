"""Tasks of a Ray cluster, or of a Ray that is started here."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from megafm import cpus
from megafm.data.config import Executor
from megafm.data.executors.loop import Failure, run_unit
from megafm.data.stages.stage import Stage, Unit


class RayWorkers:
    """
    Raises:
        ValueError: ray is not installed.
    """

    def __init__(self, config: Executor) -> None:
        try:
            self._ray = importlib.import_module("ray")
        except ImportError as error:
            raise ValueError(
                f"executor.kind=ray: ray does not load ({error}); run: pip install 'megafm[ray]', "
                "or set executor=local"
            ) from error
        self._own = not self._ray.is_initialized()
        if self._own:
            here = config.address is None
            self._ray.init(
                address="local" if here else config.address,
                num_cpus=(config.workers or cpus.num_cpus()) if here else None,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
            )
        self._count = config.workers or int(self._ray.cluster_resources()["CPU"])
        self._task = self._ray.remote(max_retries=0)(_run_unit)  # `run_stages` tries again

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._own:
            self._ray.shutdown()

    def map(self, stage: Stage, units: list[Unit]) -> Iterator[tuple[Unit, Failure | None]]:
        waiting = list(reversed(units))
        shared = self._ray.put(stage)
        running: dict[Any, Unit] = {}
        while waiting or running:
            while waiting and len(running) < self._count:
                unit = waiting.pop()
                running[self._task.remote(os.getcwd(), shared, unit)] = unit
            done, _ = self._ray.wait(list(running))
            for task in done:
                yield running.pop(task), self._result(task)

    def _result(self, task: object) -> Failure | None:
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            first = str(error).strip().splitlines()[0]
            return Failure(f"{type(error).__name__}: {first}", final=False)


def _run_unit(folder: str, stage: Stage, unit: Unit) -> Failure | None:
    """In the driver's folder, to which every path of a setting that is not absolute refers."""
    try:
        os.chdir(folder)
    except OSError as error:
        return Failure(
            f"{folder}: {error.strerror}: a node does not have the folder that the job was started "
            "in; start it in one that all nodes share",
            final=True,
        )
    return run_unit(stage, unit)
