"""The gate on what Triton compiles (tools/gate_triton.py); it compiles without a GPU."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))
import gate_triton  # noqa: E402

SPILLS = """
from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from megafm.ops.triton.cases import Case


@triton.jit
def keeps_much(x, y, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    value = tl.load(x + at)
    tl.store(y + at, value - tl.sum(value, 0))


def launch(x):
    keeps_much[(1,)](x, x, BLOCK=8192, num_warps=4, maxnreg=32)  # 64 values a thread


def compile_cases() -> Iterator[Case]:
    yield Case("spills", launch, (torch.empty(8192, device="meta"),), matrix=("keeps_much",))
"""


def gate(*arguments: str, path: str = "") -> tuple[int, str]:
    """The gate in a process of its own: this one may have Triton's interpreter on."""
    command = [sys.executable, str(ROOT / "tools" / "gate_triton.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": path}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    return run.returncode, run.stdout + run.stderr


def test_attention_keeps_to_the_chip() -> None:
    code, said = gate("attention", "--arch=90", "--match=bfloat16 64 every", "--jobs=1")
    assert code == 0, said
    assert "HGMMA" in said and "0 violations" in said


def test_a_kernel_that_spills_is_caught(tmp_path: Path) -> None:
    (tmp_path / "made_up").mkdir()
    (tmp_path / "made_up" / "kernels.py").write_text(SPILLS)
    code, said = gate("made_up.kernels", "--arch=90", "--jobs=1", path=str(tmp_path))
    assert code == 1, said
    assert re.search(r"error: keeps_much \(spills, sm_90, blocks 8192\) spills \d+ bytes", said)
    assert "has no HGMMA instruction, only none" in said and "2 violations" in said


FOUND = gate_triton.Found(
    kernel="kernel",
    case="case",
    arch=90,
    blocks="128x64",
    num_warps=8,
    num_stages=3,
    registers=200,
    spilled=0,
    shared=100_000,
    tensor_columns=0,
    matrix=("HGMMA",),
    wants_matrix=True,
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spilled": 8}, "spills 8 bytes a thread"),
        ({"shared": 232_449}, "needs 232449 bytes of shared memory of 232448"),
        ({"matrix": ("HMMA",)}, "has no HGMMA instruction, only HMMA"),
        ({"arch": 80}, "has no HMMA instruction, only HGMMA"),
        ({"arch": 100, "matrix": ("UTCHMMA",), "tensor_columns": 1024}, "1024 columns"),
        ({"arch": 100, "matrix": ()}, "instruction, only none"),
    ],
)
def test_each_violation_has_a_line(change: dict, message: str) -> None:
    assert list(gate_triton.violations(FOUND)) == []
    (line,) = gate_triton.violations(dataclasses.replace(FOUND, **change))
    assert message in line


def test_what_it_wants_is_not_wanted_of_a_kernel_without_products() -> None:
    plain = dataclasses.replace(FOUND, matrix=(), wants_matrix=False)
    assert list(gate_triton.violations(plain)) == []
