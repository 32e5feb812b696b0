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
from megafm.data.sources.code import list_code
from megafm.data.sources.config import Fields, Source
from megafm.data.sources.folder import list_folder
from megafm.data.sources.formats import read_file
from megafm.data.sources.hub import list_dataset, read_dataset
from megafm.data.sources.installation import list_installation
from megafm.data.sources.shard import Budget, Listing, Place, Refused, Shard
from megafm.data.sources.streams import decompressed, opened, plain_name

__all__ = ["VERSION", "Fields", "Listing", "Shard", "Source", "list_shards", "read_shard"]

VERSION = "sources/3"
_LISTS = {
    "python_installation": list_installation,
    "code": list_code,
    "git": list_code,
    "datasets": list_dataset,
}


def list_shards(source: Source) -> Listing:
    """All shards of the configured source, sorted by name: quick, nothing is read in full.

    Raises:
        ValueError: source.path is no folder, or source.packages names one that is not installed.
    """
    listing = _LISTS.get(source.kind, list_folder)(source)
    listing.shards.sort(key=lambda shard: (shard.name, shard.part or 0))
    return listing


def read_shard(source: Source, shard: Shard) -> Iterator[Document | Drop]:
    """The documents of a shard, in the order of the file; every refusal with its reason.

    Bad input never raises: what cannot be read, or not to its end, ends with a Drop.

    Raises:
        ValueError: a package that this format needs is not installed.
        OSError: the network failed; reading the shard again may succeed.
    """
    if source.kind == "datasets":
        yield from read_dataset(source, shard)
        return
    remote = "://" in shard.location
    compressed = plain_name(shard.path) != shard.path
    file = None if remote or compressed else Path(shard.location)
    place = Place(source, shard, shard.name, shard.path, Budget(shard, source), file)
    try:
        with opened(shard.location) as stream:
            yield from read_file(decompressed(stream, shard.path, place.budget), place)
    except Refused as refusal:
        yield Drop(refusal.reason, shard.name)
    except OSError as error:
        if remote and not isinstance(error, FileNotFoundError | PermissionError):
            raise  # of the network: to be tried again
        yield Drop("unreadable", shard.name)
