"""How long a run takes, and the device's own ceilings to compare it with."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

from benchmarks.worker import clock
from megafm import ops

FLUSH_BYTES = 256 << 20  # more than any L2
AHEAD_CYCLES = 2_000_000  # 1 ms, in which the host enqueues the run: its own time does not count


def timer(device: torch.device) -> Callable[[Callable[[], object], int], float]:
    """A function of (run, repeats) that gives the mean seconds of one run."""
    return CudaTimer(device) if device.type == "cuda" else cpu_seconds


def cpu_seconds(run: Callable[[], object], repeats: int) -> float:
    gc.disable()
    try:
        start = clock()
        for _ in range(repeats):
            run()
        return (clock() - start) / repeats
    finally:
        gc.enable()


class CudaTimer:
    """Times with events on the stream; every run finds an L2 cache that holds none of its data."""

    def __init__(self, device: torch.device) -> None:
        self.flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device)

    def __call__(self, run: Callable[[], object], repeats: int) -> float:
        pairs = []
        for _ in range(repeats):
            self.flush.zero_()
            torch.cuda._sleep(AHEAD_CYCLES)
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            pairs.append((start, end))
        torch.cuda.synchronize()
        return sum(start.elapsed_time(end) for start, end in pairs) / repeats / 1e3


def ceilings(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """The best of a few runs: a copy in bytes/s (read and written ones) and a matmul in FLOP/s.

    The matmul is torch's or the one that `ops.linear` picks, whichever is faster.
    """
    seconds = timer(device)
    size = 8192 if device.type == "cuda" else 1024
    source = torch.ones(256 << 20, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    a, b = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    copy = min(seconds(lambda: target.copy_(source), 1) for _ in range(5))
    products = (lambda: a @ b, lambda: ops.linear(a, b))
    matmul = min(seconds(product, 1) for _ in range(10) for product in products)
    return {
        "copy_bytes_per_s": 2 * source.numel() / copy,
        "matmul_flops_per_s": 2 * size**3 / matmul,
    }
