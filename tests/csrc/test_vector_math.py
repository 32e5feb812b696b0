from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from megafm.ops import _library
from tests.ops.backend import needs_library

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import compile_ops  # noqa: E402

WITH_FMA, WITHOUT = 0.9, 1.2  # ulps: the most over every float is 0.892 and 1.177


@needs_library
@pytest.mark.skipif(compile_ops.compiler() is None, reason=str(compile_ops.why_no_compiler()))
@pytest.mark.parametrize("isa", ["plain", "avx2", "avx512"])
def test_exponentials_err_by_about_one_ulp(isa: str, tmp_path: Path) -> None:
    if isa not in _library.instruction_sets()[1]:
        pytest.skip(f"this CPU has no {isa}")
    flags = compile_ops.ISA_FLAGS.get(platform.machine(), {"plain": []})[isa]
    options = ["-std=c++20", "-O2", *compile_ops.KERNEL_FLAGS, *flags, f"-I{ROOT / 'csrc'}"]
    source, program = Path(__file__).with_name("exp_error.cpp"), tmp_path / "exp_error"
    command = [*(compile_ops.compiler() or ()), *options, str(source), "-o", str(program)]
    subprocess.run(command, check=True)
    printed = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
    wrong, *errors = map(float, printed.split())
    assert wrong == 0
    assert max(errors) < (WITHOUT if isa == "plain" else WITH_FMA)
