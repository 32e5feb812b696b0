from __future__ import annotations

from pathlib import Path

import pytest

from megafm.data.config import Executor
from megafm.data.executors import StageFailed, run
from tests.data.executors.flaky import Flaky, tried


def test_what_fails_is_tried_again_and_then_named(tmp_path: Path) -> None:
    stage = Flaky(tmp_path, ("broken", "once", "good", "wrong"))
    with pytest.raises(StageFailed) as failure:
        run([stage], Executor(workers=1, retries=2))
    message = str(failure.value)
    assert message.startswith("stage flaky: 2 of 4 shards failed: ")
    assert "broken: OSError: [Errno 5] Input/output error: 'disk'" in message
    assert "wrong: ValueError: source.fields.text=body" in message
    assert [tried(tmp_path, unit) for unit in stage.names()] == [3, 2, 1, 1]
    assert [unit.name for unit in stage.pending()] == ["broken", "wrong"]


def test_a_unit_that_kills_its_worker_costs_nobody_else(tmp_path: Path) -> None:
    stage = Flaky(tmp_path, ("a", "deadly", "killed", "wrong", "b"))
    with pytest.raises(StageFailed) as failure:
        run([stage], Executor(workers=2, retries=1))
    message = str(failure.value)
    assert "2 of 5 shards failed" in message
    assert "deadly: a worker process was killed" in message
    assert "wrong: ValueError: source" in message
    assert tried(tmp_path, "killed") == 2
    assert tried(tmp_path, "deadly") in (2, 3)  # with others, unless one killed it first; alone
    assert [unit.name for unit in stage.pending()] == ["deadly", "wrong"]


def test_the_neighbours_of_a_killed_worker_lose_no_attempt(tmp_path: Path) -> None:
    stage = Flaky(tmp_path, ("a", "b", "deadly", "c", "d", "e"))
    with pytest.raises(StageFailed, match="1 of 6 shards failed: deadly"):
        run([stage], Executor(workers=3, retries=0))
    assert [unit.name for unit in stage.pending()] == ["deadly"]
