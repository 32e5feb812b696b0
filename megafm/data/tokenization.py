"""action=tokenize: the documents of both splits to token shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from megafm.data.document import SPLITS, Document, read_documents
from megafm.data.indexed import IndexedDataset, IndexedDatasetWriter, token_dtype
from megafm.data.manifest import FILE_NAME, Manifest
from megafm.files import publish, staging
from megafm.tokenizer import Tokenizer

BATCH_BYTES = 4_000_000


def tokenize(data_dir: str, tokenizer: Tokenizer, say: Callable[[str], None] = print) -> Manifest:
    """Write {train,validation}.{bin,idx}: a sequence per document, each closed by <|endoftext|>.

    Documents keep the order that they were shuffled to. Does nothing when the shards are
    of this tokenizer.

    Raises:
        ValueError: no documents.
    """
    manifest = Manifest.load(data_dir)
    if manifest.tokenizer_hash == tokenizer.hash and _complete(data_dir, manifest):
        say(f"{data_dir}: up to date, {_describe(manifest)}")
        return manifest
    with staging(data_dir) as stage:
        tokens = {}
        for name in SPLITS:
            documents = read_documents(data_dir, name)
            size = manifest.splits[name].bytes
            tokens[name] = _write_shard(stage / name, documents, size, tokenizer)
        tokenized = manifest.with_tokens(tokens, tokenizer.hash)
        tokenized.save(stage)
        manifest.without_tokens().save(data_dir)  # nothing vouches for shards that are half new
        publish(stage, data_dir, last=FILE_NAME)
    say(f"{data_dir}: {_describe(tokenized)}")
    return tokenized


def check_tokenizer(data_dir: str, tokenizer: Tokenizer) -> Manifest:
    """The manifest of a data folder whose shards hold this tokenizer's tokens.

    Raises:
        ValueError: there are no shards yet, or they are another tokenizer's.
    """
    manifest = Manifest.load(data_dir)
    remedy = f"run: megafm data action=tokenize data.dir={data_dir} tokenizer.dir=DIR"
    if manifest.tokenizer_hash is None:
        raise ValueError(f"data.dir={data_dir}: documents are not tokenized yet; {remedy}")
    if manifest.tokenizer_hash != tokenizer.hash:
        raise ValueError(
            f"data.dir={data_dir}: its shards were written with tokenizer "
            f"{manifest.tokenizer_hash[:12]}, this one is {tokenizer.hash[:12]}; {remedy}"
        )
    return manifest


def _write_shard(
    prefix: Path, documents: Iterable[Document], num_bytes: int, tokenizer: Tokenizer
) -> int:
    console = Console(stderr=True)
    with (
        Progress(console=console, disable=not console.is_terminal) as progress,
        IndexedDatasetWriter(prefix, token_dtype(tokenizer.vocab_size)) as writer,
    ):
        task = progress.add_task(f"tokenizing {prefix.name}", total=num_bytes)
        for batch in _batches(documents):
            for ids in tokenizer.encode_batch([document.text for document in batch]):
                writer.add_document([*ids, tokenizer.eod_id])
            progress.advance(task, sum(document.num_bytes for document in batch))
    return writer.num_tokens


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


def _complete(data_dir: str, manifest: Manifest) -> bool:
    try:
        shards = {name: IndexedDataset(Path(data_dir) / name) for name in SPLITS}
    except ValueError:
        return False
    return manifest.tokens == {name: shard.num_tokens for name, shard in shards.items()}


def _describe(manifest: Manifest) -> str:
    return ", ".join(
        f"{name} {tokens:,} tokens ({manifest.splits[name].bytes / max(tokens, 1):.2f} bytes/token)"
        for name, tokens in manifest.tokens.items()
    )
