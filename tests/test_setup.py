"""`make setup`: what it does when, and its one-line failures. No test touches the real .venv."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections import namedtuple
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY / "tools"))
import compile_ops  # noqa: E402
import setup_venv  # noqa: E402
from setup_venv import SetupError  # noqa: E402


def pins() -> dict[str, str]:
    """Name to version of every line in constraints.txt."""
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    found = [line.partition("#")[0].strip() for line in lines]
    return {
        canonicalize_name(line.partition("==")[0]): line.partition("==")[2]
        for line in found
        if line
    }


def project() -> dict:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


# The pins


def test_every_requirement_is_pinned_at_a_version_that_the_package_accepts():
    for text in ["torch>=2.11", *setup_venv.requirements(["dev", "hf"])]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)]), text


def test_every_requirement_of_ours_has_its_reason_beside_the_pin():
    direct = {canonicalize_name(Requirement(r).name) for r in setup_venv.requirements(["dev"])}
    for line in (REPOSITORY / "constraints.txt").read_text().splitlines():
        if canonicalize_name(line.partition("==")[0]) in direct:
            assert "  # " in line, line


def test_torch_is_pinned_once_and_installed_on_its_own():
    assert f"torch=={pins()['torch']}" == setup_venv.TORCH
    assert not [r for r in setup_venv.requirements(["dev", "hf"]) if r.startswith("torch")]


def test_the_build_asks_for_no_torch():
    build = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["build-system"]
    assert [Requirement(text).name for text in build["requires"]] == ["setuptools", "pybind11"]


def test_the_package_accepts_more_than_the_pins():
    torch = Requirement(project()["dependencies"][0])
    assert torch.specifier.contains("2.11.0") and torch.specifier.contains("3.0")
    assert project()["requires-python"] == ">=3.11"


# Doing only what is needed


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that setup reads, in a folder of their own."""
    for name in ("constraints.txt", "pyproject.toml", "setup.py", "Makefile"):
        shutil.copy(REPOSITORY / name, tmp_path)
    shutil.copytree(REPOSITORY / "tools", tmp_path / "tools")
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "ops.cpp").write_text("// nothing\n")
    (tmp_path / "megafm").mkdir()
    monkeypatch.setattr(setup_venv, "ROOT", tmp_path)
    return tmp_path


def libraries(checkout: Path) -> list[Path]:
    return [checkout / "megafm" / library.file_name for library in compile_ops.LIBRARIES]


