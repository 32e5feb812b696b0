"""Files that are either written whole or left as they were."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def atomic_open(path: Path) -> Iterator[IO[bytes]]:
    """Open `path` for writing; what was there stays until all is on the disk.

    Raises:
        OSError: with the file's name, e.g. of a full disk; nothing is left behind.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        partial.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """All of `text` or nothing, as `atomic_open`."""
    with atomic_open(path) as out:
        out.write(text.encode())


@contextmanager
def only_writer(lock: Path, setting: str) -> Iterator[IO[str]]:
    """Hold a lock file open for writing, so that no second process writes into its folder.

    Args:
        setting: what names the folder, for the message: run.dir=DIR.

    Raises:
        ValueError: another process holds it.
    """
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            field = setting.partition("=")[0]
            raise ValueError(
                f"{setting}: another run is writing to it; wait until it ends, or set "
                f"{field} to another folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield file


@contextmanager
def staging(folder: str | Path) -> Iterator[Path]:
    """A folder inside `folder` to build new files in; gone afterwards, however it ends."""
    stage = Path(folder) / ".partial"
    shutil.rmtree(stage, ignore_errors=True)  # of a job that was killed: not to be published
    try:
        stage.mkdir(parents=True)
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def publish(stage: Path, folder: str | Path, last: str) -> None:
    """Move what was built into place, the file named `last` last: it vouches for the others."""
    files = [path for path in stage.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: (path.name == last, path)):
        target = Path(folder) / path.relative_to(stage)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
