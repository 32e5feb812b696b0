"""Archives, .zip and .tar with any compression: their members, never written to the disk."""

from __future__ import annotations

import dataclasses
import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any

from megafm.data.document import Drop
from megafm.data.sources.shard import Place, Refused
from megafm.data.sources.streams import bounded, decompressed, plain_name, refusals

SUFFIXES = (".zip", ".tar")


def is_archive(path: str) -> bool:
    return PurePosixPath(plain_name(path)).suffix.lower() in SUFFIXES


def members(stream: IO[bytes], place: Place) -> Iterator[tuple[Place, IO[bytes]] | Drop]:
    """Place and bytes of each file in an archive, in its order, or why it is not read.

    All of them share the budget of the shard. An archive in an archive is refused.
    """
    zipped = plain_name(place.path).lower().endswith(".zip")
    for number, (name, member) in enumerate(_zip(stream) if zipped else _tar(stream), 1):
        # Names may repeat in an archive, numbers do not
        inner = dataclasses.replace(
            place, name=place.id(number), path=f"{place.path}/{name}", file=None
        )
        if isinstance(member, Drop):
            yield Drop(member.reason, inner.name)
        elif not _is_unicode(name):
            yield Drop("undecodable_name", inner.name)
        elif is_archive(name):
            yield Drop("nested_archive", inner.name)
        else:
            plain = bounded(member, place.budget)
            yield inner, decompressed(plain, name, place.budget)


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _zip(stream: IO[bytes]) -> Iterator[tuple[str, IO[bytes] | Drop]]:
    if not stream.seekable():
        raise Refused("not_seekable")
    with refusals():
        archive = zipfile.ZipFile(stream)
    for entry in archive.infolist():
        if entry.filename.endswith("/"):  # is_dir() fails on a name that is empty
            continue
        if entry.flag_bits & 1:
            yield entry.filename, Drop("encrypted")
            continue
        try:
            with refusals():
                member = archive.open(entry)
        except Refused:
            yield entry.filename, Drop("corrupt")
        else:
            yield entry.filename, member


def _tar(stream: IO[bytes]) -> Iterator[tuple[str, IO[bytes] | Drop]]:
    blocks = _Blocks(stream)
    archive: Any  # tarfile's stubs do not tell of `members`
    try:
        with tarfile.open(fileobj=blocks, mode="r|") as archive:
            for entry in archive:
                archive.members = []  # else it remembers all of them
                if entry.isdir():
                    continue
                member = archive.extractfile(entry) if entry.isreg() else None
                yield entry.name, member or Drop("linked_file")
    except tarfile.TarError as error:
        raise Refused("truncated") from error
    if blocks.last.strip(b"\0"):
        raise Refused("truncated")


class _Blocks(io.RawIOBase):
    """A stream that knows the last bytes it gave: a tar ends in zeros, and tarfile takes a cut
    header for its end."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.last = data[-512:] or self.last
        return data
