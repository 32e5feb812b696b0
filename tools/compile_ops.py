"""Compile csrc/ into the two C++ libraries of megafm, rebuilding only what changed.

`megafm/_ops.so`, the ops, is a plain shared library on the LibTorch stable ABI: it holds no Python
symbol, and of torch it names only libtorch_cpu.so, which the torch that loads it has in memory. So
one binary serves every Python >= 3.11 and every torch >= 2.11, and compiling it needs torch's
headers alone (torch is never imported here). `megafm._index` (csrc/index), loops over documents
and samples, is a pybind11 module: it needs no torch, and serves the Python it is compiled for.

`csrc/**/*.kernel.cpp` hold the loops and include no torch header; each is compiled once per
instruction set. `csrc/cuda` goes into the ops where nvcc and a GPU are, or MEGAFM_CUDA_ARCHS says
for which (compile_cuda.py). Every other source is compiled once. An object is rebuilt when its
command line, its source or a header that it read (the compiler's dependency file) changed.

    python tools/compile_ops.py               megafm/_ops.so and megafm/_index.*.so
    python tools/compile_ops.py --strict      every warning is an error, nothing is linked
    python tools/compile_ops.py --sanitize    AddressSanitizer and UBSan, into build/sanitize/
    python tools/compile_ops.py --emulate     the CUDA kernels compiled for csrc/emulator alone,
                                              build/emulated/_ops_emulated.so

Standard library only: setup.py imports it in an otherwise empty build environment.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import compile_cuda

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
# Without contraction and by the letter: what the emulator computes is compared with a rule.
EMULATE_FLAGS = [
    "-DMEGAFM_EMULATE",
    "-Werror",
    "-DMEGAFM_SM90A",
    "-O2",
    "-g",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-Wno-unknown-pragmas",  # unroll
    "-Wno-psabi",  # of parameters as aligned as tensor maps
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


REMEDY = "megafm needs g++ >= 11 or clang >= 14 (set CXX), or MEGAFM_BUILD_OPS=0 to go without"
PTXAS = re.compile(r"ptxas info|    \d+ bytes stack frame")  # what -Xptxas=-v adds, kept in a log


class BuildError(Exception):
    """The extension cannot be built here; the message is one line with the remedy."""


@dataclass(frozen=True)
class Library:
    """A library: the name of its file and its sources in csrc/."""

    name: str
    file_name: str
    patterns: tuple[str, ...]

    def sources(self, *more: str) -> list[Path]:
        """Those of its patterns, and of `more`."""
        patterns = (*self.patterns, *more)
        return sorted(path for pattern in patterns for path in (ROOT / "csrc").glob(pattern))


OPS = Library("ops", "_ops.so", ("*.cpp", "cpu/*.cpp"))
INDEX = Library("index", f"_index{sysconfig.get_config_var('EXT_SUFFIX')}", ("index/*.cpp",))
LIBRARIES = (OPS, INDEX)  # in megafm/
HOST_OF_CUDA = ("cuda/*.cpp",)  # includes nothing of CUDA
CUDA = (*HOST_OF_CUDA, "cuda/*.cu")  # of the ops too, where they are wanted
EMULATED = Library("emulated", "_ops_emulated.so", ("*.cpp", *CUDA, "emulator/*.cpp"))


@dataclass(frozen=True)
class Unit:
    """One object file: the compiler's command line without the output options."""

    source: Path
    obj: Path
    command: list[str]
    remedy: str = REMEDY

    @property
    def log(self) -> Path:
        """What the compiler said."""
        return self.obj.with_suffix(".log")

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
    cuda = library is OPS and not (strict or sanitize) and compile_cuda.why_without() is None
    reason = why_not(library) or (compile_cuda.why_not() if cuda else None)
    if reason is not None:
        raise BuildError(reason)
    began = time.monotonic()
    flavour = "strict" if strict else "sanitize" if sanitize else ""
    extra = ["-Werror"] if strict else SANITIZE_FLAGS if sanitize else []
    folder = ROOT / "build" / "-".join(filter(None, [library.name, flavour]))
    more = CUDA if cuda else HOST_OF_CUDA if strict and library is OPS else ()
    units = _units(library, library.sources(*more), folder, extra)
    num_stale = compile_units(units, compile_cuda.num_jobs() if cuda else None)
    built = f"compiled {num_stale} of {len(units)} objects"
    if not strict:
        cudart = compile_cuda.link_flags() if cuda else []
        _link([unit.obj for unit in units], out, [*extra, *cudart, *_link_flags(library)])
        built = f"{_shown(out)} ({built})"
    seconds = time.monotonic() - began
    isas = f" for {' '.join(isa_names())}" if library is OPS else ""
    kernels = f", {compile_cuda.summary()}" if cuda else ""
    return f"{library.name}: {built}{isas} with {compiler_name()}{kernels} in {seconds:.1f} s"


def compile_units(units: list[Unit], jobs: int | None = None) -> int:
    """Compile what is not up to date; how many those were. Raises BuildError."""
    stale = [unit for unit in units if not _up_to_date(unit)]
    with ThreadPoolExecutor(max_workers=jobs or os.cpu_count()) as pool:
        for failure in pool.map(_compile, stale):
            if failure is not None:
                raise BuildError(failure)
    return len(stale)


