"""The first rank that fails says why; the others learn of it through the store and end quietly.

Every rank has a thread that looks at the store now and then. It ends a rank whose main thread waits
for one that is gone (NCCL can wait for long), and it finds the rank that stalls: when a collective
has timed out, the rank whose main thread does not wait in one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any

import torch.distributed as dist

from megafm import errors
from megafm.errors import end_quietly, say_error, tell_torchrun

# What gloo and NCCL say in the ranks that a failing one leaves behind, and of one that stalls.
LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "remote process exited",
)
TIMED_OUT = ("Timed out waiting", "timed out", "Timeout")
ANSWER_S = 3.0  # in which a rank that fails has said so in the store
FAILURE, TIMEOUT, ANSWER = "megafm/failure", "megafm/timeout", "megafm/answer"


@dataclass(frozen=True)
class Failure:
    """What ended the job. `node` is torchrun's number of the host."""

    rank: int
    node: str
    message: str


class FailureWatch:
    """Context manager around all that a rank of a world does.

    Args:
        store: that all ranks share.
        timeout_s: of the collectives, to be said of a rank that stalls.
    """

    def __init__(self, store: dist.Store, rank: int, world_size: int, timeout_s: float) -> None:
        self._store = store
        self._rank = rank
        self._world_size = world_size
        self._timeout_s = timeout_s
        self._interval_s = min(max(timeout_s / 20, 0.2), 5.0)
        self._left = threading.Event()
        self._previous: Any = signal.SIG_DFL
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> FailureWatch:
        self._thread.start()
        self._previous = signal.signal(signal.SIGTERM, self._terminated)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            # a stop comes to every rank, each of which ends by itself
            if error is not None and not isinstance(error, SystemExit | KeyboardInterrupt):
                self._failed(error)
        finally:
            signal.signal(signal.SIGTERM, self._previous)
            self._left.set()
            self._thread.join()

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        """torchrun ends a rank because another one failed, or someone ends it from outside."""
        failure = self._said()
        if failure is not None and failure.rank != self._rank:
            errors.terminated.set()
            end_quietly()
        signal.signal(number, self._previous)
        os.kill(os.getpid(), number)

    def _failed(self, error: BaseException) -> None:
        """Return if this rank is the first to fail and shall say so itself.

        Raises:
            ConnectionError, TimeoutError: another rank is gone or stalls, and cannot say so.
            SystemExit: another rank has said so.
        """
        text = " ".join(str(error).split())
        if isinstance(error, RuntimeError) and any(sign in text for sign in TIMED_OUT):
            self._set(TIMEOUT, str(self._rank))
            failure = self._answered()
            if failure is None:
                silent = self._silent_ranks()
                who = f"ranks {silent}, which do not answer" if silent else "other ranks"
                message = (
                    f"waited {self._timeout_s:g} s (parallel.timeout_s) for {who} ({text}); "
                    "run the same command again to go on from the last checkpoint"
                )
                if self._first(message) is None:
                    raise TimeoutError(message) from error
        elif isinstance(error, RuntimeError) and any(sign in text for sign in LOST_PEER):
            failure = self._answered()
            if failure is None:
                message = (
                    "lost contact with another rank, which left no error of its own (killed?; "
                    f"{text}); "
                    "run the same command again to go on from the last checkpoint"
                )
                if self._first(message) is None:
                    raise ConnectionError(message) from error
        failure = self._first(text or type(error).__name__)
        if failure is not None:
            self._name_on_other_host(failure)
            end_quietly()

    def _first(self, message: str) -> Failure | None:
        """Say that this rank has failed; returns what another one has said before."""
        mine = Failure(self._rank, os.environ.get("GROUP_RANK", "0"), message)
        text = json.dumps(asdict(mine))
        try:
            said = self._store.compare_set(FAILURE, "", text).decode()
        except dist.DistError:  # the store is gone: nobody else says anything
            return None
        failure = Failure(**json.loads(said))
        return None if failure.rank == self._rank else failure

    def _answered(self) -> Failure | None:
        """The failure that another rank says within ANSWER_S."""
        end = time.monotonic() + ANSWER_S + self._interval_s
        while time.monotonic() < end:
            failure = self._said()
            if failure is not None:
                return failure
            time.sleep(0.1)
        return None

    def _said(self) -> Failure | None:
        with contextlib.suppress(dist.DistError):
            if self._store.check([FAILURE]):
                return Failure(**json.loads(self._store.get(FAILURE).decode()))
        return None

    def _name_on_other_host(self, failure: Failure) -> None:
        """One line for each host whose own output does not have it."""
        elsewhere = failure.node != os.environ.get("GROUP_RANK", "0")
        if elsewhere and os.environ.get("LOCAL_RANK", "0") == "0":
            say_error(f"ended, because rank {failure.rank} did: {failure.message}")

    def _silent_ranks(self) -> list[int]:
        others = (rank for rank in range(self._world_size) if rank != self._rank)
        with contextlib.suppress(dist.DistError):
            return [rank for rank in others if not self._store.check([f"{ANSWER}/{rank}"])]
        return []

    def _set(self, key: str, value: str) -> None:
        with contextlib.suppress(dist.DistError):
            self._store.set(key, value)

    def _watch(self) -> None:
        """The thread."""
        answered = False
        while not self._left.wait(self._interval_s):
            failure = self._said()
            if failure is not None and failure.rank != self._rank:
                if not self._left.wait(ANSWER_S + self._interval_s + errors.QUIET_S + 1.0):
                    self._name_on_other_host(failure)
                    os._exit(1)
                return
            try:
                timed_out = not answered and self._store.check([TIMEOUT])
            except dist.DistError:
                return
            if timed_out:
                answered = True
                self._set(f"{ANSWER}/{self._rank}", "")
                frame = sys._current_frames()[threading.main_thread().ident or 0]
                if not waits_in_collective(frame):
                    self._end_stalled(frame)

    def _end_stalled(self, frame: FrameType) -> None:
        code = frame.f_code
        message = (
            f"stalled: other ranks waited {self._timeout_s:g} s (parallel.timeout_s) for this one, "
            f"which is in {code.co_name}, {code.co_filename}:{frame.f_lineno}; "
            "run the same command again to go on from the last checkpoint"
        )
        if self._first(message) is None:
            sys.stderr.write("".join(traceback.format_stack(frame)))
            say_error(message)
            tell_torchrun(message)
        os._exit(1)


def waits_in_collective(frame: FrameType) -> bool:
    """Whether a thread waits for other ranks: in torch.distributed or one of our collectives, in a
    backward pass, whose collectives are C++, or in this package after such a wait."""
    files = [entry.filename.replace(os.sep, "/") for entry in traceback.extract_stack(frame)[-3:]]
    waiting = ("torch/distributed/", "torch/autograd/", "megafm/parallel/")
    return any(part in file for file in files for part in waiting)
