"""Where documents come from: a list of files, quick to make and always in the same order."""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.metadata
import os
import platform
import stat
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from megafm.data.config import Source
from megafm.data.licences import is_permissive, licence

TEXT_SUFFIXES = (".py", ".rst", ".txt", ".md")
_TEST_FOLDERS = {"test", "tests", "idle_test", "testing"}
_VENDORED = {"_vendor", "_vendored", "vendor", "vendored", "extern", "externals", "third_party"}
_NOT_STDLIB = {"site-packages", "dist-packages", "__pycache__", "lib-dynload"}


@dataclass(frozen=True)
class SourceFile:
    """One file to read; see Document for the fields that they share."""

    file: Path
    size: int
    modified_ns: int
    source: str
    path: str
    licence: str
    package: str
    version: str

    @property
    def id(self) -> str:
        return self.path if self.source == "files" else f"{self.source}/{self.package}/{self.path}"


@dataclass
class Listing:
    """The files of a source, and what was left out on the way: a count per reason."""

    corpus: str
    files: list[SourceFile]
    dropped: Counter[str] = field(default_factory=Counter)
    skipped_packages: dict[str, str] = field(default_factory=dict)  # "name version" -> licence


def list_files(source: Source) -> Listing:
    """All files of the configured source, sorted by id.

    Raises:
        ValueError: source.path is no folder, or source.packages names one that is not installed.
    """
    listing = list_folder(source) if source.kind == "files" else list_installation(source)
    listing.files.sort(key=lambda entry: entry.id)
    return listing


def list_folder(source: Source) -> Listing:
    """The files under source.path whose relative path matches source.pattern."""
    root = Path(str(source.path))
    if not root.is_dir():
        raise ValueError(f"source.path={root}: no such folder; set source.path=DIR")
    listing = Listing(corpus=f"files of {root.resolve().name}", files=[])
    for path in walk(root, listing.dropped, skip=lambda folder: folder.name.startswith(".")):
        relative = path.relative_to(root).as_posix()
        if fnmatch.fnmatch(relative, source.pattern):
            _add(listing, path, "files", relative, "unspecified", root.resolve().name, "")
    return listing


def list_installation(source: Source) -> Listing:
    """The running Python's standard library and the installed packages that may be learnt from."""
    listing = Listing(corpus="", files=[])
    _add_stdlib(listing, source.stdlib_tests)
    distributions = _distributions(source)
    used = [
        name for name in sorted(distributions) if _add_package(listing, distributions[name], source)
    ]
    tests = "" if source.stdlib_tests else " without its tests"
    packages = f" + {len(used)} packages" if used else ""
    listing.corpus = f"Python {platform.python_version()} standard library{tests}{packages}"
    return listing


def walk(
    root: Path, dropped: Counter[str], skip: Callable[[Path], bool] = lambda folder: False
) -> Iterator[Path]:
    """The files under a folder in sorted order; links to folders are counted, not followed."""

    def unreadable(error: OSError) -> None:
        dropped["unreadable"] += 1

    for folder, subfolders, names in os.walk(root, onerror=unreadable):
        here = Path(folder)
        links = {name for name in subfolders if (here / name).is_symlink()}
        dropped["linked_folder"] += len(links)
        subfolders[:] = sorted(n for n in subfolders if n not in links and not skip(here / n))
        yield from (here / name for name in sorted(names))
    dropped += Counter()  # forget reasons that did not occur


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
            _add(listing, path, "stdlib", relative.as_posix(), "PSF-2.0", "python", version)


def _distributions(source: Source) -> dict[str, importlib.metadata.Distribution]:
    """The packages of this environment by name, megafm itself left out."""
    places = list(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))
    found = {d.name.lower(): d for d in importlib.metadata.distributions(path=places)}
    found.pop("megafm", None)
    if source.packages == "all":
        return found
    for name in source.packages:
        if name.lower() not in found:
            raise ValueError(
                f"source.packages names {name!r}: not installed here; set source.packages=all"
            )
    return {name.lower(): found[name.lower()] for name in source.packages}


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
            room -= _add(listing, file, "package", str(path), terms, name, version)
            added = True
    return added


def _is_own(path: PurePosixPath) -> bool:
    """Neither a script outside the package folder nor the metadata that pip wrote."""
    return ".." not in path.parts and not path.parts[0].endswith((".dist-info", ".egg-info"))


def _is_test(path: PurePosixPath) -> bool:
    in_folder = bool(_TEST_FOLDERS & set(path.parts[:-1]))
    return in_folder or path.name.startswith("test_") or path.stem == "conftest"


def _add(
    listing: Listing, file: Path, source: str, path: str, licence: str, package: str, version: str
) -> int:
    """Add one file and return its size; one that cannot be looked at is counted."""
    try:
        path.encode()
        found = file.stat()
    except UnicodeEncodeError:  # a name that is not UTF-8 cannot be an id
        listing.dropped["undecodable_name"] += 1
        return 0
    except OSError:  # gone, a link to itself, or no permission
        listing.dropped["unreadable"] += 1
        return 0
    if not stat.S_ISREG(found.st_mode):  # a socket or a device
        listing.dropped["unreadable"] += 1
        return 0
    size, modified = found.st_size, found.st_mtime_ns
    listing.files.append(SourceFile(file, size, modified, source, path, licence, package, version))
    return size
