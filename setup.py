"""The part of the build that pyproject.toml cannot say: the C++ and the YAML in the package.

With a compiler at hand the module megafm._index is built, with torch at hand too (`pip install
--no-build-isolation .`) also the op library, megafm/_ops.so. What cannot be built is left out, and
said. MEGAFM_BUILD_OPS=1 makes that an error, =0 leaves out both.
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
MISSING = {
    library: "MEGAFM_BUILD_OPS=0" if WANTED == "0" else compile_ops.why_not(library)
    for library in compile_ops.LIBRARIES
}
if WANTED == "1":
    for library, reason in MISSING.items():
        if reason is not None:
            sys.exit(f"megafm: error: the C++ {library.name} cannot be built: {reason}")


class BuildPackage(build_py):
    """Also copies hydra_conf/ to megafm/hydra_conf, where megafm.config.config_dir() finds it."""

    def run(self) -> None:
        for library, reason in MISSING.items():
            if reason is not None:
                print(f"megafm: warning: no C++ {library.name}: {reason}", file=sys.stderr)
        if self.editable_mode:  # the checkout's own hydra_conf/ is used
            return super().run()
        shutil.rmtree(self.build_lib, ignore_errors=True)  # modules deleted since an older build
        super().run()
        shutil.copytree(
            ROOT / "hydra_conf",
            Path(self.build_lib) / "megafm" / "hydra_conf",
            ignore=lambda _, names: [name for name in names if name.startswith((".", "__"))],
        )


class BuildLibraries(build_ext):
    """Hands each extension to tools/compile_ops.py."""

    def get_ext_filename(self, fullname: str) -> str:
        *package, name = fullname.split(".")  # setuptools asks with the package and without
        return str(Path(*package, EXTENSIONS[name].file_name))

    def build_extension(self, ext: Extension) -> None:
        library = EXTENSIONS[ext.name.rpartition(".")[2]]
        try:
            message = compile_ops.build(Path(self.get_ext_fullpath(ext.name)), library)
        except compile_ops.BuildError as error:
            sys.exit(f"megafm: error: the C++ {library.name} cannot be built: {error}")
        print(f"megafm: {message}", file=sys.stderr)


class TagWheel(bdist_wheel):
    """The op library holds no Python symbol: a wheel with it alone serves every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, system = super().get_tag()
        any_python = MISSING[compile_ops.INDEX] is not None and not self.root_is_pure
        return ("py3", "none", system) if any_python else (python, abi, system)


EXTENSIONS = {f"_{library.name}": library for library, reason in MISSING.items() if reason is None}

setup(
    ext_modules=[
        Extension(
            f"megafm.{name}",
            [str(path.relative_to(ROOT)) for path in library.sources()],
            language="c++",
        )
        for name, library in EXTENSIONS.items()
    ],
    cmdclass={"build_py": BuildPackage, "build_ext": BuildLibraries, "bdist_wheel": TagWheel},
)
