"""Build the ops with their CUDA kernels, and use them on the torch that is here.

The library must load beside a torch that was built without CUDA, and its CPU ops must pass opcheck
there. Like the sanitized one it takes the place of the checkout's in a shadow of it.
"""

from __future__ import annotations

import os
import subprocess
import sys

import compile_cuda
import compile_ops
from gate_sanitizers import make_shadow

FOLDER = compile_ops.ROOT / "build" / "gate-cuda-library"
ARCHS = "80;90a"
TESTS = ["tests/csrc/test_library.py", "tests/ops"]


def main() -> None:
    if compile_cuda.toolkit() is None:
        print("gate_cuda_library: skipped: no nvcc on the PATH; install the CUDA toolkit")
        return
    os.environ.setdefault(compile_cuda.ARCHS, ARCHS)
    try:
        print(compile_ops.build(FOLDER / "_ops.so"), flush=True)
    except compile_ops.BuildError as error:
        sys.exit(f"gate_cuda_library: error: {error}")
    shadow = FOLDER / "checkout"
    make_shadow(shadow, [FOLDER / "_ops.so"])
    holds = (
        "import sys; from megafm.ops import _library; "
        "sys.exit(_library.library_missing() or not _library.has_cuda_kernels())"
    )
    if subprocess.run([sys.executable, "-c", holds], cwd=shadow).returncode:
        sys.exit("gate_cuda_library: error: no library with CUDA kernels loads here (above)")
    command = [sys.executable, "-m", "pytest", "-q", "-k", "opcheck or test_library", *TESTS]
    sys.exit(subprocess.run(command, cwd=shadow).returncode)


if __name__ == "__main__":
    main()
