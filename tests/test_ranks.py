"""The pool of ranks outlives ranks that are killed."""

from __future__ import annotations

import os
import signal

import pytest

from tests.ranks import RankPool


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def world_size() -> int:
    return int(os.environ["WORLD_SIZE"])


def test_a_rank_that_is_killed_fails_one_run_alone() -> None:
    pool = RankPool()
    try:
        with pytest.raises(AssertionError, match="a rank has died"):
            pool.run(die, 2)
        assert pool.run(world_size, 2) == [2, 2]
        for process, _ in pool._workers:
            process.kill()
            process.join()
        with pytest.raises(AssertionError, match="a rank has died"):
            pool.run(world_size, 2)
        assert pool.run(world_size, 2) == [2, 2]
    finally:
        pool.close()
