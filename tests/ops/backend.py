"""Running a test on every backend of an op, and on each instruction set of the C++ kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch

from megafm import ops
from megafm.ops import _library

needs_library = pytest.mark.skipif(
    _library.library_missing() is not None, reason=f"{_library.library_missing()}: make setup"
)
ISAS = ("plain", "avx2", "avx512", "avx512bf16")
CPU = [pytest.param(f"cpu-{isa}", marks=needs_library) for isa in ISAS]


@contextmanager
def on_backend(op: str, name: str) -> Iterator[None]:
    """Run `op` on a backend, such as "torch", or "cpu-avx2" for one instruction set of it."""
    backend, _, isa = name.partition("-")
    if isa:
        used, available = _library.instruction_sets()
        if isa not in available:
            pytest.skip(f"this CPU has no {isa}")
        torch.ops.megafm.set_cpu_isa(isa)
    try:
        with ops.use(**{op: backend}):
            yield
    finally:
        if isa:
            torch.ops.megafm.set_cpu_isa(used)


def assert_same_bits(
    compute: Callable[[], Sequence[torch.Tensor]], threads: tuple[int, ...] = (1, 2, 3)
) -> None:
    """Hold `compute` to the same bits in 30 runs, on each of these numbers of threads."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads[0])
        first = compute()
        for run in range(30):
            torch.set_num_threads(threads[run % len(threads)])
            for ours, expected in zip(compute(), first, strict=True):
                assert torch.equal(ours, expected), f"run {run}"
    finally:
        torch.set_num_threads(before)
