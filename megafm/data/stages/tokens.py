"""Token shards, a unit per shard of documents; `indexed.merge` makes one of a split."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from megafm.data.document import Document, read_shard_documents
from megafm.data.indexed import IndexedDatasetWriter, token_dtype
from megafm.data.lines import find_shard
from megafm.data.manifest import Manifest
from megafm.data.stages.stage import Stage, Unit, digest
from megafm.tokenizer import Tokenizer
from megafm.tokenizer.giga import Gigatoken

BATCH_BYTES = 4_000_000


@dataclass(frozen=True)
class Tokenize(Stage):
    """tokens.bin and tokens.idx: a sequence per document, each closed by <|endoftext|>.

    The encoder changes no byte of them, so it is no part of the rule.
    """

    data_dir: str
    tokenizer_dir: str
    tokenizer_hash: str
    encoder: str = "tokenizers"
    kind: ClassVar[str] = "tokenize"

    @property
    def rule(self) -> str:
        return f"tokenize/1 {self.tokenizer_hash}"

    def names(self) -> list[str]:
        return [shard_unit(shard) for shard in Manifest.load(self.data_dir).files]

    def units(self) -> list[Unit]:
        files = Manifest.load(self.data_dir).files
        return [
            Unit(shard_unit(shard), digest(self.rule, file.sha256)) for shard, file in files.items()
        ]

    def work(self, unit: str, out: Path) -> Counter[str]:
        tokenizer, encoder = load(self.tokenizer_dir, self.tokenizer_hash, self.encoder)
        shard = find_shard(Path(self.data_dir) / "documents", unit_shard(unit))
        num_documents = 0
        with IndexedDatasetWriter(out / "tokens", token_dtype(tokenizer.vocab_size)) as writer:
            for batch in _batches(read_shard_documents(shard)):
                num_documents += len(batch)
                for ids in encoder.encode_batch([document.text for document in batch]):
                    writer.add_document([*ids, tokenizer.eod_id])
        promised = Manifest.load(self.data_dir).files[unit_shard(unit)].documents
        if num_documents != promised:
            raise ValueError(
                f"{shard}: {num_documents} documents, {promised} in the manifest; "
                f"run: megafm data data.dir={self.data_dir}"
            )
        return Counter({"tokens": writer.num_tokens})


def shard_unit(shard: str) -> str:
    """The unit of a shard of documents: train-00000 of train/00000."""
    return shard.replace("/", "-")


def unit_shard(unit: str) -> str:
    """And back."""
    return unit.replace("-", "/")


@functools.lru_cache(maxsize=1)
def load(
    tokenizer_dir: str, tokenizer_hash: str, encoder: str
) -> tuple[Tokenizer, Tokenizer | Gigatoken]:
    """The tokenizer and what encodes for it, once a process."""
    tokenizer = Tokenizer.load(tokenizer_dir)
    return tokenizer, Gigatoken(tokenizer) if encoder == "gigatoken" else tokenizer


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Runs of documents of a few megabytes: encodings take far more memory than ids."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += document.num_bytes
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
