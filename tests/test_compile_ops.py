"""tools/compile_ops.py, on a csrc/ of three small files so that a compile takes no time."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
import compile_ops

KERNEL = """\
#include "answer.h"
#define NAME_(isa) answer_##isa
#define NAME(isa) NAME_(isa)
extern "C" EXPORT int NAME(MEGAFM_ISA)() { return ANSWER; }
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if compile_ops.compiler() is None:
        pytest.skip("no C++ compiler")
    cpu = tmp_path / "csrc" / "cpu"
    cpu.mkdir(parents=True)
    (tmp_path / "csrc" / "answer.h").write_text(
        '#define ANSWER 42\n#define EXPORT __attribute__((visibility("default")))\n'
    )
    (tmp_path / "csrc" / "ops.cpp").write_text("int nothing() { return 0; }\n")
    (cpu / "answer.kernel.cpp").write_text(KERNEL)
    monkeypatch.setattr(compile_ops, "ROOT", tmp_path)
    monkeypatch.setenv("MEGAFM_CUDA_ARCHS", "none")  # whatever is installed here
    return tmp_path


def build(checkout: Path) -> str:
    return compile_ops.build(checkout / "megafm" / "_ops.so")


def later(path: Path) -> None:
    """Give a file a modification time after everything built so far."""
    ahead = path.stat().st_mtime + 100
    os.utime(path, (ahead, ahead))


def test_a_kernel_is_compiled_once_per_instruction_set(checkout):
    isas = compile_ops.isa_names()
    assert f"compiled {1 + len(isas)} of {1 + len(isas)} objects" in build(checkout)
    library = ctypes.CDLL(str(checkout / "megafm" / "_ops.so"))
    assert [getattr(library, f"answer_{isa}")() for isa in isas] == [42] * len(isas)


def test_the_message_says_for_what_and_with_what(checkout):
    message = build(checkout)
    assert message.startswith("ops: megafm/_ops.so ")
    assert f"for {' '.join(compile_ops.isa_names())} with {compile_ops.compiler_name()}" in message


def test_nothing_is_compiled_or_linked_twice(checkout):
    build(checkout)
    library = (checkout / "megafm" / "_ops.so").stat().st_ino
    assert "compiled 0 of" in build(checkout)
    assert (checkout / "megafm" / "_ops.so").stat().st_ino == library


def test_a_library_elsewhere_is_linked_anew_when_the_objects_are_newer(checkout):
    build(checkout)
    library = (checkout / "megafm" / "_ops.so").stat().st_ino
    later(checkout / "csrc" / "ops.cpp")
    compile_ops.build(checkout / "wheel" / "_ops.so")
    for obj in (checkout / "build" / "ops").glob("*.o"):
        later(obj)
    assert "compiled 0 of" in build(checkout)
    assert (checkout / "megafm" / "_ops.so").stat().st_ino != library


def test_a_changed_source_is_compiled_alone(checkout):
    build(checkout)
    later(checkout / "csrc" / "ops.cpp")
    assert "compiled 1 of" in build(checkout)


def test_a_changed_header_compiles_what_includes_it(checkout):
    build(checkout)
    later(checkout / "csrc" / "answer.h")
    assert f"compiled {len(compile_ops.isa_names())} of" in build(checkout)


def test_a_changed_flag_compiles_everything(checkout, monkeypatch):
    build(checkout)
    monkeypatch.setattr(compile_ops, "COMMON_FLAGS", [*compile_ops.COMMON_FLAGS, "-DNEW=1"])
    assert "compiled 0 of" not in build(checkout)


def test_a_file_that_does_not_compile_is_named_with_a_remedy(checkout):
    build(checkout)
    (checkout / "csrc" / "ops.cpp").write_text("int broken(\n")
    later(checkout / "csrc" / "ops.cpp")
    with pytest.raises(compile_ops.BuildError, match=r"csrc/ops.cpp does not compile .* g\+\+ >="):
        build(checkout)
    assert (checkout / "megafm" / "_ops.so").exists()  # the last good one stays


def test_a_warning_fails_the_strict_build_alone(checkout):
    (checkout / "csrc" / "ops.cpp").write_text("int nothing(int unused) { return 0; }\n")
    build(checkout)
    with pytest.raises(compile_ops.BuildError, match="csrc/ops.cpp"):
        compile_ops.build(checkout / "unused.so", strict=True)


def test_no_compiler_names_the_package_that_brings_one(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert compile_ops.why_not() == "no C++ compiler on the PATH; apt-get install g++ (or set CXX)"
    monkeypatch.setenv("CXX", "nothing++")
    assert "CXX=nothing++" in (compile_ops.why_not() or "")


def test_an_old_torch_is_no_build_environment(monkeypatch):
    monkeypatch.setattr(compile_ops.importlib.metadata, "version", lambda _: "2.10.1+cpu")
    assert compile_ops.why_not() == "torch 2.10.1+cpu is older than 2.11; upgrade torch"


def test_every_source_of_the_checkout_is_found():
    names = {path.name for path in compile_ops.OPS.sources()}
    assert {"ops.cpp", "rms_norm.cpp", "rms_norm.kernel.cpp"} <= names
    assert "module.cpp" in {path.name for path in compile_ops.INDEX.sources()}


def test_a_python_module_needs_pybind11_and_the_headers_of_python(monkeypatch):
    with monkeypatch.context() as bare:
        bare.setattr(compile_ops.importlib.util, "find_spec", lambda _: None)
        assert "pip install pybind11" in (compile_ops.why_not(compile_ops.INDEX) or "")
    monkeypatch.setattr(compile_ops.sysconfig, "get_path", lambda _: "/nowhere")
    assert "Python.h is not in /nowhere; " in (compile_ops.why_not(compile_ops.INDEX) or "")


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_a_compiler_of_ones_own_is_used(checkout, monkeypatch):
    wrapper = checkout / "my-g++"
    wrapper.write_text('#!/bin/sh\necho run >> "$0.log"\nexec g++ "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CXX", str(wrapper))
    build(checkout)
    assert (checkout / "my-g++.log").exists()
