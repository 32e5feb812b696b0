"""The files of a folder, here or behind a URL, or one file: a shard each."""

from __future__ import annotations

import fnmatch
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from megafm.data.sources.config import Source
from megafm.data.sources.formats import format_of
from megafm.data.sources.parquet import row_groups
from megafm.data.sources.shard import Listing, Shard, need


def list_folder(source: Source) -> Listing:
    """The files under source.path whose relative path matches source.pattern.

    With a pattern other than "*" a file is of source.kind whatever its suffix says.

    Raises:
        ValueError: source.path is no folder, file or URL.
    """
    path = str(source.path)
    listing = _list_remote(path, source) if "://" in path else _list_local(Path(path), source)
    listing.shards = [part for shard in listing.shards for part in _parts(shard)]
    return listing


def _parts(shard: Shard) -> Iterable[Shard]:
    return row_groups(shard) if format_of(shard.path, shard.source) == "parquet" else [shard]


def _list_local(root: Path, source: Source) -> Listing:
    if not root.exists():
        raise ValueError(f"source.path={root}: no such folder or file; set source.path=DIR")
    kind = "file" if root.is_file() else "files"
    listing = Listing(corpus=f"{kind} of {root.resolve().name}", shards=[])
    if root.is_file():
        paths: Iterator[Path] = iter([root])
        root = root.parent
    else:
        paths = walk(root, listing.dropped, skip=lambda folder: folder.name.startswith("."))
    for path in paths:
        relative = path.relative_to(root).as_posix()
        if is_wanted(relative, source, listing.dropped):
            add_file(listing, path, relative, source.kind, source.licence, _metadata(root))
    return listing


def _list_remote(url: str, source: Source) -> Listing:
    files, root = _filesystem(url)
    found = files.find(root, detail=True)
    if not found:
        raise ValueError(f"source.path={url}: no such folder or file; set source.path=URL")
    if list(found) == [root]:
        root = root.rpartition("/")[0]
    name = root.strip("/").rpartition("/")[2]
    listing = Listing(corpus=f"files of {name}", shards=[])
    for path in sorted(found):
        relative = path.removeprefix(root).lstrip("/")
        if is_wanted(relative, source, listing.dropped):
            size, version = int(found[path].get("size") or 0), files.ukey(path)
            location = files.unstrip_protocol(path)
            listing.shards.append(
                Shard(relative, location, size, version, relative, source.kind, source.licence,
                      {"package": name})
            )  # fmt: skip
    return listing


def _filesystem(url: str) -> tuple[Any, str]:
    """What fsspec opens a URL with, and the path in it."""
    fsspec, protocol = need("fsspec"), url.partition("://")[0]
    try:
        return fsspec.url_to_fs(url)
    except ImportError as error:
        raise ValueError(
            f"source.path={url}: {error}; run: pip install 'fsspec[{protocol}]'"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"source.path={url}: {error}; set source.path=DIR or another URL"
        ) from error


def is_wanted(relative: str, source: Source, dropped: Counter[str]) -> bool:
    """Whether a file is one of the source; those of another format are counted."""
    if not fnmatch.fnmatch(relative, source.pattern):
        return False
    if source.pattern == "*" and format_of(relative, source.kind) is None:
        dropped["other_format"] += 1
        return False
    return True


def walk(
    root: Path, dropped: Counter[str], skip: Callable[[Path], bool] = lambda folder: False
) -> Iterator[Path]:
    """The files under a folder in sorted order; links to folders, and to files outside of it, are
    counted, not followed."""

    inside = os.path.realpath(root)

    def unreadable(error: OSError) -> None:
        dropped["unreadable"] += 1

    for folder, subfolders, names in os.walk(root, onerror=unreadable):
        here = Path(folder)
        links = {name for name in subfolders if (here / name).is_symlink()}
        dropped["linked_folder"] += len(links)
        subfolders[:] = sorted(n for n in subfolders if n not in links and not skip(here / n))
        for path in (here / name for name in sorted(names)):
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(inside):
                dropped["linked_file"] += 1
            else:
                yield path
    dropped += Counter()  # forget reasons that did not occur


def add_file(
    listing: Listing, file: Path, path: str, source: str, licence: str, metadata: dict[str, Any]
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
    name = f"{source}/{metadata['package']}/{path}" if source in ("stdlib", "package") else path
    size, version = found.st_size, str(found.st_mtime_ns)
    shard = Shard(name, str(file), size, version, path, source, licence, metadata)
    listing.shards.append(shard)
    return size


def _metadata(root: Path) -> dict[str, Any]:
    return {"package": root.resolve().name}