@pytest.fixture
def steps(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages that setup ran, none of them for real."""
    ran: list[str] = []

    def make_venv(venv: Path) -> None:
        ran.append("venv")
        venv.mkdir(exist_ok=True)

    def install_megafm(venv: Path) -> None:
        ran.append("megafm")
        for library in libraries(checkout):
            library.touch()

    monkeypatch.setattr(setup_venv, "check_machine", lambda venv: None)
    monkeypatch.setattr(setup_venv, "make_venv", make_venv)
    monkeypatch.setattr(setup_venv, "install_packages", lambda *_: ran.append("packages"))
    monkeypatch.setattr(setup_venv, "install_megafm", install_megafm)
    return ran


def run_setup(checkout: Path) -> None:
    setup_venv.setup(checkout / ".venv", None)


def test_the_second_run_does_nothing(checkout, steps, capsys):
    run_setup(checkout)
    assert steps == ["venv", "packages", "megafm"]
    run_setup(checkout)
    assert steps == ["venv", "packages", "megafm"]
    assert capsys.readouterr().out.endswith("setup: .venv is up to date\n")


def test_a_touched_source_is_compiled_again_as_doctor_asks(checkout, steps):
    run_setup(checkout)
    ahead = (checkout / "megafm" / "_ops.so").stat().st_mtime + 1
    os.utime(checkout / "csrc" / "ops.cpp", (ahead, ahead))
    run_setup(checkout)
    assert steps == ["venv", "packages", "megafm", "megafm"]


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("csrc/ops.cpp", ["megafm"]),
        ("csrc/new.h", ["megafm"]),
        ("setup.py", ["megafm"]),
        ("tools/compile_ops.py", ["megafm"]),
        ("tools/compile_cuda.py", ["megafm"]),
        ("constraints.txt", ["venv", "packages", "megafm"]),
        ("pyproject.toml", ["venv", "packages", "megafm"]),
    ],
)
def test_a_changed_file_repeats_the_stages_that_read_it(checkout, steps, name, again):
    run_setup(checkout)
    steps.clear()
    with (checkout / name).open("a") as file:
        file.write("\n")
    run_setup(checkout)
    assert steps == again


def test_another_list_of_architectures_builds_again(checkout, steps, monkeypatch):
    run_setup(checkout)
    steps.clear()
    monkeypatch.setenv("MEGAFM_CUDA_ARCHS", "80")
    run_setup(checkout)
    assert steps == ["megafm"]


def test_a_lost_library_is_built_again(checkout, steps):
    run_setup(checkout)
    for library in libraries(checkout):
        steps.clear()
        library.unlink()
        run_setup(checkout)
        assert steps == ["megafm"]


def test_a_failure_is_not_taken_for_done(checkout, steps, monkeypatch):
    def fail(*_: object) -> None:
        raise SetupError("pip: no network")

    with monkeypatch.context() as broken:
        broken.setattr(setup_venv, "install_packages", fail)
        with pytest.raises(SetupError):
            run_setup(checkout)
    with monkeypatch.context() as broken:
        broken.setattr(setup_venv, "install_megafm", fail)
        with pytest.raises(SetupError):
            run_setup(checkout)
    steps.clear()
    run_setup(checkout)
    assert steps == ["megafm"]


# What the machine lacks


def make(checkout: Path, *variables: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        [shutil.which("make") or "make", "setup", *variables],
        cwd=checkout,
        env={**inherited, **environment},  # these tests may run under make themselves
        capture_output=True,
        text=True,
    )


def error_of(run: subprocess.CompletedProcess[str]) -> str:
    """The one line about the failure; make adds a line of its own."""
    assert run.returncode != 0
    lines = [line for line in run.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1, run.stderr
    assert lines[0].startswith("setup: error: ")
    return lines[0]


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="no make")


@needs_make
def test_no_python(checkout):
    line = error_of(make(checkout, "PYTHON=python3.99"))
    assert "no python3.99 on the PATH; apt-get install python3 python3-venv" in line


@needs_make
def test_an_old_python(checkout):
    old = checkout / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n')
    old.chmod(0o755)
    line = error_of(make(checkout, f"PYTHON={old}"))
    assert "Python 3.9.2 is too old, megafm needs 3.11 or newer" in line
    assert "make setup PYTHON=" in line


@needs_make
def test_no_venv_module(checkout):
    (checkout / "ensurepip.py").write_text("raise ImportError\n")
    line = error_of(make(checkout, f"PYTHON={sys.executable}", PYTHONPATH=str(checkout)))
    assert f"apt-get install python3.{sys.version_info[1]}-venv" in line


@needs_make
def test_no_compiler(checkout):
    empty = checkout / "bin"
    empty.mkdir()
    (empty / "sh").symlink_to("/bin/sh")
    line = error_of(make(checkout, f"PYTHON={sys.executable}", PATH=str(empty), CXX=""))
    assert line.endswith("no C++ compiler on the PATH; apt-get install g++ (or set CXX)")
    line = error_of(make(checkout, f"PYTHON={sys.executable}", CXX="nothing++"))
    assert line.endswith("CXX=nothing++ is not an executable; set CXX to a C++20 compiler")


def test_no_python_headers(checkout, monkeypatch):
    monkeypatch.setattr(compile_ops.sysconfig, "get_path", lambda _: "/nowhere")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    with pytest.raises(SetupError, match=f"Python.h is not in /nowhere; .*python{version}-dev"):
        setup_venv.check_machine(checkout / ".venv")


def test_a_disk_without_room(checkout, monkeypatch):
    usage = namedtuple("usage", "free")(1.2e9)
    monkeypatch.setattr(setup_venv.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setenv("CXX", sys.executable)  # any program will do
    with pytest.raises(SetupError, match="1.2 GB free in .*, setup needs 4 GB"):
        setup_venv.check_machine(checkout / ".venv")
    (checkout / ".venv/lib/python3.11/site-packages/torch").mkdir(parents=True)
    setup_venv.check_machine(checkout / ".venv")  # what takes the room is there already


@pytest.fixture
def pip_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A venv whose python is this one, without the settings of this machine's pip."""
    python = tmp_path / "only" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")
    return tmp_path / "only"


def test_no_network(pip_only, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nothing listens there
    download = ["download", "--no-deps", "--dest", str(pip_only), "torch==2.13.0"]
    with pytest.raises(SetupError, match="the package index cannot be reached; check the network"):
        setup_venv.pip(pip_only, download)


def test_the_index_lacks_a_version(pip_only, tmp_path, monkeypatch):
    index = tmp_path / "index" / "six"
    index.mkdir(parents=True)
    (index / "index.html").write_text('<a href="six-1.0-py3-none-any.whl">six</a>')
    monkeypatch.setenv("PIP_INDEX_URL", index.parent.as_uri())
    download = ["download", "--no-deps", "--dest", str(pip_only), "six==2.0"]
    with pytest.raises(SetupError, match="the index has no six==2.0 for Python 3"):
        setup_venv.pip(pip_only, download)


def test_a_disk_that_fills_up_is_told_from_other_failures():
    full = "ERROR: Could not install: [Errno 28] No space left on device"
    assert (setup_venv.known_cause(full) or "").startswith("the disk is full; free some space")
    assert setup_venv.known_cause("ERROR: bad metadata in x") is None


def test_an_unusual_failure_shows_what_the_command_said(pip_only, capsys):
    with pytest.raises(SetupError, match="pip: failed with exit code 2"):
        setup_venv.pip(pip_only, ["install", "--no-such-option"])
    assert "no such option" in capsys.readouterr().err


# One torch


def test_the_same_torch_and_no_new_cuda_package_pass():
    alone = {"torch": "2.13.0", "nvidia-nccl-cu13": "2.29", "triton": "3.6"}
    setup_venv.check_one_torch(alone, {**alone, "numpy": "2.4", "cudf-like": "1"})


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ({"torch": "2.14.0"}, r"torch went from 2.13.0\+cpu to 2.14.0"),
        ({"torch": "2.13.0+cpu", "nvidia-cublas": "13"}, "nvidia-cublas came without torch"),
        ({"torch": "2.13.0+cpu", "cuda-bindings": "13.0"}, "cuda-bindings came without torch"),
    ],
)
def test_a_second_torch_or_a_cuda_package_is_refused(after, message):
    with pytest.raises(SetupError, match=message):
        setup_venv.check_one_torch({"torch": "2.13.0+cpu"}, after)


def test_installed_reads_names_and_versions_of_a_venv(tmp_path):
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    for name in ("torch-2.13.0+cpu", "nvidia_nccl_cu13-2.29", "PyYAML-6.0"):
        (packages / f"{name}.dist-info").mkdir(parents=True)
    assert setup_venv._installed(tmp_path) == {
        "torch": "2.13.0+cpu",
        "nvidia-nccl-cu13": "2.29",
        "pyyaml": "6.0",
    }


# For real


@needs_make
def test_make_setup_returns_at_once_in_a_checkout_that_is_set_up(checkout):
    stamp = checkout / ".venv" / "megafm-setup.json"
    stamp.parent.mkdir()
    for library in libraries(checkout):
        library.touch()
    script = (
        "import json, setup_venv as s; from pathlib import Path\n"
        f"s.ROOT = Path({str(checkout)!r})\n"
        f"Path({str(stamp)!r}).write_text(json.dumps(s.stamps()))\n"
    )
    tools = str(checkout / "tools")
    subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": tools}, check=True
    )
    began = time.monotonic()
    run = make(checkout, f"PYTHON={sys.executable}")
    assert (run.stdout, run.returncode) == ("setup: .venv is up to date\n", 0)
    assert time.monotonic() - began < 2
