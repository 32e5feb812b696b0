"""tools/compile_cuda.py, and what the compiler driver makes of csrc/cuda."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
import compile_cuda
import compile_ops
import gate_cuda

from tests.test_compile_ops import build, checkout  # noqa: F401  (a fixture)

TOOLKIT = compile_cuda.Toolkit(["nvcc"], (13, 0), Path("/cuda/lib64"))
needs_nvcc = pytest.mark.skipif(
    compile_cuda.toolkit() is None, reason="no nvcc on the PATH; install the CUDA toolkit"
)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A toolkit, no GPU, a torch for CPUs."""
    monkeypatch.delenv(compile_cuda.ARCHS, raising=False)
    monkeypatch.setattr(compile_cuda, "toolkit", lambda: TOOLKIT)
    monkeypatch.setattr(compile_cuda, "local_archs", lambda: [])
    monkeypatch.setattr(compile_cuda, "torch_release", lambda: None)


def test_no_gpu_and_no_list_leaves_the_kernels_out() -> None:
    assert "no GPU here; set MEGAFM_CUDA_ARCHS" in (compile_cuda.why_without() or "")


def test_the_gpus_of_this_machine_are_compiled_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_cuda, "local_archs", lambda: ["90a"])
    assert compile_cuda.why_without() is None and compile_cuda.archs() == ["90a"]


def test_a_list_counts_more_than_the_gpus_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_cuda, "local_archs", lambda: ["90a"])
    monkeypatch.setenv(compile_cuda.ARCHS, "80; 100a")
    assert compile_cuda.archs() == ["80", "100a"] and compile_cuda.why_not() is None
    monkeypatch.setenv(compile_cuda.ARCHS, "none")
    assert compile_cuda.why_without() == "MEGAFM_CUDA_ARCHS=none"


@pytest.mark.parametrize(
    ("asked", "said"),
    [("sm_90", "MEGAFM_CUDA_ARCHS=sm_90: sm_90 is none"), ("75;80", "need sm_80 or later, not")],
)
def test_an_architecture_that_is_none_is_refused(
    asked: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(compile_cuda.ARCHS, asked)
    assert said in (compile_cuda.why_not() or "")


def test_a_list_without_nvcc_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_cuda, "toolkit", lambda: None)
    assert "no nvcc on the PATH" in (compile_cuda.why_without() or "")
    monkeypatch.setenv(compile_cuda.ARCHS, "80")
    assert compile_cuda.why_without() is None
    assert "MEGAFM_CUDA_ARCHS=80 but no nvcc on the PATH" in (compile_cuda.why_not() or "")


def test_another_major_release_than_torchs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_cuda, "torch_release", lambda: (12, 8))
    said = compile_cuda.why_not() or ""
    assert said.startswith("nvcc 13.0 but torch was built with CUDA 12.8; install the CUDA 12")


def test_another_minor_release_than_torchs_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_cuda, "torch_release", lambda: (13, 2))
    assert compile_cuda.why_not() is None
    assert "torch was built with CUDA 13.2" in (compile_cuda.warning() or "")


def test_an_old_nvcc_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    old = compile_cuda.Toolkit(["nvcc"], (12, 4), Path("/cuda/lib64"))
    monkeypatch.setattr(compile_cuda, "toolkit", lambda: old)
    assert "nvcc 12.4 is older than 12.8" in (compile_cuda.why_not() or "")


def test_ptx_of_the_oldest_chip_is_always_shipped() -> None:
    flags = compile_cuda.architecture_flags(Path("rope.cu"), ["90a"])
    assert flags == [
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_80,code=compute_80",
        "-DMEGAFM_SM90A",
    ]


@pytest.mark.parametrize(("memory_gib", "cores", "jobs"), [(64, 8, 8), (5, 8, 2), (1, 8, 1)])
def test_jobs_are_limited_by_cores_and_free_memory(
    memory_gib: int, cores: int, jobs: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal:  99 kB\nMemAvailable:   {memory_gib << 20} kB\n")
    monkeypatch.setattr(compile_cuda, "MEMINFO", meminfo)
    monkeypatch.setattr(compile_cuda.os, "cpu_count", lambda: cores)
    assert compile_cuda.num_jobs() == jobs


def test_kernels_for_sm90a_alone_are_compiled_where_it_is_wanted() -> None:
    source = Path("attention_sm90_forward_64.cu")
    flags = compile_cuda.architecture_flags(source, ["80", "90a"])
    assert flags == ["-gencode=arch=compute_90a,code=sm_90a"]
    assert compile_cuda.architecture_flags(source, ["80", "90"]) == []
    assert "-DMEGAFM_SM90A" not in compile_cuda.architecture_flags(Path("rope.cu"), ["80", "90"])


@needs_nvcc
def test_kernels_go_into_the_library_and_out_again(
    checkout: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(compile_ops, "ROOT", checkout)
    cuda = checkout / "csrc" / "cuda"
    cuda.mkdir()
    (cuda / "twice.cu").write_text(
        "__global__ void twice(float* x) { x[threadIdx.x] *= 2; }\n"
        'extern "C" __attribute__((visibility("default")))\n'
        "int launch_twice(float* x) { twice<<<1, 32>>>(x); return cudaGetLastError(); }\n"
    )
    monkeypatch.setenv(compile_cuda.ARCHS, "90a")
    assert ", for CUDA sm_90a with nvcc " in build(checkout)
    library = checkout / "megafm" / "_ops.so"
    assert b"launch_twice" in library.read_bytes()
    assert "compiled 0 of" in build(checkout)
    if shutil.which("ldd") is not None:
        needed = subprocess.run(["ldd", library], capture_output=True, text=True).stdout
        assert "libcuda" not in needed  # nor libcudart: it is in the library
    if importlib.util.find_spec("triton") is not None:  # which brings cuobjdump
        lists = [gate_cuda.tool("cuobjdump"), "--list-elf", "--list-ptx", library]
        shipped = subprocess.run(lists, capture_output=True, text=True).stdout
        assert ".sm_90a.cubin" in shipped and ".sm_80.ptx" in shipped
    monkeypatch.setenv(compile_cuda.ARCHS, "none")
    build(checkout)
    assert b"launch_twice" not in library.read_bytes()
