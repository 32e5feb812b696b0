"""Where documents come from: a list of shards, and the documents of each.

    listing = list_shards(source)
    for shard in listing.shards:
        for result in read_shard(source, shard):  # Document or Drop

Both are functions of their arguments, so that any process may read any shard. A shard is a file
or a part of one, and reading it takes memory for a document or two, however large it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from megafm.data.document import Document, Drop
from megafm.data.sources.config import Fields, Source
from megafm.data.sources.folder import list_folder
from megafm.data.sources.formats import READERS, format_of
from megafm.data.sources.installation import list_installation
from megafm.data.sources.shard import Listing, Place, Refused, Shard
from megafm.data.sources.streams import Budget, decompressed, opened, plain_name

__all__ = ["VERSION", "Fields", "Listing", "Shard", "Source", "list_shards", "read_shard"]

VERSION = "sources/1"


def list_shards(source: Source) -> Listing:
    """All shards of the configured source, sorted by name: quick, nothing is read in full.

    Raises:
        ValueError: source.path is no folder, or source.packages names one that is not installed.
    """
    installation = source.kind == "python_installation"
    listing = list_installation(source) if installation else list_folder(source)
    listing.shards.sort(key=lambda shard: (shard.name, shard.part or 0))
    return listing


def read_shard(source: Source, shard: Shard) -> Iterator[Document | Drop]:
    """The documents of a shard, in the order of the file; every refusal with its reason.

    Bad input never raises: what cannot be read, or not to its end, ends with a Drop.

    Raises:
        ValueError: a package or a column that the settings ask for is not there.
    """
    file = None if "://" in shard.location else Path(shard.location)
    if plain_name(shard.path) != shard.path:
        file = None
    place = Place(source, shard, shard.name, shard.path, file)
    try:
        with opened(shard.location) as stream:
            plain = decompressed(stream, shard.path, Budget(shard, source))
            kind = format_of(shard.path, source.kind) or source.kind
            yield from READERS[kind](plain, place)
    except Refused as refusal:
        yield Drop(refusal.reason, shard.name)
    except OSError:
        yield Drop("unreadable", shard.name)
