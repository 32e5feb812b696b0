"""Compile csrc/ into the two C++ libraries of megafm, rebuilding only what changed.

`megafm/_ops.so`, the ops, is a plain shared library on the LibTorch stable ABI: it holds no Python
symbol, and of torch it names only libtorch_cpu.so, which the torch that loads it has in memory. So
one binary serves every Python >= 3.11 and every torch >= 2.11, and compiling it needs torch's
headers alone (torch is never imported here). `megafm._index` (csrc/index), loops over documents
and samples, is a pybind11 module: it needs no torch, and serves the Python it is compiled for.

`csrc/**/*.kernel.cpp` hold the loops and include no torch header; each is compiled once per
instruction set. Every other source is compiled once. An object is rebuilt when its command line,
its source or a header that it read (the compiler's dependency file) changed.

    python tools/compile_ops.py               megafm/_ops.so and megafm/_index.*.so
    python tools/compile_ops.py --strict      every warning is an error, nothing is linked
    python tools/compile_ops.py --sanitize    AddressSanitizer and UBSan, into build/sanitize/

Standard library only: setup.py imports it in an otherwise empty build environment.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_TORCH = (2, 11)

COMMON_FLAGS = [
    "-std=c++20",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-fopenmp-simd",  # the simd pragma alone, no OpenMP run time
    "-Wall",
    "-Wextra",
]
TORCH_TARGET = f"-DTORCH_TARGET_VERSION=0x{OLDEST_TORCH[0]:02x}{OLDEST_TORCH[1]:02x}000000000000"
# Without the second, g++ keeps comparisons of floats as branches and vectorises no loop of them.
# Without thread-jumps g++ computes what follows a clamp once, not for the bound's branch too.
KERNEL_FLAGS = [
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fno-thread-jumps",
    "-Wno-ignored-optimization-argument",  # clang++ has no such flag
]
SANITIZE_FLAGS = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

AVX512_FLAGS = [
    "-mavx512f",
    "-mavx512bw",
    "-mavx512vl",
    "-mavx512dq",
    "-mfma",
    "-mprefer-vector-width=512",
]
# Per machine type, the instruction sets that each kernel is compiled for; cpuid picks at run time.
ISA_FLAGS = {
    "x86_64": {
        "plain": [],
        "avx2": ["-mavx2", "-mfma", "-mf16c"],
        "avx512": AVX512_FLAGS,
        "avx512bf16": [*AVX512_FLAGS, "-mavx512bf16"],
    },
}


class BuildError(Exception):
    """The extension cannot be built here; the message is one line with the remedy."""


@dataclass(frozen=True)
class Library:
    """One of the two libraries: its file in megafm/ and its sources in csrc/."""

    name: str
    file_name: str
    patterns: tuple[str, ...]

    def sources(self) -> list[Path]:
        found = (path for pattern in self.patterns for path in (ROOT / "csrc").glob(pattern))
        return sorted(found)


OPS = Library("ops", "_ops.so", ("*.cpp", "cpu/*.cpp"))
INDEX = Library("index", f"_index{sysconfig.get_config_var('EXT_SUFFIX')}", ("index/*.cpp",))
LIBRARIES = (OPS, INDEX)


@dataclass(frozen=True)
class Unit:
    """One object file: the compiler's command line without the output options."""

    source: Path
    obj: Path
    command: list[str]

    @property
    def depfile(self) -> Path:
        return self.obj.with_suffix(".d")

    @property
    def command_file(self) -> Path:
        return self.obj.with_suffix(".cmd")


def build(
    out: Path, library: Library = OPS, *, strict: bool = False, sanitize: bool = False
) -> str:
    """Compile and link `out`; the answer is a line that says what was built.

    `strict` makes every warning an error and only compiles. Raises BuildError.
    """
    reason = why_not(library)
    if reason is not None:
        raise BuildError(reason)
    began = time.monotonic()
    flavour = "strict" if strict else "sanitize" if sanitize else ""
    extra = ["-Werror"] if strict else SANITIZE_FLAGS if sanitize else []
    folder = ROOT / "build" / "-".join(filter(None, [library.name, flavour]))
    units = _units(library, folder, extra)
    stale = [unit for unit in units if not _up_to_date(unit)]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for failure in pool.map(_compile, stale):
            if failure is not None:
                raise BuildError(failure)
    built = f"compiled {len(stale)} of {len(units)} objects"
    if not strict:
        _link([unit.obj for unit in units], out, [*extra, *_link_flags(library)])
        built = f"{_shown(out)} ({built})"
    seconds = time.monotonic() - began
    isas = f" for {' '.join(isa_names())}" if library is OPS else ""
    return f"{library.name}: {built}{isas} with {compiler_name()} in {seconds:.1f} s"


def why_not(library: Library = OPS) -> str | None:
    """Why the library cannot be built in this environment, with the remedy; None if it can."""
    missing = _no_torch() if library is OPS else why_no_python_headers() or _no_pybind11()
    return missing or why_no_compiler()


def _no_torch() -> str | None:
    found = importlib.util.find_spec("torch")
    if found is None:
        return "torch is not in the build environment; use pip install --no-build-isolation ."
    version = importlib.metadata.version("torch")
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TORCH:
        return f"torch {version} is older than {OLDEST_TORCH[0]}.{OLDEST_TORCH[1]}; upgrade torch"
    return None


def _no_pybind11() -> str | None:
    if importlib.util.find_spec("pybind11") is None:
        return "pybind11 is not in the build environment; pip install pybind11"
    return None


