"""Run the tests of the C++ ops and of megafm._index against AddressSanitizer and UBSan.

The libraries of the checkout are left alone: a shadow of the checkout (links, and the sanitized
libraries in place of the others) is what pytest sees. The sanitizers' run times are preloaded,
because Python itself is built without them; leaks are not looked for, Python has its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import compile_ops

SHADOW = compile_ops.ROOT / "build" / "sanitize" / "checkout"
TESTS = [
    "tests/ops/test_cross_entropy.py",
    "tests/ops/test_rms_norm.py",
    "tests/ops/test_rope.py",
    "tests/ops/test_swiglu.py",
    "tests/ops/test_registry.py",
    "tests/ops/test_edges.py",
    "tests/ops/cpp/test_attention.py",
    "tests/ops/cpp/test_stream.py",
    "tests/data/test_index.py",
]
# Left to `make test`: sanitizers keep the compiler from vectorising, so sums are formed in another
# order than the one whose error is held to the rule; and what has no C++ of ours.
WITHOUT = "not error_rule and not triton and not sdpa and not torch"


def main() -> None:
    built = [SHADOW.parent / library.file_name for library in compile_ops.LIBRARIES]
    try:
        for out, library in zip(built, compile_ops.LIBRARIES, strict=True):
            print(compile_ops.build(out, library, sanitize=True), flush=True)
    except compile_ops.BuildError as error:
        sys.exit(f"gates: error: {error}")
    make_shadow(SHADOW, built)
    environment = {**sanitized(), "OMP_NUM_THREADS": "2"}
    # Without the libraries the tests would be skipped.
    loads = (
        "import sys; from megafm.ops import _library; from megafm.data import index; "
        "sys.exit(_library.library_missing() or index.missing())"
    )
    if subprocess.run([sys.executable, "-c", loads], cwd=SHADOW, env=environment).returncode:
        sys.exit("gates: error: a sanitized library does not load (above)")
    # capture=sys: what a sanitizer writes to file descriptor 2 is seen.
    command = [sys.executable, "-m", "pytest", "-q", "--capture=sys", "-k", WITHOUT, *TESTS]
    run = subprocess.run([*command, *sys.argv[1:]], cwd=SHADOW, env=environment)
    sys.exit(run.returncode)


def sanitized() -> dict[str, str]:
    """This process's environment, with the sanitizers' run times loaded first."""
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(map(runtime, ("libasan.so", "libubsan.so"))),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=99",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1:exitcode=99",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def make_shadow(shadow: Path, libraries: list[Path]) -> None:
    """Link megafm/, tests/ and the configs under `shadow`, with these libraries in megafm/."""
    shutil.rmtree(shadow, ignore_errors=True)
    (shadow / "megafm").mkdir(parents=True)
    for name in ("tests", "hydra_conf", "pyproject.toml"):
        (shadow / name).symlink_to(compile_ops.ROOT / name)
    for path in (compile_ops.ROOT / "megafm").iterdir():
        if path.name != "__pycache__" and path.suffix != ".so":
            (shadow / "megafm" / path.name).symlink_to(path)
    for library in libraries:
        (shadow / "megafm" / library.name).symlink_to(library)


def runtime(name: str) -> str:
    """Where the compiler keeps a sanitizer's run-time library."""
    query = [*(compile_ops.compiler() or []), f"-print-file-name={name}"]
    return subprocess.run(query, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
