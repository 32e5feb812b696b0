from __future__ import annotations

import pytest

from benchmarks.worker import Worker, WorkerError


def test_a_worker_reports_what_its_handler_raised() -> None:
    with Worker("benchmarks.ops.memory", {}) as worker:
        with pytest.raises(WorkerError, match="KeyError"):
            worker.ask("no_such_request")
        with pytest.raises(WorkerError, match="TypeError"):
            worker.ask("peak", no_such_argument=1)


def test_a_worker_that_dies_leaves_its_last_words() -> None:
    missing = "No module named benchmarks.no_such_module"
    with (
        Worker("benchmarks.no_such_module", {}) as worker,
        pytest.raises(WorkerError, match=missing),
    ):
        worker.ask("anything")