def why_no_python_headers() -> str | None:
    """Why a Python module cannot be compiled, with the remedy; None if it can."""
    if (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return None
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}-dev"
    return f"Python.h is not in {sysconfig.get_path('include')}; apt-get install {name}"


def why_no_compiler() -> str | None:
    """Why there is no C++ compiler, with the remedy; None if there is one."""
    if compiler() is not None:
        return None
    wanted = os.environ.get("CXX", "").strip()
    if wanted:
        return f"CXX={wanted} is not an executable; set CXX to a C++20 compiler"
    return "no C++ compiler on the PATH; apt-get install g++ (or set CXX)"


def compiler() -> list[str] | None:
    """The C++ compiler's command: $CXX (`ccache g++` too), else g++, clang++ or c++."""
    wanted = os.environ.get("CXX", "").strip()
    commands = [wanted.split()] if wanted else [["g++"], ["clang++"], ["c++"]]
    return next((command for command in commands if shutil.which(command[0])), None)


def compiler_name() -> str:
    """The compiler and its version, for example `g++ 12.2.0`."""
    command = [*(compiler() or ["no compiler"]), "-dumpfullversion", "-dumpversion"]
    run = subprocess.run(command, capture_output=True, text=True)
    return f"{Path(command[-3]).name} {run.stdout.strip()}".strip()


def isa_names() -> list[str]:
    return list(ISA_FLAGS.get(platform.machine(), {"plain": []}))


def _units(library: Library, folder: Path, extra: list[str]) -> list[Unit]:
    flags = _compile_flags(library)
    base = [*(compiler() or []), *COMMON_FLAGS, *extra, "-I", str(ROOT / "csrc")]
    folder.mkdir(parents=True, exist_ok=True)
    units = []
    for source in library.sources():
        stem = ".".join(source.relative_to(ROOT / "csrc").with_suffix("").parts)
        if source.name.endswith(".kernel.cpp"):
            for isa, isa_flags in ISA_FLAGS.get(platform.machine(), {"plain": []}).items():
                command = [*base, *KERNEL_FLAGS, f"-DMEGAFM_ISA={isa}", *isa_flags]
                units.append(Unit(source, folder / f"{stem}.{isa}.o", command))
        else:
            units.append(Unit(source, folder / f"{stem}.o", [*base, *flags]))
    return units


def _compile_flags(library: Library) -> list[str]:
    """-isystem: the warnings of others' headers are not ours to fix."""
    if library is OPS:
        return [TORCH_TARGET, "-isystem", str(_package_folder("torch") / "include")]
    folders = [str(_package_folder("pybind11") / "include"), sysconfig.get_path("include")]
    return [flag for folder in folders for flag in ("-isystem", folder)]


def _link_flags(library: Library) -> list[str]:
    if library is OPS:
        return [f"-L{_package_folder('torch') / 'lib'}", "-ltorch_cpu"]
    return ["-pthread"]


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None  # why_not() looked
    return Path(spec.origin).parent


def _up_to_date(unit: Unit) -> bool:
    try:
        if unit.command_file.read_text() != " ".join(unit.command):
            return False
        built = unit.obj.stat().st_mtime_ns
        read = unit.depfile.read_text().replace("\\\n", " ").partition(":")[2].split()
        return all(os.stat(path).st_mtime_ns <= built for path in read)
    except OSError:  # never built, or a header is gone
        return False


def _compile(unit: Unit) -> str | None:
    """Compile one unit; the answer is None or one line about the failure."""
    unit.command_file.unlink(missing_ok=True)
    run = subprocess.run(
        [*unit.command, "-MMD", "-MF", unit.depfile, "-c", unit.source, "-o", unit.obj],
        capture_output=True,
        text=True,
    )
    sys.stderr.write(run.stderr)
    if run.returncode != 0:
        return (
            f"{_shown(unit.source)} does not compile with {compiler_name()} (above); "
            "megafm needs g++ >= 11 or clang >= 14 (set CXX), or MEGAFM_BUILD_OPS=0 to go without"
        )
    unit.command_file.write_text(" ".join(unit.command))
    return None


def _link(objects: list[Path], out: Path, flags: list[str]) -> None:
    """Link what changed to a new file and rename it: a process that has the old one keeps it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f"{out.name}.{os.getpid()}")
    command = [*(compiler() or []), "-shared", "-Wl,-O1", "-o", str(unfinished)]
    command += [*map(str, objects), *flags]
    # One set of objects is linked to several places (the checkout, a wheel): each is judged alone.
    if out.exists() and all(obj.stat().st_mtime_ns <= out.stat().st_mtime_ns for obj in objects):
        out.touch()  # doctor compares its time with that of csrc/
        return
    run = subprocess.run(command, capture_output=True, text=True)
    sys.stderr.write(run.stderr)
    if run.returncode != 0:
        unfinished.unlink(missing_ok=True)
        raise BuildError(f"linking {_shown(out)} failed (above); set CXX to another compiler")
    unfinished.replace(out)


def _shown(path: Path) -> str:
    path = path.resolve()
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile csrc/ into megafm/_ops.so and _index.")
    parser.add_argument("--strict", action="store_true", help="-Werror, compile only")
    parser.add_argument("--sanitize", action="store_true", help="AddressSanitizer and UBSan")
    options = parser.parse_args()
    folder = ROOT / "build" / "sanitize" if options.sanitize else ROOT / "megafm"
    for library in LIBRARIES:
        out = folder / library.file_name
        try:
            print(build(out, library, strict=options.strict, sanitize=options.sanitize))
        except BuildError as error:
            sys.exit(f"{library.name}: error: {error}")


if __name__ == "__main__":
    main()
