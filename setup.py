"""The part of the build that pyproject.toml cannot say: the C++ ops and the YAML in the package.

With torch and a compiler at hand (`pip install --no-build-isolation .`) the op library is built
and goes into the package as megafm/_ops.so. Without them (an isolated `pip install .`) the result
is pure Python and says so. MEGAFM_BUILD_OPS=1 makes a missing compiler an error, =0 skips the ops.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import setuptools

if int(setuptools.__version__.partition(".")[0]) < 77:  # of a new venv, without build isolation
    sys.exit(
        f"megafm: error: setuptools {setuptools.__version__} is too old; "
        "pip install 'setuptools>=77'"
    )

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))
import compile_ops  # noqa: E402  (found only through the line above)

WANTED = os.environ.get("MEGAFM_BUILD_OPS", "auto")
if WANTED not in ("0", "1", "auto"):
    sys.exit(f"megafm: error: MEGAFM_BUILD_OPS={WANTED}: set 0, 1 or auto")
MISSING = "MEGAFM_BUILD_OPS=0" if WANTED == "0" else compile_ops.why_not()
if MISSING is not None and WANTED == "1":
    sys.exit(f"megafm: error: the C++ ops cannot be built: {MISSING}")


class BuildPackage(build_py):
    """Also copies hydra_conf/ to megafm/hydra_conf, where megafm.config.config_dir() finds it."""

    def run(self) -> None:
        if MISSING is not None:
            print(f"megafm: warning: pure Python, without the C++ ops: {MISSING}", file=sys.stderr)
        if self.editable_mode:  # the checkout's own hydra_conf/ is used
            return super().run()
        shutil.rmtree(self.build_lib, ignore_errors=True)  # modules deleted since an older build
        super().run()
        shutil.copytree(
            ROOT / "hydra_conf",
            Path(self.build_lib) / "megafm" / "hydra_conf",
            ignore=lambda _, names: [name for name in names if name.startswith((".", "__"))],
        )


class BuildOps(build_ext):
    """Hands the one extension to tools/compile_ops.py."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")).with_suffix(".so"))  # no Python ABI in the name

    def build_extension(self, ext: Extension) -> None:
        try:
            message = compile_ops.build(Path(self.get_ext_fullpath(ext.name)))
        except compile_ops.BuildError as error:
            sys.exit(f"megafm: error: the C++ ops cannot be built: {error}")
        print(f"megafm: {message}", file=sys.stderr)


class TagWheel(bdist_wheel):
    """The op library holds no Python symbol, so its wheel serves every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, system = super().get_tag()
        return (python, abi, system) if self.root_is_pure else ("py3", "none", system)


OPS = Extension(
    "megafm._ops", [str(path.relative_to(ROOT)) for path in compile_ops.sources()], language="c++"
)

setup(
    ext_modules=[] if MISSING is not None else [OPS],
    cmdclass={"build_py": BuildPackage, "build_ext": BuildOps, "bdist_wheel": TagWheel},
)
