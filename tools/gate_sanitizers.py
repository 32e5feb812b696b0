"""Run the tests of the C++ ops against a library built with AddressSanitizer and UBSan.

The library of the checkout is left alone: a shadow of the checkout (links, and the sanitized
_ops.so in place of the other) is what pytest sees. The sanitizers' run times are preloaded,
because Python itself is built without them; leaks are not looked for, Python has its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import compile_ops

SHADOW = compile_ops.ROOT / "build" / "ops-sanitize" / "checkout"
TESTS = [
    "tests/ops/test_cross_entropy.py",
    "tests/ops/test_rms_norm.py",
    "tests/ops/test_rope.py",
    "tests/ops/test_swiglu.py",
    "tests/ops/test_registry.py",
    "tests/ops/test_edges.py",
    "tests/ops/cpp/test_attention.py",
]
# Left to `make test`: sanitizers keep the compiler from vectorising, so sums are formed in another
# order than the one whose error is held to the rule; and what has no C++ of ours.
WITHOUT = "not error_rule and not triton and not sdpa and not torch"


def main() -> None:
    library = SHADOW.parent / "_ops.so"
    try:
        print(compile_ops.build(library, sanitize=True), flush=True)
    except compile_ops.BuildError as error:
        sys.exit(f"gates: error: {error}")
    make_shadow(library)
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(map(runtime, ("libasan.so", "libubsan.so"))),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=99",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1:exitcode=99",
        "OMP_NUM_THREADS": "2",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    # Without the library the tests would be skipped.
    loads = "import sys; from megafm.ops import _library; sys.exit(_library.library_missing())"
    if subprocess.run([sys.executable, "-c", loads], cwd=SHADOW, env=environment).returncode:
        sys.exit("gates: error: the sanitized library does not load (above)")
    # capture=sys: what a sanitizer writes to file descriptor 2 is seen.
    command = [sys.executable, "-m", "pytest", "-q", "--capture=sys", "-k", WITHOUT, *TESTS]
    run = subprocess.run([*command, *sys.argv[1:]], cwd=SHADOW, env=environment)
    sys.exit(run.returncode)


def make_shadow(library: Path) -> None:
    """Link megafm/, tests/ and the configs under SHADOW, with `library` as megafm/_ops.so."""
    shutil.rmtree(SHADOW, ignore_errors=True)
    (SHADOW / "megafm").mkdir(parents=True)
    for name in ("tests", "hydra_conf", "pyproject.toml"):
        (SHADOW / name).symlink_to(compile_ops.ROOT / name)
    for path in (compile_ops.ROOT / "megafm").iterdir():
        if path.name != "__pycache__" and not path.name.startswith("_ops"):
            (SHADOW / "megafm" / path.name).symlink_to(path)
    (SHADOW / "megafm" / "_ops.so").symlink_to(library)


def runtime(name: str) -> str:
    """Where the compiler keeps a sanitizer's run-time library."""
    query = [*(compile_ops.compiler() or []), f"-print-file-name={name}"]
    return subprocess.run(query, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
