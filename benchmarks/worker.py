"""A process that measures, and answers its parent's requests one at a time.

A benchmark keeps several of them alive (other allocator settings, other libraries, several ranks)
and asks them in turn, so that a noisy machine is equally noisy to all. Requests and answers are
one line of JSON each, on stdin and stdout; whatever else the process prints goes to its stderr.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from benchmarks.machine import ROOT

# glibc reads these when a process starts: freed memory stays with it, so the next run does not
# fault its pages in again. megafm's jobs set the same at run time (megafm.device).
TUNED_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(64 << 20),
}


CLOCK = "BENCH_CLOCK"  # environment variable: "cpu", or by default the wall's


def clock() -> float:
    """Seconds of the clock that this process measures with."""
    return time.process_time() if os.environ.get(CLOCK) == "cpu" else time.perf_counter()


class WorkerError(RuntimeError):
    """A worker died, or its handler raised; holds what it said last."""


class Worker:
    """Start `python -m module` with some environment, and ask it things."""

    def __init__(self, module: str, environment: Mapping[str, str], python: str = sys.executable):
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by close)
        cleared = {k: v for k, v in os.environ.items() if k not in TUNED_MALLOC}
        self._process = subprocess.Popen(
            [python, "-m", module],
            cwd=ROOT,
            env=cleared | dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def send(self, request: str, **arguments: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([request, arguments]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(self._last_words()) from None

    def receive(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise WorkerError(self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["result"]

    def ask(self, request: str, **arguments: Any) -> Any:
        """What the worker's handler of that name returns."""
        self.send(request, **arguments)
        return self.receive()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return "\n".join(lines[-10:]) or f"exit code {self._process.returncode}"


def serve(handlers: Mapping[str, Callable[..., Any]]) -> None:
    """Answer requests until stdin ends: the main loop of a worker's module."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # stray prints of libraries
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = {"result": handlers[name](**arguments)}
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
