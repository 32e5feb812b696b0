"""Every function of csrc/cuda/ptx*.cuh has a case, on the emulator and on a GPU."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CASES = Path(__file__).parent
HEADERS = sorted((CASES.parents[2] / "csrc" / "cuda").glob("ptx*.cuh"))
FUNCTION = re.compile(r"^__device__ __forceinline__ [\w ]+?(\w+)(?:<[^>]*>)?\(", re.M)


@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.stem)
def test_every_function_has_a_case(header: Path) -> None:
    cases = "".join(path.read_text(encoding="utf-8") for path in CASES.glob("*_cases.cu"))
    functions = set(FUNCTION.findall(header.read_text(encoding="utf-8")))
    assert len(functions) > 2
    assert not {name for name in functions if not re.search(rf"\b{name}\b", cases)}
