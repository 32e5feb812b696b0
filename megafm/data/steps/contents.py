"""Files that steps read, known by what is in them: the key of what is made of them in a process."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

KEPT = 8  # models, lists and indexes in a process: a pipeline reads few, and old ones may go


def hashes_of(paths: Iterable[str]) -> tuple[str, ...]:
    """The sha256 of each file, which is read again only after it has changed.

    Raises:
        OSError: a file cannot be read.
    """
    found = []
    for path in paths:
        state = os.stat(path)
        found.append(_sha256(path, state.st_ino, state.st_size, state.st_mtime_ns))
    return tuple(found)


@functools.lru_cache(maxsize=256)
def _sha256(path: str, inode: int, size: int, modified_ns: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
