"""The test kernels of this folder as a shared library, for the emulator and for a GPU."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
FLAGS = [
    "-std=c++20",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-Wno-psabi",
    "-O1",
    "-g",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-pthread",
]
EMULATE = ["-DMEGAFM_EMULATE", "-ffp-contract=off", "-x", "c++"]


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

    def symbol(self, name: str) -> Any:
        return getattr(self._library, name)


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


def why_no_compiler() -> str | None:
    return None if _compiler() else "no C++ compiler on the PATH; apt-get install g++"


def _compiler() -> str | None:
    return next(filter(None, map(shutil.which, [os.environ.get("CXX", "g++"), "clang++"])), None)


def build_emulated(*extra: str) -> Path:
    """Compile with g++, what is older than its headers; `extra` flags make a flavour of its own."""
    folder = ROOT / "build" / "-".join(["emulator-tests", *(flag.strip("-") for flag in extra)])
    folder.mkdir(parents=True, exist_ok=True)
    sources = sorted([*(ROOT / "csrc" / "emulator").glob("*.cpp"), *HERE.glob("*.cu")])
    objects = [folder / f"{source.name}.o" for source in sources]
    flags = [*FLAGS, *extra, *EMULATE, "-I", str(ROOT / "csrc"), "-I", str(HERE)]

    def compile_one(source: Path, obj: Path) -> None:
        if not _is_up_to_date(obj):
            obj.unlink(missing_ok=True)
            _run([str(_compiler()), *flags, "-MMD", "-c", str(source), "-o", str(obj)])

    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(compile_one, sources, objects))
    library = folder / "libtests.so"
    if not library.exists() or any(library.stat().st_mtime < o.stat().st_mtime for o in objects):
        unfinished = folder / f"libtests.{os.getpid()}"
        _run(
            [
                str(_compiler()),
                *extra,
                "-shared",
                "-pthread",
                "-o",
                str(unfinished),
                *map(str, objects),
            ]
        )
        unfinished.replace(library)
    return library


def build_cuda() -> Path:
    """Compile with nvcc for the current GPU, without what its architecture lacks."""
    major, minor = torch.cuda.get_device_capability()
    arch = f"{major}{minor}{'a' if major == 9 else ''}"
    names = ["core", "ptx_sm80", *(["ptx_sm90", "ptx_wgmma"] if major == 9 else [])]
    library = ROOT / "build" / "emulator-tests" / f"libtests-sm{arch}.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    command = ["nvcc", "-std=c++20", "-shared", "-Xcompiler", "-fPIC", "-o", str(library)]
    command += ["-gencode", f"arch=compute_{arch},code=sm_{arch}", "-I", str(ROOT / "csrc")]
    _run([*command, *(str(HERE / f"{name}_cases.cu") for name in names)])
    return library


def _is_up_to_date(obj: Path) -> bool:
    try:
        read = obj.with_suffix(".d").read_text().replace("\\\n", " ").partition(":")[2].split()
        return all(os.stat(path).st_mtime <= obj.stat().st_mtime for path in read)
    except OSError:
        return False


def _run(command: list[str]) -> None:
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {run.stderr[-2000:]}")
