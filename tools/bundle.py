"""Wheels for a GPU machine without a network: `make bundle` here, `make gpu` there.

    python tools/bundle.py        collects them in build/bundle

torch, triton and numpy are expected there, with Python 3.12 on x86-64; of the rest, what is missing
is installed from the bundle into a folder of its own. Versions are those of constraints.txt.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WHEELS = ROOT / "build" / "bundle"
PACKAGES = ROOT / "build" / "bundle-packages"  # where they are installed
PYTHON = "3.12"
INSTALLING = 60  # seconds that the wheels may take
# What tools/gpu.py and its parts import, by package.
NEEDED = {
    "hydra-core": "hydra",
    "omegaconf": "omegaconf",
    "antlr4-python3-runtime": "antlr4",
    "pydantic": "pydantic",
    "pyyaml": "yaml",
    "psutil": "psutil",
    "rich": "rich",
    "safetensors": "safetensors",
    "tokenizers": "tokenizers",
    "matplotlib": "matplotlib",
    "pytest": "pytest",
    "pytest-xdist": "xdist",
    "hypothesis": "hypothesis",
}
THERE = {"torch", "triton", "numpy"}
NOT_IMPORTED = {"huggingface-hub"}  # by tokenizers to download alone
WITHOUT_WHEEL = ("antlr4-python3-runtime",)  # its source holds Python alone


class BundleError(Exception):
    """The bundle cannot help; the message is one line with the remedy."""


def closure(names: list[str]) -> list[str]:
    """These packages and all that they need, without extras, as they are installed here."""
    found: dict[str, None] = {}
    todo = list(names)
    while todo:
        name = _canonical(todo.pop(0))
        if name in found or name in THERE | NOT_IMPORTED:
            continue
        found[name] = None
        for requirement in importlib.metadata.requires(name) or ():
            text, _, marker = requirement.partition(";")
            # Markers of extras, and of older Pythons and other systems: their packages are absent.
            needed = re.match(r"[\w.-]+", text.strip())
            if needed and "extra" not in marker and _is_installed(needed.group()):
                todo.append(needed.group())
    return sorted(found)


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def pins() -> dict[str, str]:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.M))


def collect(folder: Path = WHEELS) -> list[Path]:
    """Download the wheels; those that the index has as source only are built here."""
    folder.mkdir(parents=True, exist_ok=True)
    versions = pins()
    wanted = [f"{name}=={versions[name]}" for name in closure(list(NEEDED))]
    sources = [pin for pin in wanted if pin.startswith(WITHOUT_WHEEL)]
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17, 12, 5)]
    platforms.append("manylinux2014_x86_64")
    target = ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"]
    target += [f"--platform={platform}" for platform in platforms]
    _pip("download", "--no-deps", "-d", folder, *target, *(w for w in wanted if w not in sources))
    _pip("wheel", "--no-deps", "-w", folder, *sources)
    return sorted(folder.glob("*.whl"))


def missing() -> list[str]:
    """The packages that cannot be imported here."""
    return [name for name, module in NEEDED.items() if importlib.util.find_spec(module) is None]


def install_missing(wheels: Path = WHEELS, packages: Path = PACKAGES) -> Path | None:
    """The folder to import what is missing from; None where nothing is.

    Raises:
        BundleError: something is missing, and there is no bundle or it lacks that.
    """
    absent = missing()
    if not absent:
        return None
    if not any(wheels.glob("*.whl")):
        raise BundleError(
            f"no {', '.join(absent)} here; pip install them, or run `make bundle` where there is a "
            f"network and bring {wheels.relative_to(ROOT)} along"
        )
    lacking = sorted(set(absent) - {_canonical(name) for name in _names(wheels)})
    if lacking:
        raise BundleError(
            f"the bundle has no wheel of {', '.join(lacking)}; pip install them, or run "
            f"`make bundle` again and bring {wheels.relative_to(ROOT)} along"
        )
    # Only what is absent goes in: a dependency that is here already is not replaced.
    names = [name for name in _names(wheels) if not _is_installed(name)]
    try:
        options = ["--no-deps", "--no-index", "-f", wheels, "--target", packages]
        _pip("install", *options, *names, limit=INSTALLING)
    except subprocess.CalledProcessError as error:
        unfit = re.search(r"No matching distribution found for (\S+)", error.stderr)
        if unfit:
            raise BundleError(
                f"the bundle's wheel of {unfit.group(1)} is for Python {PYTHON} on x86-64, not for "
                f"this Python {sys.version.split()[0]}; pip install it"
            ) from None
        raise BundleError(f"the bundle does not install: {error.stderr.strip()}") from None
    except subprocess.TimeoutExpired:
        raise BundleError(
            f"the bundle does not install within {INSTALLING} s; pip install {' '.join(names)}"
        ) from None
    return packages


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _names(wheels: Path) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in wheels.glob("*.whl"))


def _pip(*arguments: str | Path, limit: float | None = None) -> None:
    """Run pip, for `limit` seconds at most."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    environment = {**os.environ, "PIP_NO_INPUT": "1"}
    subprocess.run(
        [*command, *map(str, arguments)],
        check=True,
        text=True,
        stderr=subprocess.PIPE,
        env=environment,
        timeout=limit,
    )


if __name__ == "__main__":
    try:
        found = collect()
    except subprocess.CalledProcessError as error:
        sys.exit(f"bundle: error: {error.stderr.strip()}")
    size = sum(path.stat().st_size for path in found) / 2**20
    print(f"bundle: {len(found)} wheels, {size:.1f} MiB, in {WHEELS.relative_to(ROOT)}")
