"""The text that every machine has: the running Python's library and its permissive packages."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import sysconfig
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from megafm.data.licences import is_permissive, licence
from megafm.data.sources.config import Source
from megafm.data.sources.folder import add_file, walk
from megafm.data.sources.shard import Listing

TEXT_SUFFIXES = (".py", ".rst", ".txt", ".md")
_TEST_FOLDERS = {"test", "tests", "idle_test", "testing"}
_VENDORED = {"_vendor", "_vendored", "vendor", "vendored", "extern", "externals", "third_party"}
_NOT_STDLIB = {"site-packages", "dist-packages", "__pycache__", "lib-dynload"}


def list_installation(source: Source) -> Listing:
    """The running Python's standard library and the installed packages that may be learnt from.

    Raises:
        ValueError: source.packages names one that is not installed.
    """
    listing = Listing(corpus="", shards=[])
    _add_stdlib(listing, source.stdlib_tests)
    distributions = _distributions(source)
    used = [
        name for name in sorted(distributions) if _add_package(listing, distributions[name], source)
    ]
    tests = "" if source.stdlib_tests else " without its tests"
    packages = f" + {len(used)} packages" if used else ""
    listing.corpus = f"Python {platform.python_version()} standard library{tests}{packages}"
    return listing


def _add_stdlib(listing: Listing, tests: bool) -> None:
    root = Path(sysconfig.get_path("stdlib"))
    version = platform.python_version()
    for path in walk(root, listing.dropped, skip=lambda folder: folder.name in _NOT_STDLIB):
        relative = path.relative_to(root)
        machine_specific = relative.parts[0].startswith(("config-", "_sysconfigdata"))
        if path.suffix not in TEXT_SUFFIXES or machine_specific:
            continue
        if not tests and _TEST_FOLDERS & set(relative.parts[:-1]):
            listing.dropped["test"] += 1
        else:
            about = {"package": "python", "version": version}
            add_file(listing, path, relative.as_posix(), "stdlib", "PSF-2.0", about)


def _distributions(source: Source) -> dict[str, importlib.metadata.Distribution]:
    """The packages of this environment by name, megafm itself left out."""
    places = list(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))
    found: dict[str, importlib.metadata.Distribution] = {
        canonicalize_name(d.name): d for d in importlib.metadata.distributions(path=places)
    }
    found.pop("megafm", None)
    if source.packages == "all":
        return found
    if source.packages == "required":
        return {name: found[name] for name in _required("megafm") if name in found}
    for name in source.packages:
        if canonicalize_name(name) not in found:
            raise ValueError(
                f"source.packages names {name!r}: not installed here; set source.packages=all"
            )
    return {canonicalize_name(name): found[canonicalize_name(name)] for name in source.packages}


def _required(root: str) -> set[str]:
    """The names of all packages that a plain installation of `root` brings: no extra's."""
    names: set[str] = set()
    waiting = [root]
    while waiting:
        try:
            requirements = importlib.metadata.requires(waiting.pop()) or []
        except importlib.metadata.PackageNotFoundError:  # of another platform, or built in
            continue
        for requirement in map(Requirement, requirements):
            needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            name = canonicalize_name(requirement.name)
            if needed and name not in names:
                names.add(name)
                waiting.append(name)
    return names


def _add_package(
    listing: Listing, package: importlib.metadata.Distribution, source: Source
) -> bool:
    """Add the text files of a package up to the byte limit; False when none may be used."""
    name, version = package.name, package.version  # each look parses the metadata again
    terms = licence(package.metadata)
    paths = [PurePosixPath(path) for path in package.files or []]
    paths = [path for path in paths if path.suffix in TEXT_SUFFIXES and _is_own(path)]
    if not is_permissive(terms):
        listing.dropped["licence"] += len(paths)
        listing.skipped_packages[f"{name} {version}"] = terms
        return False
    room = source.max_package_bytes
    added = False
    for path in sorted(paths, key=lambda path: hashlib.sha256(str(path).encode()).digest()):
        if _VENDORED & set(path.parts):
            listing.dropped["vendored"] += 1
        elif not source.package_tests and _is_test(path):
            listing.dropped["test"] += 1
        elif room <= 0:
            listing.dropped["package_limit"] += 1
        else:
            file = Path(str(package.locate_file(str(path))))
            about = {"package": name, "version": version}
            room -= add_file(listing, file, str(path), "package", terms, about)
            added = True
    return added


def _is_own(path: PurePosixPath) -> bool:
    """Neither a script outside the package folder nor the metadata that pip wrote."""
    return ".." not in path.parts and not path.parts[0].endswith((".dist-info", ".egg-info"))


def _is_test(path: PurePosixPath) -> bool:
    in_folder = bool(_TEST_FOLDERS & set(path.parts[:-1]))
    return in_folder or path.name.startswith("test_") or path.stem == "conftest"
