"""What `make setup` does: .venv with pinned packages, the C++ libraries, megafm itself, editable.

1. Check the machine: Python and its headers, venv, compiler, disk. Each failure is one line with
   its remedy.
2. Install torch alone and first (from TORCH_INDEX where given), then everything else under
   constraints.txt; check that no other torch and no CUDA package came with the rest.
3. Compile csrc/ and install megafm editable.

A stamp per stage (a hash of the files that the stage reads) makes the next run return at once.
Run by the Python that the venv is to be made of; standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import compile_cuda
import compile_ops

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 11)
TORCH = "torch==2.13.0"
FREE_BYTES = 4 * 10**9  # a CPU torch and the rest take 2.9 GB with pip's temporary copies
ACCELERATOR = re.compile(r"(nvidia|cuda)\b.*")

NO_SPACE = "No space left on device"
NO_NETWORK = re.compile(
    "NewConnectionError|Failed to establish a new connection|Temporary failure in name resolution"
    "|Max retries exceeded|ConnectTimeout|ReadTimeout|ProxyError|SSLError|Could not fetch URL"
    r"|\(from versions: none\)"
)
NO_VERSION = re.compile("No matching distribution found for (.+)")


class SetupError(Exception):
    """Setup cannot go on; the message is one line with the remedy."""


def setup(venv: Path, torch_index: str | None) -> None:
    """Bring `venv` up to date with this checkout; raises SetupError."""
    stamp_file = venv / "megafm-setup.json"
    wanted, done = stamps(), _read_stamps(stamp_file)
    if done == wanted and _libraries_are_newest():
        print(f"setup: {_shown(venv)} is up to date")
        return
    check_machine(venv)
    if done.get("packages") != wanted["packages"]:
        stamp_file.unlink(missing_ok=True)
        make_venv(venv)
        install_packages(venv, torch_index)
        stamp_file.write_text(json.dumps({"packages": wanted["packages"]}))
    install_megafm(venv)
    stamp_file.write_text(json.dumps(wanted))
    print(f"setup: done; . {_shown(venv)}/bin/activate, then megafm --help")


def _libraries_are_newest() -> bool:
    """Whether the C++ libraries are there and no file of csrc/ was touched since."""
    libraries = [ROOT / "megafm" / library.file_name for library in compile_ops.LIBRARIES]
    if not all(library.exists() for library in libraries):
        return False
    built = min(library.stat().st_mtime for library in libraries)
    return all(source.stat().st_mtime <= built for source in _tree("csrc"))


def stamps() -> dict[str, str]:
    """For each stage the hash of the files that it reads; the build reads a variable too."""
    packages = [ROOT / "constraints.txt", ROOT / "pyproject.toml"]
    tools = [ROOT / "tools" / name for name in ("compile_ops.py", "compile_cuda.py")]
    build = _hash([*packages, ROOT / "setup.py", *tools, *_tree("csrc")])
    archs = os.environ.get(compile_cuda.ARCHS, "")
    return {"packages": _hash(packages), "megafm": f"{build} {archs}".strip()}


def check_machine(venv: Path) -> None:
    """Raise SetupError unless this machine has what setup needs (the Makefile saw to Python)."""
    try:
        import ensurepip  # noqa: F401  (Debian keeps it, not venv itself, in python3-venv)
        import venv as _  # noqa: F401
    except ImportError:
        name = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        raise SetupError(f"this Python cannot make a venv; apt-get install {name}") from None
    lacking = compile_ops.why_no_compiler() or compile_ops.why_no_python_headers()
    if lacking is not None:
        raise SetupError(lacking)
    free = shutil.disk_usage(venv.parent).free
    if free < FREE_BYTES and not list(venv.glob("lib/python3*/site-packages/torch")):
        raise SetupError(
            f"{free / 1e9:.1f} GB free in {venv.parent}, setup needs {FREE_BYTES / 1e9:.0f} GB "
            "(about 10 GB with a CUDA torch); free some disk space"
        )


def make_venv(venv: Path) -> None:
    """Make the venv unless one that works is there; a broken one is made anew."""
    python = venv / "bin" / "python"
    probe = f"import pip, sys; sys.exit(sys.version_info < {OLDEST_PYTHON})"
    if (
        python.exists()
        and subprocess.run([python, "-c", probe], capture_output=True).returncode == 0
    ):
        return
    print(f"setup: making {_shown(venv)} with Python {sys.version.split()[0]}", flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(venv)], "python -m venv")


def install_packages(venv: Path, torch_index: str | None) -> None:
    """Install torch, then everything else, and check that the rest brought no second torch."""
    before = _installed(venv)
    if _release(before.get("torch", "")) != TORCH.partition("==")[2]:
        hint = "" if torch_index else " (TORCH_INDEX= a CPU wheel index saves gigabytes)"
        print(f"setup: installing {TORCH}{hint}", flush=True)
        if torch_index:
            pip(venv, ["install", "--no-deps", "--index-url", torch_index, TORCH])
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    pip(venv, ["install", *constraints, TORCH, "setuptools", "pybind11"])
    alone = _installed(venv)
    rest = requirements(["dev", "hf"])
    print(f"setup: installing {len(rest)} packages and what they need, pinned", flush=True)
    # Without build isolation: the one source package (antlr4) builds with the pinned setuptools.
    pip(venv, ["install", "--no-build-isolation", "--use-pep517", *constraints, TORCH, *rest])
    check_one_torch(alone, _installed(venv))


def check_one_torch(alone: dict[str, str], after: dict[str, str]) -> None:
    """Raise SetupError if torch moved, or a CUDA package came, after torch was installed alone."""
    if alone.get("torch") != after.get("torch"):
        raise SetupError(
            f"torch went from {alone.get('torch')} to {after.get('torch')} while the rest was "
            "installed; check constraints.txt against the torch pin, make clean, make setup"
        )
    extra = sorted(n for n in after.keys() - alone.keys() if ACCELERATOR.fullmatch(n))
    if extra:
        raise SetupError(
            f"{', '.join(extra)} came without torch asking for it; "
            "check the dependencies in pyproject.toml, make clean, make setup"
        )


def install_megafm(venv: Path) -> None:
    """Compile the C++ in sight of the user, see that it loads, install editable."""
    python = str(venv / "bin" / "python")
    compiled = subprocess.run([python, ROOT / "tools" / "compile_ops.py"], cwd=ROOT)
    if compiled.returncode != 0:
        raise SetupError("the C++ libraries were not built; the line above says why")
    load = "import sys, torch; torch.ops.load_library(sys.argv[1])"
    _run([python, "-c", load, str(ROOT / "megafm" / "_ops.so")], "torch.ops.load_library")
    editable = ["install", "--no-build-isolation", "--no-deps", "--editable", str(ROOT)]
    pip(venv, editable, {"MEGAFM_BUILD_OPS": "1"})
    _run([python, "-c", "import megafm._index"], "import megafm._index")


def requirements(extras: Iterable[str]) -> list[str]:
    """The requirements of pyproject.toml with those of some extras, without repeats."""
    import tomllib  # Python 3.11, which check_machine has seen by now

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = dict.fromkeys(project["dependencies"])
    for extra in extras:
        for requirement in project["optional-dependencies"][extra]:
            own = re.fullmatch(r"megafm\[(.+)\]", requirement)
            names = requirements(own[1].split(",")) if own else [requirement]
            found.update(dict.fromkeys(names))
    return [name for name in found if re.split(r"[^\w-]", name)[0] != "torch"]


def known_cause(output: str) -> str | None:
    """The cause and remedy in one line, if the output of a failed command shows a usual one."""
    if NO_SPACE in output:
        return "the disk is full; free some space (or set TMPDIR to a larger disk)"
    if NO_NETWORK.search(output):
        return (
            "the package index cannot be reached; check the network and proxy "
            "(HTTPS_PROXY, PIP_INDEX_URL, TORCH_INDEX), then run make setup again"
        )
    missing = NO_VERSION.search(output)
    if missing:
        return (
            f"the index has no {missing[1]} for Python {sys.version_info[0]}."
            f"{sys.version_info[1]} on this machine; try another PYTHON= or TORCH_INDEX="
        )
    return None


def pip(venv: Path, arguments: list[str], environment: dict[str, str] | None = None) -> None:
    command = [str(venv / "bin" / "python"), "-m", "pip", arguments[0], "--quiet"]
    _run([*command, "--disable-pip-version-check", *arguments[1:]], "pip", environment)


def _run(command: list[str], name: str, environment: dict[str, str] | None = None) -> None:
    run = subprocess.run(
        command,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if run.returncode != 0:
        cause = known_cause(run.stdout)
        if cause is None:
            sys.stderr.write(run.stdout)
            cause = f"failed with exit code {run.returncode} (above); then run make setup again"
        raise SetupError(f"{name}: {cause}")


def _installed(venv: Path) -> dict[str, str]:
    """Name (normalised) to version of everything in the venv."""
    found = {}
    for folder in venv.glob("lib/python3*/site-packages/*.dist-info"):
        name, _, version = folder.name.removesuffix(".dist-info").partition("-")
        found[name.lower().replace("_", "-")] = version
    return found


def _release(version: str) -> str:
    return version.partition("+")[0]


def _tree(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*") if path.is_file())


def _hash(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(ROOT)} {file.stat().st_size}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _read_stamps(file: Path) -> dict[str, str]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return {}


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def main() -> None:
    began = time.monotonic()
    try:
        setup(ROOT / ".venv", os.environ.get("TORCH_INDEX") or None)
    except SetupError as error:
        sys.exit(f"setup: error: {error}")
    except OSError as error:
        sys.exit(f"setup: error: {known_cause(str(error)) or error}")
    except KeyboardInterrupt:
        sys.exit("setup: interrupted; make setup goes on from here")
    seconds = time.monotonic() - began
    if seconds > 2:
        print(f"setup: took {seconds:.0f} s")


if __name__ == "__main__":
    main()
