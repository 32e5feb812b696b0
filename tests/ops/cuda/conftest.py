"""CUDA kernels: on a GPU, or without one on csrc/emulator, as `make gates` runs them.

Without a GPU the library is that of `tools/compile_ops.py --emulate`, whose ops take tensors of the
CPU, and it stands in for the backend `cuda` of every op.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from megafm.ops import _library, cpp, registry
from megafm.ops.cpp import adamw, attention, grad_norm, rms_norm, rope, swiglu
from megafm.ops.cpp.storage import CUDA, Target

CSRC = Path(__file__).parents[3] / "csrc"
EMULATED_LIBRARY = CSRC.parent / "build" / "emulated" / "_ops_emulated.so"
EMULATED = Target("megafm_emulated", "cpu", CUDA.dtypes)
OPS = {
    "adamw": (adamw.run, adamw.refuses),
    "attention": (attention.run, attention.refuses_cuda),
    "attention_backward": (attention.run_backward, attention.refuses_cuda_backward),
    "cross_entropy": (importlib.import_module("megafm.ops.cross_entropy")._cpp, Target.unreadable),
    "grad_norm": (grad_norm.run, grad_norm.refuses),
    "linear_cross_entropy": (
        importlib.import_module("megafm.ops.linear_cross_entropy")._cpp,
        Target.unreadable,
    ),
    "rms_norm": (rms_norm.run, rms_norm.refuses),
    "rope": (rope.run, rope.refuses),
    "swiglu": (swiglu.run, swiglu.refuses),
}


@pytest.fixture(scope="session")
def emulated() -> None:
    sources = [path.stat().st_mtime for path in CSRC.rglob("*.[ch]*")]
    if not EMULATED_LIBRARY.exists() or EMULATED_LIBRARY.stat().st_mtime < max(sources):
        pytest.skip("no emulated CUDA kernels of this csrc/: tools/compile_ops.py --emulate")
    torch.ops.load_library(EMULATED_LIBRARY)
    cpp.register_formulas(EMULATED.namespace)


@pytest.fixture
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where the backend `cuda` runs."""
    if torch.cuda.is_available():
        yield "cuda"
        return
    request.getfixturevalue("emulated")
    for op, (run, refuses) in OPS.items():
        backend = _library.backend(run, refuses, EMULATED)
        monkeypatch.setitem(registry._table[op], "cuda", backend)
    registry._probe.cache_clear()
    yield "cpu"
    registry._probe.cache_clear()
