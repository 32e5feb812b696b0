"""What the build of csrc/cuda needs to know: the CUDA toolkit, and what chips to compile for.

    MEGAFM_CUDA_ARCHS="80;90a"   compile for these; "none": go without CUDA kernels
    NVCC=/path/to/nvcc           else the nvcc on the PATH, else that under $CUDA_HOME

Without MEGAFM_CUDA_ARCHS the architectures are those of the GPUs of this machine; without a GPU
there are none. Whatever the list, PTX for compute_80 is shipped beside it, which the driver
compiles for any later chip. Nothing is downloaded, and libcuda is not linked.

Standard library only, like compile_ops.py.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ARCHS = "MEGAFM_CUDA_ARCHS"
OLDEST_ARCH = 80
OLDEST_NVCC = (12, 8)  # knows the Blackwell chips, and kernel parameters of 32 KiB
BYTES_PER_JOB = 2 << 30  # of memory, of one nvcc
MEMINFO = Path("/proc/meminfo")

REMEDY = f"megafm needs nvcc >= 12.8 (set NVCC), or {ARCHS}=none to go without CUDA kernels"
FLAGS = ["-std=c++20", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra"]


@dataclass(frozen=True)
class Toolkit:
    """An nvcc, its (major, minor) release, and the folder of its libraries."""

    nvcc: list[str]
    release: tuple[int, int]
    libraries: Path

    @property
    def name(self) -> str:
        return f"nvcc {self.release[0]}.{self.release[1]}"


def why_without() -> str | None:
    """Why the library is built without CUDA kernels, with the remedy; None if it is with them.

    Kernels that were asked for but cannot be built are not left out: see `why_not`.
    """
    if os.environ.get(ARCHS) == "none":
        return f"{ARCHS}=none"
    if not os.environ.get(ARCHS, "").strip():
        if toolkit() is None:
            return "no nvcc on the PATH; install the CUDA toolkit (or set NVCC)"
        if not local_archs():
            return f"no GPU here; set {ARCHS}, such as '80;90a'"
    return None


def why_not() -> str | None:
    """Why the CUDA kernels that are wanted cannot be built, with the remedy; None if they can."""
    unknown = [arch for arch in archs() if not re.fullmatch(r"\d{2,3}[af]?", arch)]
    if unknown:
        return f"{ARCHS}={os.environ[ARCHS]}: {unknown[0]} is none; set such as '80;90a' or none"
    old = [arch for arch in archs() if number(arch) < OLDEST_ARCH]
    if old:
        return f"the kernels need sm_{OLDEST_ARCH} or later, not sm_{old[0]}; set {ARCHS}=none"
    found = toolkit()
    if found is None:
        return f"{ARCHS}={os.environ[ARCHS]} but no nvcc on the PATH; set NVCC, or {ARCHS}=none"
    if found.release < OLDEST_NVCC:
        oldest = ".".join(map(str, OLDEST_NVCC))
        return f"{found.name} is older than {oldest}; install a newer one, or set {ARCHS}=none"
    torch = torch_release()
    if torch is not None and torch[0] != found.release[0]:
        return (
            f"{found.name} but torch was built with CUDA {torch[0]}.{torch[1]}; install the CUDA "
            f"{torch[0]} toolkit (and set NVCC), or a torch for CUDA {found.release[0]}, or set "
            f"{ARCHS}=none"
        )
    return None


def warning() -> str | None:
    """What is unusual about the toolkit but works, in one line."""
    found, torch = toolkit(), torch_release()
    if found is not None and torch is not None and torch != found.release:
        return f"{found.name} but torch was built with CUDA {torch[0]}.{torch[1]}: this works"
    return None


def archs() -> list[str]:
    """What to compile for, such as ["80", "90a"]: as asked, else the GPUs of this machine."""
    asked = os.environ.get(ARCHS, "").replace(",", ";").replace(" ", ";")
    return [arch for arch in asked.split(";") if arch] or local_archs()


@functools.cache
def local_archs() -> list[str]:
    """Of the GPUs of this machine; from Hopper on, with what its chip alone has (90a)."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    said = subprocess.run(query, capture_output=True, text=True)
    found = {int(major + minor) for major, minor in re.findall(r"^(\d+)\.(\d)$", said.stdout, re.M)}
    return [f"{arch}a" if arch >= 90 else str(arch) for arch in sorted(found)]


def number(arch: str) -> int:
    return int(arch.rstrip("af"))


def architecture_flags(source: Path, wanted: list[str]) -> list[str]:
    """Machine code of each, and PTX of the oldest for what comes later.

    A file *_sm90_* is for 90a alone: nothing where that is not wanted. Where it is, the others are
    told by MEGAFM_SM90A that its kernels are there.
    """
    if "_sm90_" in source.name:
        return [flag for flag in map(_code, wanted) if flag.endswith("sm_90a")]
    oldest = f"-gencode=arch=compute_{OLDEST_ARCH},code=compute_{OLDEST_ARCH}"
    return [*map(_code, wanted), oldest, *(["-DMEGAFM_SM90A"] if "90a" in wanted else [])]


def _code(arch: str) -> str:
    return f"-gencode=arch=compute_{arch},code=sm_{arch}"


@functools.cache
def toolkit() -> Toolkit | None:
    """The CUDA toolkit, or None. nvcc says where it is: what the PATH has may be a wrapper."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    nvcc = shlex.split(os.environ.get("NVCC", "")) or ["nvcc"]
    if shutil.which(nvcc[0]) is None:
        nvcc = [str(Path(home) / "bin" / "nvcc")]
    if shutil.which(nvcc[0]) is None:
        return None
    release = re.search(r"release (\d+)\.(\d+)", _said(nvcc, "--version"))
    top = re.search(r"^#\$ TOP=(.+)$", _said(nvcc, "--dryrun", "-c", "none.cu"), re.M)
    if release is None or top is None:
        return None
    folder = Path(top.group(1)).resolve()
    libraries = (folder / name for name in ("lib64", "lib", "targets/x86_64-linux/lib"))
    found = next((path for path in libraries if (path / "libcudart_static.a").exists()), folder)
    return Toolkit(nvcc, (int(release.group(1)), int(release.group(2))), found)


def _said(nvcc: list[str], *arguments: str) -> str:
    run = subprocess.run([*nvcc, *arguments], capture_output=True, text=True)
    return run.stdout + run.stderr


def torch_release() -> tuple[int, int] | None:
    """The CUDA that torch was built with, or None; torch is not imported."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None  # compile_ops.why_not() looked
    text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    found = re.search(r"^cuda\b.*= '(\d+)\.(\d+)'", text, re.M)
    return None if found is None else (int(found.group(1)), int(found.group(2)))


def link_flags() -> list[str]:
    found = toolkit()
    assert found is not None  # why_not() looked
    return [str(found.libraries / "libcudart_static.a"), "-ldl", "-lpthread", "-lrt"]


def summary() -> str:
    """What is compiled for and with what, for the line that the build ends with."""
    found, note = toolkit(), warning()
    assert found is not None  # why_not() looked
    made_for = " ".join(f"sm_{arch}" for arch in archs())
    return f"for CUDA {made_for} with {found.name}{f' ({note})' if note else ''}"


def num_jobs() -> int:
    """Processes of nvcc at a time: by cores, and by the memory that is free."""
    meminfo = MEMINFO.read_text(encoding="ascii")
    available = int(re.search(r"^MemAvailable: *(\d+) kB$", meminfo, re.M).group(1)) << 10
    return max(1, min(os.cpu_count() or 1, available // BYTES_PER_JOB))