def why_not(library: Library = OPS) -> str | None:
    """Why the library cannot be built in this environment, with the remedy; None if it can."""
    missing = why_no_python_headers() or _no_pybind11() if library is INDEX else _no_torch()
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


def _units(library: Library, sources: list[Path], folder: Path, extra: list[str]) -> list[Unit]:
    flags = _compile_flags(library)
    base = [*(compiler() or []), *COMMON_FLAGS, *extra, "-I", str(ROOT / "csrc")]
    folder.mkdir(parents=True, exist_ok=True)
    units = []
    for source in sources:
        stem = ".".join(source.relative_to(ROOT / "csrc").with_suffix("").parts)
        if source.name.endswith(".kernel.cpp"):
            for isa, isa_flags in ISA_FLAGS.get(platform.machine(), {"plain": []}).items():
                command = [*base, *KERNEL_FLAGS, f"-DMEGAFM_ISA={isa}", *isa_flags]
                units.append(Unit(source, folder / f"{stem}.{isa}.o", command))
        elif source.suffix == ".cu" and library is OPS:
            codes = compile_cuda.architecture_flags(source, compile_cuda.archs())
            if codes:
                units.append(cuda_unit(source, folder / f"{stem}.cu.o", codes))
        else:
            language = ["-x", "c++"] if source.suffix == ".cu" else []
            obj = folder / f"{stem}{source.suffix.removesuffix('.cpp')}.o"
            units.append(Unit(source, obj, [*base, *flags, *language]))
    return units


def cuda_unit(source: Path, obj: Path, codes: list[str]) -> Unit:
    """A file of kernels, which includes no torch header, compiled by nvcc for these codes."""
    toolkit = compile_cuda.toolkit()
    assert toolkit is not None  # compile_cuda.why_not() looked
    command = [*toolkit.nvcc, *compile_cuda.FLAGS, *codes, "-I", str(ROOT / "csrc")]
    return Unit(source, obj, command, compile_cuda.REMEDY)


def _compile_flags(library: Library) -> list[str]:
    """-isystem: the warnings of others' headers are not ours to fix."""
    if library is not INDEX:
        torch = [TORCH_TARGET, "-isystem", str(_package_folder("torch") / "include")]
        return [*(EMULATE_FLAGS if library is EMULATED else []), *torch]
    folders = [str(_package_folder("pybind11") / "include"), sysconfig.get_path("include")]
    return [flag for folder in folders for flag in ("-isystem", folder)]


def _link_flags(library: Library) -> list[str]:
    if library is not INDEX:
        return [f"-L{_package_folder('torch') / 'lib'}", "-ltorch_cpu", "-pthread"]
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
    sys.stderr.writelines(line for line in run.stderr.splitlines(True) if not PTXAS.match(line))
    unit.log.write_text(run.stderr)
    if run.returncode != 0:
        return f"{_shown(unit.source)} does not compile (above); {unit.remedy}"
    unit.command_file.write_text(" ".join(unit.command))
    return None


def _link(objects: list[Path], out: Path, flags: list[str]) -> None:
    """Link what changed to a new file and rename it: a process that has the old one keeps it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f"{out.name}.{os.getpid()}")
    command = [*(compiler() or []), "-shared", "-Wl,-O1", "-o", str(unfinished)]
    command += [*map(str, objects), *flags]
    # One set of objects is linked to several places (the checkout, a wheel): each is judged alone.
    listed = objects[0].with_name(f"{str(out.resolve()).replace(os.sep, '.')}.objects")
    names = " ".join(map(str, objects))  # kernels may have come or gone
    newest = max(obj.stat().st_mtime_ns for obj in objects)
    same = listed.exists() and listed.read_text() == names
    if same and out.exists() and newest <= out.stat().st_mtime_ns:
        out.touch()  # doctor compares its time with that of csrc/
        return
    run = subprocess.run(command, capture_output=True, text=True)
    sys.stderr.write(run.stderr)
    if run.returncode != 0:
        unfinished.unlink(missing_ok=True)
        raise BuildError(f"linking {_shown(out)} failed (above); set CXX to another compiler")
    unfinished.replace(out)
    listed.write_text(names)


def _shown(path: Path) -> str:
    path = path.resolve()
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile csrc/ into megafm/_ops.so and _index.")
    parser.add_argument("--strict", action="store_true", help="-Werror, compile only")
    parser.add_argument("--sanitize", action="store_true", help="AddressSanitizer and UBSan")
    parser.add_argument("--emulate", action="store_true", help="CUDA kernels on the emulator")
    parser.add_argument("--only", choices=[library.name for library in LIBRARIES], help="one")
    options = parser.parse_args()
    place = "emulated" if options.emulate else ""
    flavour = "sanitize" if options.sanitize else ""
    inside = "-".join(filter(None, [place, flavour]))
    folder = ROOT / "build" / inside if inside else ROOT / "megafm"
    wanted = [library for library in LIBRARIES if options.only in (None, library.name)]
    for library in (EMULATED,) if options.emulate else wanted:
        out = folder / library.file_name
        try:
            print(build(out, library, strict=options.strict, sanitize=options.sanitize))
        except BuildError as error:
            sys.exit(f"{library.name}: error: {error}")


if __name__ == "__main__":
    main()
