"""What lands in a wheel and in a source archive, and that the pure wheel works on its own.

The pure build is done by a Python that sees setuptools and nothing else, on an empty PATH: no
torch, no compiler, no network, as in pip's isolated build environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import setuptools

import megafm
from megafm.cli import JOBS

REPOSITORY = Path(__file__).parent.parent
EXTENSION = sysconfig.get_config_var("EXT_SUFFIX")
SOURCES = ("megafm", "hydra_conf", "csrc", "tools")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, with an op library that an editable install left behind."""
    copy = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("__pycache__", "*.so")
    for folder in SOURCES:
        shutil.copytree(REPOSITORY / folder, copy / folder, ignore=ignore)
    for path in REPOSITORY.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, copy)
    (copy / "megafm" / "_ops.so").write_bytes(b"of another machine")
    (copy / "tests").mkdir()
    (copy / "tests" / "test_one.py").touch()
    return copy


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a Python with setuptools and without everything else."""
    folder = tmp_path_factory.mktemp("build_environment")
    site_packages = Path(setuptools.__file__).parent.parent
    for pattern in ("setuptools*", "_distutils_hack"):  # the package and its entry points
        for path in site_packages.glob(pattern):
            (folder / path.name).symlink_to(path)
    return {"PYTHONPATH": str(folder), "PATH": str(folder), "HOME": str(folder)}


def backend(call: str, checkout: Path, environment: dict[str, str], *options: str) -> str:
    """Call setuptools as pip does; the answer is everything that it printed."""
    script = f"from setuptools import build_meta; build_meta.{call}"
    run = subprocess.run(
        [sys.executable, *options, "-c", script],
        cwd=checkout,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert run.returncode == 0, run.stdout
    return run.stdout


@pytest.fixture(scope="module")
def pure_wheel(checkout: Path, alone: dict[str, str], tmp_path_factory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("pure")
    output = backend(f"build_wheel({str(out)!r})", checkout, alone, "-S")
    (wheel,) = out.glob("*.whl")
    return wheel, output


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def configs() -> set[str]:
    found = (REPOSITORY / "hydra_conf").rglob("*.yaml")
    return {f"megafm/hydra_conf/{path.relative_to(REPOSITORY / 'hydra_conf')}" for path in found}


def test_an_isolated_build_is_pure_and_says_once_why(pure_wheel):
    wheel, output = pure_wheel
    assert wheel.name == f"megafm-{megafm.__version__}-py3-none-any.whl"
    told = [line for line in output.splitlines() if line.startswith("megafm:")]
    assert len(told) == 2
    assert "no C++ ops: torch is not in the build environment" in told[0]
    assert "pip install --no-build-isolation ." in told[0]
    assert "no C++ index: pybind11 is not in the build environment" in told[1]


def test_the_pure_wheel_holds_every_module_and_config_and_no_binary(pure_wheel):
    names = names_in(pure_wheel[0])
    modules = {
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / "megafm").rglob("*.py")
        if (path.parent / "__init__.py").exists()
    }
    assert modules <= names
    assert configs() <= names and configs()
    assert not [name for name in names if name.endswith((".so", ".cpp", ".o", ".pyc"))]
    assert {name.split("/")[0].split("-")[0] for name in names} == {"megafm"}


def test_the_wheel_states_licence_python_and_the_lowest_torch(pure_wheel):
    with zipfile.ZipFile(pure_wheel[0]) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        metadata = archive.read(name).decode().splitlines()
        licences = [name for name in archive.namelist() if "/licenses/" in name]
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.11" in metadata
    assert "Requires-Dist: torch>=2.11" in metadata
    assert [Path(name).name for name in licences] == ["LICENSE"]


@pytest.fixture(scope="module")
def installed(pure_wheel: tuple[Path, str], tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("target")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*command, "--target", str(target), str(pure_wheel[0])], check=True)
    return target


def test_the_pure_wheel_imports_and_computes_without_compiler_triton_or_gpu(installed):
    script = f"""
import sys
for name in ("triton", "transformer_engine", "apex", "transformers"):
    sys.modules[name] = None  # importing it fails
import shutil, torch
assert not torch.cuda.is_available() and shutil.which("g++") is None
import megafm
from megafm import completion, config, ops
assert megafm.__file__.startswith({str(installed)!r}), megafm.__file__
assert config.config_dir() == config.Path(megafm.__file__).parent / "hydra_conf"
for name in {list(JOBS)!r}:
    __import__(completion.module_of(name))
x = torch.randn(3, 8, requires_grad=True)
ops.rms_norm(x, torch.ones(8)).sum().backward()
assert x.grad.isfinite().all()
print("works")
"""
    environment = {
        "PATH": str(installed / "empty"),
        "PYTHONPATH": str(installed),
        "HOME": str(installed),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=installed,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "works"


def test_the_source_archive_builds_the_ops_again_later(checkout, alone, tmp_path):
    backend(f"build_sdist({str(tmp_path)!r})", checkout, alone, "-S")
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    wanted = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "csrc").rglob("*.*pp")}
    wanted |= {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "csrc").rglob("*.h")}
    wanted |= {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "csrc").rglob("*.cu*")}
    wanted |= {name.removeprefix("megafm/") for name in configs()}
    wanted |= {
        "setup.py",
        "pyproject.toml",
        "tools/compile_ops.py",
        "tools/compile_cuda.py",
        "LICENSE",
        "README.md",
    }
    assert wanted <= names
    assert not [name for name in names if name.startswith("tests/")]  # part of them runs nothing
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_with_torch_at_hand_the_wheel_holds_both_libraries(tmp_path):
    # In the checkout itself: there the objects of the last build are up to date.
    output = backend(f"build_wheel({str(tmp_path)!r})", REPOSITORY, dict(os.environ))
    (wheel,) = tmp_path.glob("*.whl")
    python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert wheel.name.startswith(f"megafm-{megafm.__version__}-{python}-{python}-linux_")
    assert {"megafm/_ops.so", f"megafm/_index{EXTENSION}"} <= names_in(wheel)
    assert configs() <= names_in(wheel)
    assert output.count("megafm: ops: ") == output.count("megafm: index: ") == 1


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("1", "megafm: error: the C++ ops cannot be built: torch is not in the build"),
        ("maybe", "megafm: error: MEGAFM_BUILD_OPS=maybe: set 0, 1 or auto"),
    ],
)
def test_the_ops_can_be_demanded(wanted, message, checkout, alone, tmp_path):
    run = subprocess.run(
        [sys.executable, "-S", "setup.py", "--version"],
        cwd=checkout,
        env={**alone, "MEGAFM_BUILD_OPS": wanted},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stderr.startswith(message)


def test_an_old_setuptools_is_named_with_a_remedy(checkout, tmp_path):
    (tmp_path / "setuptools").mkdir()
    (tmp_path / "setuptools" / "__init__.py").write_text("__version__ = '65.5.0'\n")
    run = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stderr == (
        "megafm: error: setuptools 65.5.0 is too old; pip install 'setuptools>=77'\n"
    )
