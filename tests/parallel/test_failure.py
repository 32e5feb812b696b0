"""Who speaks when a rank is lost: on a store in memory, as the ranks would share it."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest
import torch
import torch.distributed as dist

from megafm import errors
from megafm.parallel import collectives, failure
from megafm.parallel.failure import FailureWatch

CLOSED = "[pair.cc:553] Connection closed by peer [127.0.0.1]:37531"
NCCL = "NCCL error: remote process exited or there was a network error"
TIMED_OUT = "[unbound_buffer.cc:81] Timed out waiting 5000ms for recv operation to complete"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure, "ANSWER_S", 0.0)
    monkeypatch.setattr(errors, "QUIET_S", 0.0)
    monkeypatch.setattr(errors.signal, "signal", lambda *_: signal.SIG_DFL)


@pytest.fixture
def store() -> Iterator[dist.Store]:
    yield dist.HashStore()


def watch(store: dist.Store, rank: int) -> FailureWatch:
    return FailureWatch(store, rank, world_size=3, timeout_s=1.0)


@pytest.mark.parametrize("message", [CLOSED, NCCL, TIMED_OUT, "its own fault"])
def test_after_the_first_rank_has_spoken_the_others_end_quietly(
    message: str, store: dist.Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match="out of range"), watch(store, 1):
        raise RuntimeError("index out of range")
    with pytest.raises(SystemExit), watch(store, 0):
        raise RuntimeError(message)
    assert capsys.readouterr() == ("", "")


def test_another_host_says_once_whose_fault_it_is(
    store: dist.Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError), watch(store, 1):
        raise ValueError("loss=nan at step 3")
    monkeypatch.setenv("GROUP_RANK", "1")
    monkeypatch.setenv("RANK", "2")
    for local_rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", local_rank)
        with pytest.raises(SystemExit), watch(store, 2):
            raise RuntimeError(CLOSED)
    told = "megafm [rank 2]: error: ended, because rank 1 did: loss=nan at step 3\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("message", [CLOSED, NCCL])
def test_a_rank_that_was_killed_is_said_by_one_that_misses_it(
    message: str, store: dist.Store
) -> None:
    with pytest.raises(ConnectionError, match="left no error of its own"), watch(store, 0):
        raise RuntimeError(message)
    with pytest.raises(SystemExit), watch(store, 2):
        raise RuntimeError(message)


def test_ranks_that_do_not_answer_are_named(store: dist.Store) -> None:
    store.set("megafm/answer/1", "")
    named = r"waited 1 s .*for ranks \[2\], which do not answer \(.* Timed out waiting 5000ms"
    with pytest.raises(TimeoutError, match=named), watch(store, 0):
        raise RuntimeError(TIMED_OUT)


def test_a_rank_in_one_of_our_collectives_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    arrived = threading.Lock()
    arrived.acquire()
    ops = SimpleNamespace(
        all_gather_into_tensor=lambda *_: None, wait_tensor=lambda _: arrived.acquire()
    )
    monkeypatch.setattr(collectives, "_c10d", ops)
    group = SimpleNamespace(size=lambda: 2, group_name="tp")
    gathering = collectives.Gathering(torch.zeros(2), 0, cast(dist.ProcessGroup, group))
    monkeypatch.setattr(collectives, "_dim_back", lambda x, dim: x)
    thread = threading.Thread(target=gathering.wait)
    thread.start()
    assert waits(thread)
    arrived.release()
    thread.join()
    at_work = threading.Thread(target=arrived.acquire)  # held again: in no collective
    at_work.start()
    assert not waits(at_work)
    arrived.release()
    at_work.join()


def waits(thread: threading.Thread) -> bool:
    """What is seen of a thread once it has come to a lock."""
    time.sleep(0.2)
    return failure.waits_in_collective(sys._current_frames()[thread.ident or 0])


def test_a_normal_end_and_a_stop_say_nothing(store: dist.Store) -> None:
    with watch(store, 0):
        pass
    with pytest.raises(SystemExit, match="143"), watch(store, 0):
        raise SystemExit(143)
    assert not store.check(["megafm/failure"])
