"""The test kernels of this folder as a shared library, for the emulator and for a GPU."""

from __future__ import annotations

import ctypes
import fcntl
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent

sys.path.insert(0, str(ROOT / "tools"))
import compile_ops  # noqa: E402

FLAGS = ["-std=c++20", "-O1", "-g", "-fPIC", "-fvisibility=hidden", "-pthread"]
FLAGS += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-psabi"]
FLAGS += ["-DMEGAFM_EMULATE", "-ffp-contract=off", "-x", "c++"]


class Library:
    """Calls exported functions; what they report is raised as a RuntimeError."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))

    def __call__(self, name: str, *args: np.ndarray | int | ctypes.c_char_p) -> None:
        function = getattr(self._library, name)
        function.restype = ctypes.c_char_p
        report = function(*map(_argument, args))
        if report is not None:
            raise RuntimeError(report.decode())


def _argument(value: np.ndarray | int | ctypes.c_char_p) -> Any:
    if isinstance(value, int):
        return ctypes.c_int(value)
    if isinstance(value, ctypes.c_char_p):
        return value
    assert value.flags.c_contiguous
    return value.ctypes.data_as(ctypes.c_void_p)


def bits_of(values: torch.Tensor) -> np.ndarray:
    return values.view(torch.int16).numpy().view(np.uint16)


def aligned(values: np.ndarray) -> np.ndarray:
    """A copy at a multiple of 128 bytes."""
    memory = np.empty(values.nbytes + 128, np.uint8)
    begin = -memory.ctypes.data % 128
    copy = memory[begin : begin + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def build_emulated() -> Path:
    """Compile with the C++ compiler what changed; one process at a time."""
    folder = ROOT / "build" / "emulator-tests"
    folder.mkdir(parents=True, exist_ok=True)
    sources = sorted([*(ROOT / "csrc" / "emulator").glob("*.cpp"), *HERE.glob("*.cu")])
    command = [*(compile_ops.compiler() or []), *FLAGS, "-I", str(ROOT / "csrc"), "-I", str(HERE)]
    units = [compile_ops.Unit(path, folder / f"{path.stem}.o", command) for path in sources]
    library = folder / "libtests.so"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if compile_ops.compile_units(units) > 0 or not library.exists():
            library.unlink(missing_ok=True)  # who has it loaded keeps it
            objects = [str(unit.obj) for unit in units]
            _run([*command, "-shared", "-x", "none", "-o", str(library), *objects])
    return library


def build_cuda() -> Path:
    """Compile with nvcc for the current GPU, without what its architecture lacks."""
    major, minor = torch.cuda.get_device_capability()
    arch = f"{major}{minor}{'a' if major == 9 else ''}"
    names = ["core", "multi_tensor", "ptx_sm80", *(["ptx_sm90", "ptx_wgmma"] if major == 9 else [])]
    library = ROOT / "build" / "emulator-tests" / f"libtests-sm{arch}.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    command = ["nvcc", "-std=c++20", "-shared", "-Xcompiler", "-fPIC", "-o", str(library)]
    command += ["-gencode", f"arch=compute_{arch},code=sm_{arch}", "-I", str(ROOT / "csrc")]
    _run([*command, *(str(HERE / f"{name}_cases.cu") for name in names)])
    return library


def _run(command: list[str]) -> None:
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {run.stderr[-2000:]}")
