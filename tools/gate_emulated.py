"""Run the tests of the CUDA kernels on the emulator, under AddressSanitizer and UBSan.

The emulator checks shared memory, and alignment; the sanitizers see what a kernel reads or writes
outside of the tensors in global memory, since each tensor is an allocation of its own.
"""

from __future__ import annotations

import subprocess
import sys

import compile_ops
from gate_sanitizers import make_shadow, sanitized

FOLDER = compile_ops.ROOT / "build" / "emulated-sanitize"


def main() -> None:
    out = FOLDER / compile_ops.EMULATED.file_name
    try:
        print(compile_ops.build(out, compile_ops.EMULATED, sanitize=True), flush=True)
    except compile_ops.BuildError as error:
        sys.exit(f"gates: error: {error}")
    shadow = FOLDER / "checkout"
    make_shadow(shadow, [*(compile_ops.ROOT / "megafm").glob("*.so")])
    (shadow / "csrc").symlink_to(compile_ops.ROOT / "csrc")
    library = shadow / "build" / "emulated" / out.name  # where the tests look for it
    library.parent.mkdir(parents=True)
    library.symlink_to(out)
    environment = {**sanitized(), "OMP_NUM_THREADS": "1"}
    # Without the library the tests would be skipped.
    loads = f"import torch; torch.ops.load_library({str(out)!r})"
    if subprocess.run([sys.executable, "-c", loads], cwd=shadow, env=environment).returncode:
        sys.exit("gates: error: the sanitized emulator does not load (above)")
    # capture=sys: what a sanitizer writes to file descriptor 2 is seen.
    command = [sys.executable, "-m", "pytest", "-q", "--capture=sys", "-n", "2", "tests/ops/cuda"]
    sys.exit(subprocess.run([*command, *sys.argv[1:]], cwd=shadow, env=environment).returncode)


if __name__ == "__main__":
    main()
