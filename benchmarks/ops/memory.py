"""Peak memory of the output layer with its loss, forward and backward, at a large vocabulary.

Each provider in a process of its own, on a CPU: how far its resident set grows beyond what its
inputs take. torch does not count CPU allocations, the kernel does (VmHWM).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch

from benchmarks import worker
from benchmarks.ops.op import BOTH, autograd_runs
from benchmarks.ops.providers import OURS
from benchmarks.worker import Worker

OP = "linear_cross_entropy"
SIZES = {"tokens": 4096, "dim": 256, "vocab": 128 * 1024}
QUICK = {"tokens": 64, "dim": 32, "vocab": 512}


def measure(quick: bool) -> list[dict[str, Any]]:
    """Peak bytes of ours and of the unfused peer."""
    rows = []
    for name in (OURS, "F.linear + F.cross_entropy"):
        environment = {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
        with Worker("benchmarks.ops.memory", environment) as process:
            peak = process.ask("peak", name=name, sizes=QUICK if quick else SIZES)
        rows.append({"name": name, "peak_bytes": peak})
    return rows


def peak(name: str, sizes: dict[str, int]) -> int:
    """Bytes by which the resident set grows at most during one forward and backward."""
    from benchmarks.ops import linear_cross_entropy as definition

    cpu = torch.device("cpu")
    function = definition.ours if name == OURS else definition.OP.eager[name]
    small = definition.inputs(QUICK, torch.float32, cpu)
    autograd_runs(function, small)[BOTH]()  # load libraries, start threads
    run = autograd_runs(function, definition.inputs(sizes, torch.float32, cpu))[BOTH]
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to VmRSS
    before = _kib("VmRSS")
    run()
    return 1024 * (_kib("VmHWM") - before)


def _kib(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1))


if __name__ == "__main__":
    worker.serve({"peak": peak})
