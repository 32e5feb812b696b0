"""Source trees and git checkouts: text files, each with the licence that holds for it.

That is the one in the file's header (read with the file), else that of the licence files in its
folder or the nearest one above, else source.licence. A git checkout gives the files that it tracks,
as they are in the working tree.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megafm.data.licence_texts import FILE_NAME, licence_of_text
from megafm.data.sources.config import Source
from megafm.data.sources.folder import add_file, is_wanted, walk
from megafm.data.sources.shard import Listing

_LICENCE_BYTES = 200_000


def list_code(source: Source) -> Listing:
    """The files of a tree (kind=code) or those that git tracks (kind=git).

    Raises:
        ValueError: source.path is no folder, or no checkout.
    """
    root = Path(str(source.path))
    if not root.is_dir():
        raise ValueError(f"source.path={root}: no such folder; set source.path=DIR")
    listing = Listing(corpus=f"{source.kind} of {root.resolve().name}", shards=[])
    about: dict[str, Any] = {"package": root.resolve().name}
    if source.kind == "git":
        about["commit"] = _git(root, "rev-parse", "HEAD").strip()
        about["version"] = about["commit"][:12]
        paths = _tracked(root, listing)
    else:
        paths = walk(root, listing.dropped, skip=lambda folder: folder.name.startswith("."))
    licences: dict[Path, str] = {}
    for path in paths:
        relative = path.relative_to(root).as_posix()
        if is_wanted(relative, source, listing.dropped):
            licence = _licence(path.parent, root, licences) or source.licence
            add_file(listing, path, relative, source.kind, licence, about)
    return listing


def _licence(folder: Path, root: Path, known: dict[Path, str]) -> str:
    """Of all licence files of a folder, else of those of the nearest one above; "" without any."""
    if folder not in known:
        names = sorted(name for name in _names(folder) if FILE_NAME.fullmatch(name))
        found = {_read(folder / name): None for name in names}
        if len(found) > 1:  # beside a licence, an exception or a list of authors
            found.pop("unknown", None)
        above = "" if folder == root else _licence(folder.parent, root, known)
        known[folder] = " AND ".join(found) or above
    return known[folder]


def _names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if (folder / name).is_file()]
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return licence_of_text(file.read(_LICENCE_BYTES).decode(errors="replace"))
    except OSError:
        return "unknown"


def _tracked(root: Path, listing: Listing) -> Iterator[Path]:
    """The regular files of the index, in the order of their paths."""
    for entry in _git(root, "ls-files", "-z", "--stage").split("\0")[:-1]:
        about, _, path = entry.partition("\t")
        mode = about.split()[0]
        if mode in ("120000", "160000"):  # what a link leads to may lie outside
            listing.dropped["linked_file" if mode == "120000" else "submodule"] += 1
        else:
            yield root / path


def _git(root: Path, *command: str) -> str:
    """What a command of git prints, of those that run nothing that a checkout's settings name.

    `git status` would: filters and fsmonitor are commands.
    """
    environment = {name: v for name, v in os.environ.items() if not name.startswith("GIT_")}
    options = ["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"]
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *options, *command], capture_output=True, env=environment
        )
    except FileNotFoundError:
        raise ValueError(
            "source.kind=git: there is no git here; install it, or set source.kind=code"
        ) from None
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise ValueError(f"source.path={root}: {reason}; set source.kind=code for a plain folder")
    return os.fsdecode(done.stdout)
