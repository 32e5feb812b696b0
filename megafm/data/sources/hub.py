"""Data sets of Hugging Face: one of the hub, streamed, or one that lies in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megafm.data.document import Document, Drop
from megafm.data.sources.config import Source
from megafm.data.sources.records import document_of
from megafm.data.sources.shard import Budget, Listing, Place, Shard, need


def list_dataset(source: Source) -> Listing:
    """A shard for each file of the split that source.split names.

    Raises:
        ValueError: there is no such data set, or the package `datasets` is missing.
    """
    data = _load(source)
    name = Path(str(source.path)).name if _is_folder(source) else str(source.path)
    listing = Listing(corpus=f"data set {name}", shards=[])
    info = data.info
    licence = str(info.license or "").strip() or source.licence
    about = {"package": name, "version": str(info.version or "")}
    path = "/".join(part for part in (name, source.subset, source.split) if part)
    for part in range(data.num_shards):
        shard_name = f"{path}/{part:05}"
        listing.shards.append(
            Shard(shard_name, name, 0, str(info.version), path, source.kind, licence, about, part)
        )
    return listing


def read_dataset(source: Source, shard: Shard) -> Iterator[Document | Drop]:
    """The documents of a shard, as far as the library can read it.

    Raises:
        OSError: the network failed.
    """
    data = _load(source)
    place = Place(source, shard, shard.name, shard.path, Budget(shard, source))
    part = data.shard(num_shards=data.num_shards, index=shard.part) if data.num_shards > 1 else data
    number = 0
    try:
        for number, record in enumerate(part, 1):
            yield document_of(record, number, place)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and not Path(str(source.path)).exists():
            raise  # of the network: to be tried again
        yield Drop("corrupt", place.id(number + 1))
    else:
        if not number:
            yield Drop("no_documents", place.name)


def _load(source: Source) -> Any:
    """The split as a data set that is read in order and not held."""
    datasets = need("datasets", "datasets")
    try:
        if not _is_folder(source):
            options = {"name": source.subset, "split": source.split, "streaming": True}
            return datasets.load_dataset(source.path, **options)
        data = datasets.load_from_disk(source.path)
        split = data[source.split] if isinstance(data, dict) else data
        return split.to_iterable_dataset(num_shards=max(1, len(split.cache_files)))
    except (OSError, LookupError, ValueError, StopIteration) as error:  # or empty
        known = Path(str(source.path)).exists() or isinstance(error, FileNotFoundError)
        if isinstance(error, OSError) and not known:
            raise  # of the network
        raise ValueError(
            f"source.path={source.path} source.subset={source.subset} source.split={source.split}: "
            f"{str(error).strip().partition(chr(10))[0]}; set source.split to one that it has"
        ) from error


def _is_folder(source: Source) -> bool:
    """Whether it was written by save_to_disk."""
    folder = Path(str(source.path))
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()
