"""tools/gate_cuda.py: what it reads of ptxas and SASS, and that planted faults are seen."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
import compile_cuda
import gate_cuda

pytest.importorskip("triton")  # whose wheel brings cuobjdump

SYMBOL = "_ZN6megafm4cuda12norm_forwardIfLi4EEEvPf"
LOG = f"""\
ptxas info    : Compiling entry function '{SYMBOL}' for 'sm_90a'
ptxas info    : Function properties for {SYMBOL}
    {{stack}} bytes stack frame, {{spills}} bytes spill stores, {{spills}} bytes spill loads
ptxas info    : Used {{registers}} registers, used 1 barriers, {{shared}} bytes smem
"""
SASS = f"""\
		Function : {SYMBOL}
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/            @!UP1 HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4], !UPT ;
"""
RULES = """\
// gate norm_forward<*>: registers 64, shared 1024
// gate norm_forward<*, 4>: LDG.E.128 HGMMA
// gate chips: 90a
"""


def said(
    monkeypatch: pytest.MonkeyPatch,
    rules: str = RULES,
    sass: str = SASS,
    stack: int = 0,
    spills: int = 0,
    registers: int = 40,
    shared: int = 256,
) -> list[str]:
    """The violations of a kernel that ptxas and cuobjdump describe so."""
    text = type("Run", (), {"returncode": 0, "stdout": sass})
    monkeypatch.setattr(gate_cuda.subprocess, "run", lambda *args, **kwargs: text)
    log = LOG.format(stack=stack, spills=spills, registers=registers, shared=shared)
    (found,) = gate_cuda.inspect("90a", Path("norm.o"), log)
    assert found.name == "norm_forward<float, 4>"
    return list(gate_cuda.violations(found, gate_cuda.rules_of(rules)))


def test_a_kernel_within_its_rules_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(monkeypatch) == []
    assert gate_cuda.chips_of(RULES) == ("90a",) and gate_cuda.chips_of("") == gate_cuda.CHIPS


@pytest.mark.parametrize(
    ("planted", "violation"),
    [
        ({"spills": 8}, "keeps 8 bytes a thread in local memory; hold less, or launch fewer"),
        ({"stack": 16}, "keeps 16 bytes a thread in local memory; hold less, or launch fewer"),
        ({"registers": 72}, "takes 72 registers of 64"),
        (
            {"sass": SASS.replace("HGMMA", "USETMAXREG 0x18 ;\n /*0050*/ HGMMA")},
            "hands on 64 registers, and starts with 40",
        ),
        ({"shared": 2048}, "takes 2048 bytes of shared memory of 1024"),
        ({"sass": SASS.replace("HGMMA", "HMMA")}, "has no HGMMA instruction"),
        ({"sass": SASS.replace("LDG.E.128", "LDG.E.64")}, "has no LDG.E.128 instruction"),
        ({"rules": ""}, "has no rule; add a line // gate norm_forward<*>: registers N"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_planted_fault_is_said(
    planted: dict, violation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(monkeypatch, **planted) == [violation]


@pytest.mark.skipif(
    compile_cuda.toolkit() is None, reason="no nvcc on the PATH; install the CUDA toolkit"
)
def test_the_gate_fails_on_a_kernel_that_indexes_an_array_of_registers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "planted.cu").write_text(
        "// gate planted: registers 32, STG.E.128\n"
        "// gate renamed: registers 32\n"
        "__global__ void planted(float* x) {\n"
        "  float own[512];\n"
        "  for (int i = 0; i < 512; ++i) own[i] = x[i * 32];\n"
        "  x[threadIdx.x] = own[threadIdx.x & 511] + own[blockIdx.x & 511];\n"
        "}\n"
    )
    monkeypatch.setattr(gate_cuda, "KERNELS", tmp_path)
    monkeypatch.setattr(gate_cuda, "CASES", tmp_path / "none")
    monkeypatch.setattr(gate_cuda, "FOLDER", tmp_path / "objects")
    monkeypatch.setattr(sys, "argv", ["gate_cuda.py", "--arch", "90a"])
    with pytest.raises(SystemExit) as ended:
        gate_cuda.main()
    assert ended.value.code == 1
    lines = capsys.readouterr().out
    assert "planted (sm_90a) keeps 2048 bytes a thread in local memory" in lines
    assert "planted (sm_90a) has no STG.E.128 instruction" in lines
    assert "planted.cu (sm_90a): no kernel matches renamed" in lines
    assert "1 kernels, 3 violations" in lines
