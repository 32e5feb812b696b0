from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from megafm.ops import _library

needs_library = pytest.mark.skipif(
    _library.library_missing() is not None, reason=f"{_library.library_missing()}: make setup"
)


@needs_library
def test_uses_the_best_instruction_set_of_this_cpu() -> None:
    used, available = _library.instruction_sets()
    assert available[0] == "plain" and used == available[-1]


@needs_library
def test_an_instruction_set_that_is_not_there_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"set_cpu_isa\(neon9\): this CPU has plain"):
        torch.ops.megafm.set_cpu_isa("neon9")


@needs_library
@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm; apt-get install binutils")
def test_needs_nothing_of_python_and_of_torch_only_its_stable_c_interface() -> None:
    nm = ["nm", "-D", "--undefined-only", str(_library.library_path())]
    symbols = subprocess.run(nm, capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in symbols if name.startswith(("Py", "_Py"))]
    assert not [name for name in symbols if "c10" in name or "3at6" in name]
    assert [name for name in symbols if name.startswith(("torch_", "aoti_torch_"))]


def test_a_library_that_does_not_load_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "_ops.so"
    broken.write_text("not a library")
    monkeypatch.setattr(_library, "library_path", lambda: broken)
    assert _library._load.__wrapped__().startswith("_ops.so does not load: ")


@needs_library
def test_a_library_that_lacks_an_op_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an update of Python files beside an old library."""

    def lacks(namespace: str) -> None:
        raise RuntimeError("operator megafm::new does not exist")

    monkeypatch.setattr("megafm.ops.cpp.rms_norm.register_formulas", lacks)
    assert "operator megafm::new does not exist" in (_library._load.__wrapped__() or "")
