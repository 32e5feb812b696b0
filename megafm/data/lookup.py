"""action=lookup: the document that a token of a shard is from, and where in it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from megafm.data.document import Document, read_shard_documents
from megafm.data.indexed import IndexedDataset
from megafm.data.lines import find_shard
from megafm.data.manifest import Manifest


@dataclass(frozen=True)
class Place:
    """
    Attributes:
        offset: of the token, among those of the document.
        num_tokens: of the document, with the one that closes it.
    """

    document: Document
    offset: int
    num_tokens: int


def lookup(data_dir: str, split: str, token: int) -> Place:
    """Where the token at that position of SPLIT.bin is from; reads one shard of documents.

    Raises:
        ValueError: there are no token shards, or no such token.
    """
    tokens = IndexedDataset(Path(data_dir) / split)
    if not 0 <= token < tokens.num_tokens:
        raise ValueError(
            f"data.token={token}: {split} has {tokens.num_tokens} tokens; "
            f"set data.token=0 to {tokens.num_tokens - 1}"
        )
    first = tokens.pointers // tokens.dtype.itemsize
    # Of documents without a token the position is that of the one after them.
    number = int(np.searchsorted(first, token, side="right")) - 1
    return Place(
        document(data_dir, split, number), token - int(first[number]), int(tokens.lengths[number])
    )


def document(data_dir: str, split: str, number: int) -> Document:
    """A document of a split by its place in the shuffled order, which is that of the tokens."""
    left = number
    for name, file in Manifest.load(data_dir).files.items():
        if not name.startswith(f"{split}/"):
            continue
        if left < file.documents:
            shard = find_shard(Path(data_dir) / "documents", name)
            return next(islice(read_shard_documents(shard), left, None))
        left -= file.documents
    raise ValueError(f"data.dir={data_dir}: {split} has no document {number}")
